"""What a deployment says when something does not fit, and that a lost cloud does not cost the answer."""

from __future__ import annotations

import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.evaluation import PlannedAnswer, answer
from agents.rules import FixedRule
from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.device import Device
from runtime.errors import CheckpointError, CloudUnavailableError, ContextOverflowError, TokenizerMismatchError
from runtime.model.tokenizer import tokenizer_hash
from runtime.synera.lens import Lens
from synera_env import synera_schema
from synera_env.synera.live import LivePrompt, SyneraLiveEnv
from synera_env.synera.schema import ALWAYS
from tests.support.process import served
from tests.support.recorded import PHONE, Recorded, foreign_copy, recorded

SCHEMA = synera_schema(exits=2)


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.fixture(scope="module")
def device(pair: Recorded) -> Device:
    return replace(pair.device(), max_new_tokens=40)


@pytest.fixture(scope="module")
def cloud(tiny_llm: Path) -> Iterator[CloudClient]:
    with running_server(ServerConfig(model=tiny_llm)) as port, CloudClient(f"127.0.0.1:{port}") as client:
        yield client


class Killer(FixedRule):
    """Decides as `always`, and kills the cloud before its third decision."""

    def __init__(self, process: Any) -> None:
        super().__init__(ALWAYS, SCHEMA)
        self._process = process
        self.saw_it_lost: list[bool] = []

    def predict(self, observation: Any, *arguments: Any, **named: Any) -> Any:
        self.saw_it_lost.append(bool(observation[SCHEMA.entries.index("cloud_lost")]))
        if len(self.saw_it_lost) == 3:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        return super().predict(observation, *arguments, **named)


def test_a_cloud_killed_mid_answer_is_survived_and_counted(pair: Recorded, device: Device, tiny_llm: Path) -> None:
    with served(tiny_llm) as process:
        env = SyneraLiveEnv(process.target, device, pair.prompts, pair.score, emulate_link=False)
        try:
            outcome = answer(env, killer := Killer(process.process), PlannedAnswer(0, 0, 0.0, seed=0))
        finally:
            env.close()
    assert outcome.metrics is not None
    assert len(outcome.tokens) == 40
    assert [r.error is None for r in outcome.records[:3]] == [True, True, False]
    assert outcome.metrics.lost_chunks == len(outcome.records) - 2
    assert outcome.metrics.offload_rate == 1.0
    for record in outcome.records[2:]:
        assert record.verdict is None
        assert record.committed == record.draft.ids
        assert record.cost.cloud_seconds == 0.0
        assert "no verifier answers" in str(record.error)
    assert outcome.records[2].cost.uplink_bytes > 0  # the check that died on the way is paid for
    assert killer.saw_it_lost == [False] * 3 + [True] * (len(outcome.records) - 3)  # a controller can tell
    assert not [t for t in threading.enumerate() if t.name.startswith("verifier")]


def test_an_absent_cloud_is_said_before_any_answer(pair: Recorded, device: Device) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(CloudUnavailableError, match=rf"no verifier answers at {target}.*synera serve"):
            SyneraLiveEnv(target, device, pair.prompts)


def test_a_foreign_tokenizer_names_both(pair: Recorded, device: Device, tiny_llm: Path, tmp_path: Path) -> None:
    foreign = foreign_copy(tiny_llm, tmp_path / "foreign")
    with running_server(ServerConfig(model=foreign)) as port, pytest.raises(TokenizerMismatchError) as error:
        SyneraLiveEnv(f"127.0.0.1:{port}", device, pair.prompts)
    assert tokenizer_hash(foreign) in str(error.value)
    assert device.tokenizer_hash in str(error.value)


def test_another_slm_than_recorded_names_both(pair: Recorded, device: Device) -> None:
    device.require(pair.graphs.meta.slm_fingerprint, "the graphs")
    with pytest.raises(CheckpointError, match=f"the bundle was made with the SLM feed0000feed0000.*{device.slm_fingerprint}"):
        device.require("feed0000feed0000", "the bundle")


def test_a_lens_of_another_slm_is_refused(cloud: CloudClient, pair: Recorded, device: Device) -> None:
    lens = Lens.from_tensors(pair.graphs.lens_tensors)
    narrow = Lens(lens.mean[:1], lens.directions[:1], lens.rejection[:1], lens.importance)
    env = SyneraLiveEnv(cloud, replace(device, lens=narrow), pair.prompts, emulate_link=False)
    try:
        with pytest.raises(CheckpointError, match="the lens is for 1 exits"):
            env.reset(seed=0)
    finally:
        env.close()


@pytest.mark.parametrize("words", [400, 4000])
def test_a_prompt_that_does_not_fit_is_said_before_any_answer(cloud: CloudClient, device: Device, words: int) -> None:
    with pytest.raises(ContextOverflowError, match=r"must have between 1 and 255 \(the models' context is 256\)"):
        SyneraLiveEnv(cloud, device, [LivePrompt("fits"), LivePrompt("river " * words)])


def test_an_environment_closes_the_channel_that_it_opened_and_no_other(
    cloud: CloudClient, pair: Recorded, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    close = CloudClient.close
    monkeypatch.setattr(CloudClient, "close", lambda client: (closed.append(client.target), close(client)))
    with pytest.raises(ContextOverflowError):
        SyneraLiveEnv(cloud.target, device, [LivePrompt("river " * 400)])
    assert closed == [cloud.target]  # also when it could not be made
    SyneraLiveEnv(cloud.target, device, pair.prompts).close()
    assert closed == [cloud.target] * 2
    env = SyneraLiveEnv(cloud, device, pair.prompts, emulate_link=False)
    env.reset(seed=0)
    env.close()
    env.close()
    assert len(closed) == 2
    assert not [t for t in threading.enumerate() if t.name.startswith("verifier")]


def test_a_damaged_slm_is_refused(pair: Recorded, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pair.slm, tmp_path / "slm"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CheckpointError):
        Device.load(folder, PHONE, max_new_tokens=4, lens=Lens.from_tensors(pair.graphs.lens_tensors))
