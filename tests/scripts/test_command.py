"""The `synera` command: what it lists, what it runs, what it loads."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

from scripts import __main__ as command

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "bench",
    "check-link",
    "demo",
    "deploy",
    "evaluate",
    "inspect-run",
    "inspect-trace",
    "loadtest",
    "make-certs",
    "measure-profiles",
    "privacy",
    "record",
    "reproduce",
    "serve",
    "sweep",
    "train",
    "train-adapter",
    "train-pair",
    "validate-load",
    "validate-replay",
)
"""The commands that README and hints rely on."""
HEAVY = ("torch", "transformers", "grpc", "gymnasium", "onnxruntime", "stable_baselines3", "matplotlib", "tyro")


def synera(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does; in the checkout, so that its modules are the checkout's."""
    line = [sys.executable, "-m", "scripts", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_the_list_shows_each_command_with_its_scripts_first_line(arguments: tuple[str, ...]) -> None:
    done = synera(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    listed = dict(re.findall(r"^  (\S+)  +(\S.*)$", done.stdout, re.MULTILINE))
    assert set(NAMES) <= set(listed)
    assert list(listed) == sorted(listed)
    for name, line in listed.items():
        source = (ROOT / "scripts" / f"{name.replace('-', '_')}.py").read_text()
        assert line == (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]


def test_every_script_is_a_command_and_what_they_share_is_not() -> None:
    files = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    assert {name.replace("-", "_") for name in command.commands()} == {stem for stem in files if not stem.startswith("_")}
    assert {"_cli", "_ending", "_verifier", "__main__", "__init__"} <= files


@pytest.mark.parametrize("name", list(command.commands()))
def test_a_command_shows_its_scripts_own_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["synera", name, "--help"])
    with pytest.raises(SystemExit) as left:
        command.main()
    said = capsys.readouterr()
    assert (left.value.code, said.err) == (0, "")
    assert f"usage: synera {name} " in said.out
    assert "Examples:" in said.out
    assert f"    synera {name}" in said.out


@pytest.mark.parametrize("wrong", ["trian", "measure_profiles", "_cli", "benchmarks", "", "[bold]", "\x1b[31mtrain"])
def test_a_command_that_is_not_there_is_one_line_with_those_that_are(wrong: str) -> None:
    done = synera(wrong, "--help")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: there is no command {wrong!r}")
    assert "; the commands are bench, " in done.stderr
    assert done.stderr.count("\n") == 1
    for name in NAMES:
        assert name in done.stderr


@pytest.mark.parametrize(
    ("wrong", "meant"), [("trian", "train"), ("measure_profiles", "measure-profiles"), ("deplyo", "deploy")]
)
def test_a_command_that_is_nearly_right_is_guessed(wrong: str, meant: str) -> None:
    assert f" (did you mean {meant}?); " in synera(wrong).stderr


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_is_that_of_the_package(option: str) -> None:
    done = synera(option)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"synera {version('synera-env')}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["evaluate", "--answers", "2"]])
def test_an_output_that_nobody_reads_ends_it_quietly(arguments: list[str], tmp_path: Path) -> None:
    """As `synera ... | head` does once head has read enough."""
    nobody, output = os.pipe()
    os.close(nobody)
    line = [sys.executable, "-m", "scripts", *arguments]
    done = subprocess.run(
        line,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        timeout=200,
    )
    os.close(output)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_list_loads_nothing_heavy() -> None:
    code = f"""if True:
        import sys
        from scripts.__main__ import main
        sys.argv = ["synera", "--help"]
        main()
        print("loaded:", *[name for name in {HEAVY!r} if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_a_command_runs_its_script_with_its_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    script = import_module("scripts.bench")
    ran = []
    monkeypatch.setattr(script, "main", ran.append)
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/synera", "bench", "cloud", "--threads", "3"])
    command.main()
    assert [(each.area, each.threads) for each in ran] == [("cloud", 3)]
    assert sys.argv[0] == "synera bench"  # what a run's record names


def test_a_commands_mistake_is_its_scripts_own(tmp_path: Path) -> None:
    done = synera("evaluate", "--graphs", str(tmp_path / "none.safetensors"), "--picture", str(tmp_path / "p.png"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: no graph file at {tmp_path / 'none.safetensors'}; record one with: synera record\n"


def test_the_package_installs_the_command() -> None:
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())
    module, function = stated["project"]["scripts"]["synera"].split(":")
    assert getattr(import_module(module), function) is command.main


HINT = re.compile(r"synera (?!env\b)([a-z][a-z-]*)")
IN_CHECKOUT_ONLY = re.compile(r"python3? scripts/|scripts/\w+\.py")


def said(path: Path) -> list[str]:
    """The strings of a module that a user may read: all but the docstrings of modules that are no script."""
    tree = ast.parse(path.read_text())
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    documented = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
    docstrings = [] if path.parent == ROOT / "scripts" else [ast.get_docstring(n, clean=False) for n in documented]
    return [string for string in strings if string not in docstrings]


ROOMS = ("agents", "cloud", "runtime", "scripts", "synera_env", "traces")


@pytest.mark.parametrize("room", ROOMS)
def test_hints_name_commands_that_are_there(room: str) -> None:
    """And no path of the checkout, as an installed package has none."""
    for path in (ROOT / room).rglob("*.py"):
        for string in said(path):
            assert not IN_CHECKOUT_ONLY.search(string), f"{path}: {string}"
            for name in HINT.findall(string):
                assert name in command.commands(), f"{path}: {string}"
