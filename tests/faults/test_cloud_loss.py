"""What happens to an answer when its cloud goes away, comes back, or was never there."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path

import pytest

from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.synera.verifier import CloudVerifier
from tests.support.engine import greedy
from tests.support.process import ALWAYS, ROOT, command, device, served, why_not_served
from tests.support.verifying import NOBODY, SkippingClock, agreed

PROMPT = [1, 60, 61, 62, 63]


@pytest.fixture(scope="module")
def truth(tiny_llm: Path) -> list[int]:
    return greedy(tiny_llm, PROMPT, 40)


def test_a_cloud_killed_mid_answer_costs_quality_never_the_answer(tiny_llm: Path, truth: list[int]) -> None:
    with (
        served(tiny_llm) as cloud,
        CloudClient(cloud.target) as client,
        CloudVerifier(client, agreed(client)) as verifier,
    ):
        session = device(verifier, truth)
        session.begin(PROMPT, ALWAYS)
        for _ in range(3):
            assert session.advance(ALWAYS).record.error is None
        checked = len(session.answer)
        assert list(session.answer) == truth[:checked]
        cloud.process.send_signal(signal.SIGKILL)
        cloud.process.wait()
        while not (step := session.advance(ALWAYS)).done:
            assert step.record.offloaded
            assert step.record.verdict is None
            assert step.record.error is not None
            assert f"no verifier answers at {cloud.target}" in step.record.error
        session.close()
    assert len(session.answer) == len(truth)
    assert session.answer[checked:] == tuple(t for r in session.records[3:] for t in r.draft.ids)  # its own drafts


def test_a_cloud_that_comes_back_heals_the_answer(tiny_llm: Path, truth: list[int]) -> None:
    clock = SkippingClock()
    with running_server(ServerConfig(model=tiny_llm, grace_seconds=0)) as port:
        client = CloudClient(f"127.0.0.1:{port}")
        verifier = CloudVerifier(client, agreed(client), clock=clock)
        session = device(verifier, truth)
        session.begin(PROMPT, ALWAYS)
        assert session.advance(ALWAYS).record.error is None
    assert session.advance(ALWAYS).record.error is not None
    with running_server(ServerConfig(model=tiny_llm, port=port)):
        assert "next try in" in str(session.advance(ALWAYS).record.error)  # it does not even ask
        clock.skipped += 1.0
        assert "it is being tried again" in str(session.advance(ALWAYS).record.error)  # in the background: nobody waits for it
        verifier._worker.submit(lambda: None).result()
        kept = [*PROMPT, *session.answer]
        healed = session.advance(ALWAYS).record
        assert healed.error is None
        assert healed.verdict is not None
        assert list(healed.committed) == greedy(tiny_llm, kept, len(healed.committed))
        assert healed.verdict.cloud_tokens == len(kept) + len(healed.draft.ids)  # everything was sent again
        follows = session.advance(ALWAYS).record
        assert follows.verdict is not None
        assert follows.verdict.cloud_tokens == 1 + len(follows.draft.ids)  # and only once
        verifier.retire().result()
        client.close()


def test_a_cloud_restarted_between_two_checks_is_not_even_noticed(tiny_llm: Path, truth: list[int]) -> None:
    with running_server(ServerConfig(model=tiny_llm, grace_seconds=0)) as port:
        client = CloudClient(f"127.0.0.1:{port}")
        verifier = CloudVerifier(client, agreed(client))
        session = device(verifier, truth)
        session.begin(PROMPT, ALWAYS)
        session.advance(ALWAYS)
    with running_server(ServerConfig(model=tiny_llm, port=port)):
        while not session.advance(ALWAYS).done:
            pass
        verifier.retire().result()
        client.close()
    assert [record.error for record in session.records] == [None] * len(session.records)
    assert list(session.answer) == truth


def test_without_any_cloud_the_device_answers_alone(truth: list[int]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with CloudClient(f"127.0.0.1:{nobody.getsockname()[1]}") as client, CloudVerifier(client, NOBODY) as verifier:
            session = device(verifier, truth)
            assert session.begin(PROMPT, ALWAYS).probe_seconds is None
            while not session.advance(ALWAYS).done:
                pass
            session.close()
    assert len(session.answer) == len(truth)
    assert all("no verifier answers" in str(record.error) for record in session.records)


def test_sigterm_ends_the_process_cleanly_and_a_taken_port_is_one_line(tiny_llm: Path) -> None:
    with served(tiny_llm, "--device", "cpu") as cloud:
        ready = f"listening on {cloud.target} (model llm, LlamaForCausalLM, engine torch, float32 on cpu)"
        assert cloud.line.startswith(ready)
        second = subprocess.run(
            command("--model", tiny_llm, "--port", cloud.port),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert second.returncode == 2
        assert second.stderr.startswith(f"error: cannot listen on {cloud.target}: Address already in use; ")
        assert second.stderr.count("\n") == 1
        with CloudClient(cloud.target) as client:
            assert client.model_info().model == tiny_llm.name
        cloud.process.send_signal(signal.SIGTERM)
        out, err = cloud.process.communicate(timeout=60)
        assert cloud.process.returncode == 0
        assert cloud.hint.startswith("next: ")
        assert out == ""
        assert [line.partition(" event=")[2].split(" ")[0] for line in err.splitlines()] == ["started", "draining", "stopped"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--engine", "none"), "engine='none' is not one of torch"),
        (("--device", "gpu"), "device='gpu' is not one of auto, cpu, cuda"),
        (("--device", "cuda:99"), "device='cuda:99', but torch finds"),
    ],
)
def test_an_engine_or_a_device_that_is_not_there_is_one_line(
    arguments: tuple[str, str], message: str, tiny_llm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert why_not_served(capsys, "--model", tiny_llm, "--port", 0, *arguments).startswith(f"error: {message}")


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        command("--model", tmp_path, "--port", 0), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: no model at {tmp_path}")
    assert len(done.stderr.splitlines()) == 1
