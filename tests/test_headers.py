"""The header of a module says where else to look: what it names must be there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("traces", "runtime", "cloud", "synera_env", "agents", "scripts")
MODULES = sorted(p.relative_to(ROOT) for room in ROOMS for p in (ROOT / room).rglob("*.py") if "_pb2" not in p.name)
_NAMED = re.compile(r"[\w./]*\w\.(?:py|proto)\b|\b(?:" + "|".join(ROOMS) + r")/[\w/]*")


def unknown(module: Path, docstring: str) -> list[str]:
    """Files and folders that a module's docstring names and that are neither beside it nor below the root."""
    named = {found.group().rstrip("/") for found in _NAMED.finditer(docstring)}
    return sorted(name for name in named if not (ROOT / module.parent / name).exists() and not (ROOT / name).exists())


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_s_header_names_what_is_there(module: Path) -> None:
    assert unknown(module, ast.get_docstring(ast.parse((ROOT / module).read_text())) or "") == []


_REFERENCE = re.compile(r":(?:class|func|data|meth):`((?:" + "|".join(ROOMS) + r")\.[\w.]+)`")


def dangling(source: str) -> list[str]:
    """Cross references `room.module.Name` in a source whose module has no such name."""
    found = []
    for reference in _REFERENCE.findall(source):
        parts = reference.split(".")
        files = [ROOT.joinpath(*parts[:n]).with_suffix(".py") for n in range(len(parts), 0, -1)]
        files += [ROOT.joinpath(*parts[:n], "__init__.py") for n in range(len(parts), 0, -1)]
        module = next((f for f in files if f.is_file()), None)
        if module is None or not re.search(rf"\b{parts[-1]}\b", module.read_text()):
            found.append(reference)
    return found


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_s_cross_references_lead_somewhere(module: Path) -> None:
    assert dangling((ROOT / module).read_text()) == []


def test_the_check_itself() -> None:
    assert dangling("see :class:`runtime.session.Stepper`, :class:`runtime.session.Drafter`, :func:`agents.gone.f`") == [
        "runtime.session.Drafter",
        "agents.gone.f",
    ]
    here = Path("synera_env/synera/env.py")
    assert unknown(here, "See schema.py, base.py, synera_env/base.py and agents/; not spaces.py or runtime/session/") == [
        "base.py",
        "runtime/session",
        "spaces.py",
    ]
