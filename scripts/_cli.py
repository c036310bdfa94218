"""What every script shares: argument parsing, the console, the progress bar, the line that says what comes next.

What does not live here: how a command ends (_ending.py).
"""

from __future__ import annotations

import io
import logging
import os
import re
import shlex
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from runtime.errors import SettingError
from runtime.settings import shown, within
from scripts._ending import ending
from scripts._text import harmless
from traces.errors import TraceError

Dtype = Literal["float32", "bfloat16", "float16"]
"""Arithmetic types of models, as arguments; :data:`runtime.model.placement.DTYPES`."""
Arguments = TypeVar("Arguments")
_LARGEST_SEED = 2**32 - 1
"""What every generator that a seed is handed to takes."""


_LONGEST_NAME = 255
"""Bytes in the name of a file, on the file systems that are in use."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave the end to :func:`scripts._ending.ending`."""
        raise


_terminal = sys.stdout is not None and sys.stdout.isatty()
# Text is shown as it is, as prompts, answers and names may look like markup; colour is asked for by a style.
# Where output is not a terminal there is no width to respect; tables of results need about this much.
console = _Console(soft_wrap=True, highlight=False, markup=False, emoji=False, width=None if _terminal else 150)


def launch(arguments: type[Arguments], main: Callable[[Arguments], None], description: str | None) -> None:
    """Parse the command line into `arguments` and run `main`; end as :func:`scripts._ending.ending` says."""
    prepare()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # an answer may hold what the terminal's encoding lacks
    with ending():
        main(_parsed(arguments, description))


def prepare() -> None:
    """Let warnings of this process be a line each, and libraries silent about what is no user's business."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.showwarning = _warn
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)


def progress() -> Progress:
    """Return a progress bar with count, elapsed and remaining time."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)


def check_seed(seed: int) -> None:
    """Refuse a `--seed` that no generator takes.

    Raises:
        SettingError: it is negative, or above 2^32 - 1.
    """
    within("seed", seed, 0, _LARGEST_SEED)


def check_output(path: Path, *, folder: bool = False) -> None:
    """Refuse a place that results cannot be written to before there are any; nothing is made.

    Raises:
        TraceError: something else is there, or the system refuses it.
    """
    kind, wanted = ("a folder", stat.S_ISDIR) if folder else ("a regular file", stat.S_ISREG)
    try:
        target = Path(os.path.realpath(path))
        if os.path.lexists(target):
            refused = "" if wanted(os.stat(target).st_mode) else f"it is there and is not {kind}"
            below = target if folder else target.parent
        else:
            below = next(each for each in target.parents if os.path.lexists(each))
            too_long = any(len(os.fsencode(part)) > _LONGEST_NAME for part in target.parts)
            refused = "its name is too long" if too_long else ""
        if not refused:
            tempfile.TemporaryFile(dir=below).close()  # a file without a name: nobody sees it
    except OSError as error:
        refused = error.strerror or str(error)
    if refused:
        raise TraceError(f"cannot write to {shown(str(path), 200)}: {refused}; name another path")


def next_step(command: str, **arguments: Any) -> str:
    """Return the line that a user types next: `synera COMMAND`, with those arguments that are not the command's defaults.

    Args:
        command: as it is typed, such as `measure-profiles`.
        arguments: by the names of the fields of that script's `Arguments`; values as the script would hold them.

    Raises:
        ValueError: the command has no such argument.
    """
    script = import_module(f"scripts.{command.replace('-', '_')}")
    words = ["synera", command]
    for name, value in arguments.items():
        field = next((each for each in fields(script.Arguments) if each.name == name), None)
        if field is None:
            raise ValueError(f"synera {command} has no argument {name!r}")
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        words += _words(name, value, default)
    return harmless(shlex.join(words))


def say(word: str, *lines: str) -> None:
    """Print what can be typed or looked at: `word: line`, and further lines below the first."""
    for first, line in zip_longest([f"{word}:"], lines, fillvalue=" " * (len(word) + 1)):
        console.print(f"{first} {harmless(line)}")


def _words(name: str, value: Any, default: Any) -> Iterator[str]:
    """The words that set an argument, its parts included; none for what the default says."""
    if value == default:
        return
    option = name.replace("_", "-")
    if is_dataclass(value):
        for part in fields(value):
            yield from _words(f"{name}.{part.name}", getattr(value, part.name), getattr(default, part.name, None))
    elif isinstance(value, bool):
        yield f"--{option}" if value else f"--no-{option}"
    elif isinstance(value, tuple | list):
        yield from (f"--{option}", *map(str, value))
    else:
        yield from (f"--{option}", str(value))


def _warn(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """Show a warning as one line, without where in the code it comes from and without a library's colours."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(message))
    print(f"warning: {harmless(' '.join(text.split()))}", file=sys.stderr)


def _parsed(arguments: type[Arguments], description: str | None) -> Arguments:
    """Read the command line; what is wrong with it is said without anything in it that acts on a terminal.

    Raises:
        SettingError: an argument is outside its range.
        SystemExit: help was shown, or the line cannot be read.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(arguments, description=description)
    except SystemExit as left:
        if (wrong := _cause(left)) is not None:
            said = io.StringIO()
            raise wrong from None
        raise
    finally:
        sys.stderr.write(harmless(said.getvalue()))


def _cause(left: BaseException) -> SettingError | None:
    """The refused setting that made the parser give up, if one did."""
    behind = left.__context__
    while behind is not None and not isinstance(behind, SettingError):
        behind = behind.__context__
    return behind
