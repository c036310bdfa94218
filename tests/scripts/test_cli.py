"""The scripts as a user starts them: help, one line for each mistake, and recorded models answering through a real server."""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.model.loading import fingerprint
from runtime.model.placement import DTYPES
from scripts import __main__ as command
from scripts._cli import Dtype
from scripts._verifier import verifier_process
from tests.support.recorded import PHONE, Recorded, foreign_copy, recorded, trained
from traces import bundled
from traces.synera.graph import GraphSet

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
NAMES = sorted(p.stem for p in SCRIPTS.glob("[!_]*.py"))


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    returncode: object
    stdout: str
    stderr: str


def script(name: str, *arguments: object, cwd: Path) -> Done:
    """Run a command in this process, which has loaded what takes long, and in a folder of its own."""
    code: object = 0
    words, before = ["synera", name.replace("_", "-"), *map(str, arguments)], sys.argv
    with chdir(cwd), redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as errors:
        sys.argv = words
        try:
            command.main()
        except SystemExit as left:
            code = left.code
        finally:
            sys.argv = before
    return Done(code, out.getvalue(), errors.getvalue())


def mistake(done: Done) -> str:
    """The one line that a user's mistake must give."""
    assert done.returncode == 2, done
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.fixture(scope="module")
def bundle(tiny_llm: Path) -> Path:
    return trained(tiny_llm) / "bundle"


@pytest.fixture(scope="module")
def files(pair: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the graphs and a profile."""
    folder = tmp_path_factory.mktemp("files")
    pair.graphs.save(folder / "graphs.safetensors")
    PHONE.save(folder / "phone.json")
    return folder


@pytest.fixture(scope="module")
def verifier(tiny_llm: Path) -> Iterator[str]:
    with verifier_process(model=tiny_llm, pace=None) as process:
        yield process.target


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_an_example(name: str, tmp_path: Path) -> None:
    """As a file, from a folder of its own: nothing may depend on the current one."""
    line = [sys.executable, str(SCRIPTS / f"{name}.py"), "--help"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"synera {name.replace('_', '-')}" in done.stdout
    assert "Examples:" in done.stdout
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize("name", ["record", "deploy"])
def test_a_missing_model_folder(name: str, tmp_path: Path, bundle: Path) -> None:
    more = ["--controller", bundle] if name == "deploy" else []
    assert str(tmp_path / "none") in mistake(script(name, "--slm", tmp_path / "none", *more, cwd=tmp_path))


def test_the_types_that_scripts_offer_are_those_that_models_run_in() -> None:
    assert get_args(Dtype) == DTYPES


@pytest.mark.parametrize("name", ["record", "measure_profiles", "train_pair", "train_adapter", "deploy", "serve"])
def test_a_device_that_is_not_there(name: str, tmp_path: Path) -> None:
    wanted = "is not one of auto, cpu, cuda, cuda:N"
    assert f"device='gpu' {wanted}" in mistake(script(name, "--device", "gpu", cwd=tmp_path))
    assert not list(tmp_path.iterdir())


def test_missing_graphs_name_the_command_that_records_them(tmp_path: Path) -> None:
    line = mistake(script("train", "--graphs", tmp_path, cwd=tmp_path))
    assert f"no graph file at {tmp_path / 'train.safetensors'}" in line
    assert "synera record" in line
    assert not list(tmp_path.iterdir())


def test_damaged_graphs(tmp_path: Path, files: Path) -> None:
    whole = (files / "graphs.safetensors").read_bytes()
    damaged = tmp_path / "graphs.safetensors"
    damaged.write_bytes(whole[: len(whole) // 2])
    assert f"{damaged} is damaged" in mistake(script("evaluate", "--graphs", damaged, cwd=tmp_path))


def test_a_bundle_of_another_schema(tmp_path: Path, files: Path, bundle: Path) -> None:
    old = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    stated = json.loads((old / "bundle.json").read_text())
    (old / "bundle.json").write_text(json.dumps(stated | {"schema_hash": "0123456789abcdef"}))
    line = mistake(script("evaluate", "--graphs", files / "graphs.safetensors", "--bundle", old, "--answers", 6, cwd=tmp_path))
    assert "0123456789abcdef" in line
    assert stated["schema_hash"] in line


def test_models_with_different_tokenizers(tmp_path: Path, tiny_slm: Path, tiny_llm: Path) -> None:
    foreign = foreign_copy(tiny_llm, tmp_path / "foreign")
    line = mistake(script("record", "--slm", tiny_slm, "--llm", foreign, "--out", tmp_path / "out", cwd=tmp_path))
    assert "tokenizers of" in line
    assert not (tmp_path / "out").exists()


def deploy(files: Path, slm: Path, bundle: Path, cloud: str, *more: object, cwd: Path) -> Done:
    """Deploy without pace or emulated link."""
    quick = ("--unpaced", "--no-emulate-link", "--profile", files / "phone.json")
    return script("deploy", "--slm", slm, "--controller", bundle, "--cloud", cloud, *quick, *more, cwd=cwd)


def test_an_absent_cloud_costs_no_answer(tmp_path: Path, files: Path, pair: Recorded, bundle: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{nobody.getsockname()[1]}"
        done = deploy(files, pair.slm, bundle, target, "--prompt", "fits", cwd=tmp_path)
    assert not done.returncode
    assert f"no verifier answers at {target}: the device answers alone until one does" in done.stdout
    assert "answer: " in done.stdout


def test_a_cloud_with_a_foreign_tokenizer(tmp_path: Path, files: Path, pair: Recorded, bundle: Path) -> None:
    foreign = foreign_copy(pair.llm, tmp_path / "foreign")
    with running_server(ServerConfig(model=foreign)) as port:
        line = mistake(deploy(files, pair.slm, bundle, f"127.0.0.1:{port}", "--prompt", "fits", cwd=tmp_path))
    assert "serve an LLM that shares the SLM's tokenizer" in line


def test_a_prompt_that_is_too_long(tmp_path: Path, files: Path, pair: Recorded, bundle: Path, verifier: str) -> None:
    line = mistake(deploy(files, pair.slm, bundle, verifier, "--prompt", "river " * 400, cwd=tmp_path))
    assert "must have between 1 and 255" in line


def test_a_bundle_of_another_slm(tmp_path: Path, files: Path, tiny_slm: Path, bundle: Path) -> None:
    line = mistake(deploy(files, tiny_slm, bundle, "127.0.0.1:1", cwd=tmp_path))
    assert "was trained with the slm" in line
    assert fingerprint(tiny_slm) in line


# ---------------------------------------------------------------- the whole way


def test_recorded_with_the_script(tmp_path: Path, tiny_slm: Path, tiny_llm: Path, pair: Recorded) -> None:
    (tmp_path / "prompts.txt").write_text("\n\n".join(pair.graphs.meta.prompts[:3]) + "\n")
    models = ("--slm", tiny_slm, "--llm", tiny_llm)
    done = script(
        "record", *models, "--prompts", "prompts.txt", "--max-new-tokens", 4, "--out", "out", "--threads", 1, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "next: synera train --name own --graphs out" in done.stdout
    assert "both models in float32 on" in done.stdout
    recorded = {p.stem: GraphSet.load(p) for p in (tmp_path / "out").iterdir()}
    assert set(recorded) == {"train", "validation", "test"}  # what train.py and evaluate.py ask for
    assert sorted(p for g in recorded.values() for p in g.meta.prompts) == sorted(pair.graphs.meta.prompts[:3])
    for graphs in recorded.values():
        assert graphs.meta.coverage["closed"] == 1.0
        assert all(1.0 in graph.score for graph in graphs)  # the LLM's own answer is in each, and is right
        assert all((graph.score[graph.score == graph.score] >= 0).all() and np.nanmax(graph.score) <= 1 for graph in graphs)


def test_a_bundle_answers_through_a_served_model(
    tmp_path: Path, files: Path, pair: Recorded, bundle: Path, verifier: str
) -> None:
    prompts = pair.graphs.meta.prompts[:2]
    done = deploy(files, pair.slm, bundle, verifier, "--prompt", *prompts, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for prompt in prompts:
        assert prompt[:20] in done.stdout
    assert done.stdout.count("answer: ") == 2
    assert done.stdout.count("chunks offloaded") == 2
    assert "the cloud was lost" not in done.stdout
    assert "next: synera evaluate" in done.stdout


@pytest.mark.skipif(
    not bundled.graphs("train").is_file(), reason="the bundled graphs are not there; a rule's default lens looks at them"
)
def test_a_rule_answers_for_a_users_own_slm(tmp_path: Path, files: Path, tiny_slm: Path, verifier: str) -> None:
    quick = ("--unpaced", "--no-emulate-link", "--profile", files / "phone.json", "--max-new-tokens", 6)
    done = script(
        "deploy", "--slm", tiny_slm, "--controller", "always", "--cloud", verifier, *quick, "--prompt", "fits", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "answer: " in done.stdout
