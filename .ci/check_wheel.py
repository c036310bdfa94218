"""Check a built wheel: it holds every module and bundled file, and works in a fresh environment outside the checkout.

Usage: check_wheel.py WHEEL
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("agents", "cloud", "runtime", "scripts", "synera_env", "traces")
VERIFIER = """
from runtime.client import CloudClient
from scripts._verifier import verifier_process
from traces import bundled
with verifier_process(model=bundled.PAIR / "llm", pace=None) as verifier, CloudClient(verifier.target) as client:
    print(client.model_info().context_tokens, "tokens of context")
"""
"""The bundled LLM is served by a process of its own, and answers."""


def main() -> None:
    """Run every check on the wheel that the command line names; the first that fails ends with a message."""
    wheel = Path(sys.argv[1]).resolve()
    began = time.monotonic()
    check_contents(wheel)
    with tempfile.TemporaryDirectory(prefix="check-wheel-") as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        python = folder / "venv" / "bin" / "python"
        pip = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--constraint", ROOT / "constraints.txt", wheel]
        subprocess.run(pip, check=True)
        installed = time.monotonic()
        check_use(folder / "venv")
    size = wheel.stat().st_size / 1e6
    print(
        f"{wheel.name}: {size:.1f} MB, works; installed in {installed - began:.0f} s, {time.monotonic() - began:.0f} s in all"
    )


def check_contents(wheel: Path) -> None:
    """Hold the wheel against the checkout: every module and data file, and nothing else."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *ROOMS]
    lines = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    expected = {line for line in lines if (ROOT / line).is_file() and is_shipped(line)}
    with zipfile.ZipFile(wheel) as opened:
        held = {name for name in opened.namelist() if ".dist-info/" not in name}
    if missing := sorted(expected - held):
        sys.exit(f"{wheel.name} lacks {missing}: a folder without __init__.py, or a pattern that package-data lacks?")
    if extra := sorted(held - expected):
        sys.exit(f"{wheel.name} holds {extra}, which the checkout does not have or does not ship")


def is_shipped(path: str) -> bool:
    """Modules, the wire contract, what is bundled, the agents' settings, the form of sketches, the files of operations and the report's page; not the pictures of the README."""
    return path.endswith((".py", ".pyi", ".proto")) or path.startswith(
        ("traces/bundled/", "agents/tuned/", "cloud/operations/", "scripts/templates/", "runtime/pice/instruct.yaml")
    )


def check_use(venv: Path) -> None:
    """Use what is installed, from an empty folder: it must come from the environment and write only below that folder."""
    site = next((venv / "lib").glob("python*/site-packages"))
    work = venv.parent / "work"
    work.mkdir()
    before = files(site)
    python, synera = venv / "bin" / "python", venv / "bin" / "synera"
    for room in ROOMS:
        found = run(work, python, "-c", f"import {room}; print({room}.__file__)").strip()
        if not Path(found).is_relative_to(site):
            sys.exit(f"{room} was imported from {found}, not from {site}")
    for name in ("evaluate", "measure-profiles", "train-pair"):
        if name not in run(work, synera, "--help"):
            sys.exit(f"synera --help does not list {name}")
    print(run(work, synera, "evaluate", "--answers", "8"))
    run(work, python, "-c", VERIFIER)
    if written := files(site) - before:
        sys.exit(f"using the wheel wrote {sorted(map(str, written))} into the environment")
    if [path.name for path in work.iterdir()] != ["runs"]:
        sys.exit(f"using the wheel wrote {[path.name for path in work.iterdir()]}, not runs/ alone, into the current folder")


def files(folder: Path) -> set[Path]:
    """Every file of a folder but compiled code, which Python and numba keep beside its source."""
    return {path for path in folder.rglob("*") if path.parent.name != "__pycache__" and path.is_file()}


def run(folder: Path, *command: str | Path) -> str:
    """Run a command in a folder, the checkout nowhere in its environment, and return what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
