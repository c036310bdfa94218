"""The `synera` command: each script of this folder is a sub-command, and is imported only when it is asked for.

What does not live here: what a command does and how its arguments are read (the scripts, _cli.py).
"""

from __future__ import annotations

import ast
import difflib
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from runtime.errors import SettingError
from runtime.settings import shown
from scripts._ending import ending


def commands() -> dict[str, Path]:
    """Return the scripts by their command's name: the modules of this folder that do not begin with `_`."""
    scripts = sorted(Path(__file__).parent.glob("[!_]*.py"))
    return {script.stem.replace("_", "-"): script for script in scripts}


def main() -> None:
    """Run the sub-command that the command line names, or list them all."""
    with ending():
        name, *rest = sys.argv[1:] or ["--help"]
        known = commands()
        if name in ("-h", "--help"):
            print(_help(known))
            return
        if name in ("-V", "--version"):
            print(f"synera {version('synera-env')}")
            return
        if name not in known:
            close = difflib.get_close_matches(name.replace("_", "-"), known, n=1)
            meant = f" (did you mean {close[0]}?)" if close else ""
            raise SettingError(f"there is no command {shown(name)}{meant}; the commands are {', '.join(known)}")
        from scripts._cli import launch

        sys.argv = [f"synera {name}", *rest]
        script = import_module(f"scripts.{known[name].stem}")
        launch(script.Arguments, script.main, script.__doc__)


def _help(known: dict[str, Path]) -> str:
    width = max(map(len, known))
    lines = [f"  {name:<{width}}  {_first_line(script)}" for name, script in known.items()]
    return "\n".join(
        [
            "usage: synera COMMAND [OPTIONS]",
            "",
            *lines,
            "",
            "synera COMMAND --help shows the options of a command, with examples; synera --version what is installed.",
        ]
    )


def _first_line(script: Path) -> str:
    """Read what a script says of itself from its source, as importing it may load torch."""
    return (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
