"""Who may import whom: the rooms' table, read from the source, and what `import synera_env` may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("traces", "runtime", "cloud", "synera_env", "agents", "scripts")
ALLOWED: dict[str, set[str]] = {
    "traces": set(),
    "runtime": set(),
    "cloud": {"runtime"},
    "synera_env": {"traces", "runtime"},
    "agents": {"synera_env"},
    "scripts": set(ROOMS),
}
MODEL_RUNNERS = ("record", "pair", "growing", "inversion", "recovery", "train_", "adapter_", "medusa_")
"""Beginnings of the names of those modules and folders of traces/ that run models, and so may import the runtime."""
SHARED = ("runtime.errors", "runtime.settings", "runtime.scheduling", "runtime.policies", "runtime.hat.rules")
"""What every room may import: the errors that a user reads, the checks of what a user gives, who goes first in a shared cloud, and HAT's
pure rules."""


def allowed_rooms(path: Path) -> set[str]:
    """Rooms that a module, given relative to the root, may import."""
    room = path.parts[0]
    runs_models = room == "traces" and any(part.startswith(MODEL_RUNNERS) for part in path.parts[1:])
    extra = {"runtime"} if runs_models else set()
    return ALLOWED[room] | extra | {room}


def imported_rooms(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and room of each import, wherever in the module it stands."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        rooms = (name.split(".")[0] for name in names if name not in SHARED)
        yield from ((node.lineno, room) for room in rooms if room in (*ROOMS, "tests"))


def violations(path: Path, source: str) -> list[str]:
    """Imports of a module that the table forbids."""
    found = imported_rooms(ast.parse(source))
    return [f"{path}:{line} imports {room}" for line, room in found if room not in allowed_rooms(path)]


@pytest.mark.parametrize("room", ROOMS)
def test_imports_keep_to_the_rooms(room: str) -> None:
    modules = sorted((ROOT / room).rglob("*.py"))
    if not any(module.read_text().strip() for module in modules):
        pytest.skip(f"{room}/ is still empty")
    found = [v for module in modules for v in violations(module.relative_to(ROOT), module.read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source", "forbidden"),
    [
        ("runtime/a.py", "import cloud.server", True),
        ("runtime/a.py", "def f():\n    from agents import rules", True),
        ("runtime/a.py", "from runtime.model.kv import SequenceKV", False),
        ("traces/synera/graph.py", "from runtime.synera.lens import Lens", True),
        ("traces/synera/record.py", "from runtime.synera.lens import Lens", False),
        ("traces/synera/growing.py", "from runtime.synera.lens import Lens", False),
        ("traces/pair/card.py", "import runtime.session", False),
        ("traces/hat/inversion.py", "from runtime.model.decoder import Decoder", False),
        ("traces/hat/texts.py", "from runtime.model.decoder import Decoder", True),
        ("traces/hat/train_adapter.py", "from runtime.hat.adapter import Adapter", False),
        ("traces/hat/training.py", "from runtime.hat.adapter import Adapter", True),
        ("traces/hat/adapter_texts.py", "from runtime.model.decoder import Decoder", False),
        ("traces/hat/graph.py", "from runtime.hat.adapter import Adapter", True),
        ("traces/errors.py", "from runtime.errors import SyneraError", False),
        ("traces/profile.py", "from runtime import session", True),
        ("traces/record_link.py", "import runtime, agents", True),
        ("cloud/engine/base.py", "from runtime import kv", False),
        ("cloud/engine/base.py", "import traces.synera.graph as graph", True),
        ("synera_env/env.py", "from traces import graph\nfrom runtime import session", False),
        ("synera_env/env.py", "if TYPE_CHECKING:\n    from agents.base import Controller", True),
        ("agents/rules.py", "import synera_env.synera.schema", False),
        ("scripts/train.py", "import agents, cloud, runtime, synera_env, traces", False),
        ("scripts/train.py", "import tests.conftest", True),
    ],
)
def test_the_check_itself(path: str, source: str, forbidden: bool) -> None:
    assert bool(violations(Path(path), source)) == forbidden


def _loaded_by(statement: str, names: tuple[str, ...]) -> str:
    code = f"import sys\n{statement}\nprint(*[n for n in {names!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.strip()


def test_importing_the_environments_loads_neither_torch_nor_grpc() -> None:
    if not (ROOT / "synera_env" / "__init__.py").is_file():
        pytest.skip("synera_env/ is still empty")
    assert _loaded_by("import synera_env", ("torch", "grpc", "transformers")) == ""


def test_the_session_needs_no_models() -> None:
    """What the replay shares with the device must stay light."""
    modules = "runtime.synera.session, runtime.synera.knobs, runtime.clock, runtime.model.exits, runtime.synera.lens, traces.tasks.tinyworld, traces.synera.graph"
    assert _loaded_by(f"import {modules}", ("torch", "grpc", "transformers")) == ""
