"""What a device loads, and the sessions that it opens, against a real verifier."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.device import Connection, Device
from runtime.errors import CheckpointError, ContextOverflowError, TokenizerMismatchError
from runtime.model.loading import fingerprint
from runtime.model.placement import Placement
from runtime.synera.knobs import Knobs
from tests.support.recorded import PHONE, foreign_copy

ALWAYS = Knobs(confidence_threshold=1.0, offload_budget=1.0)


@pytest.fixture(scope="module")
def cloud(tiny_llm: Path) -> Iterator[CloudClient]:
    with running_server(ServerConfig(model=tiny_llm)) as port, CloudClient(f"127.0.0.1:{port}") as client:
        yield client


@pytest.fixture(scope="module")
def device(tiny_slm: Path) -> Device:
    return Device.load(tiny_slm, PHONE, max_new_tokens=7)


def finish(connection: Connection, prompt: str, knobs: Knobs) -> tuple[int, ...]:
    with connection.open() as session:
        session.begin(connection.encode(prompt), knobs)
        while not session.advance(knobs).done:
            pass
        return session.answer


def test_a_device_is_what_its_folder_holds(device: Device, tiny_slm: Path) -> None:
    assert device.slm_fingerprint == fingerprint(tiny_slm)
    assert device.lens.mean.shape == (2, device.slm.config.hidden)  # one that shows nothing, for two exits
    assert not device.lens.mean.any()
    device.require(fingerprint(tiny_slm), "this")
    with pytest.raises(CheckpointError, match="this was made with the SLM other"):
        device.require("other", "this")
    with pytest.raises(CheckpointError, match="no model at"):
        Device.load(tiny_slm / "none", PHONE, max_new_tokens=7)


def test_text_shows_special_tokens_when_asked(device: Device) -> None:
    ids = (*device.tokenizer.encode("river").ids, 2)
    assert "<eos>" not in device.text(ids)
    assert device.text(ids, special=True).endswith("<eos>")


def test_a_connection_takes_what_both_can_take(device: Device, cloud: CloudClient) -> None:
    connection = Connection(device, cloud)
    assert (connection.limits.max_new_tokens, connection.limits.context, connection.limits.eos_ids) == (7, 256, {2})
    assert connection.encode("river")[0] == 1
    with pytest.raises(ContextOverflowError, match=r"must have between 1 and 255"):
        connection.encode("river " * 300)


def test_a_cloud_of_other_tokens_is_refused(device: Device, tiny_llm: Path, tmp_path: Path) -> None:
    with (
        running_server(ServerConfig(model=foreign_copy(tiny_llm, tmp_path / "foreign"))) as port,
        CloudClient(f"127.0.0.1:{port}") as client,
        pytest.raises(TokenizerMismatchError, match="serve an LLM that shares the SLM's tokenizer"),
    ):
        Connection(device, client)


def test_sessions_share_the_device_and_leave_no_thread(device: Device, cloud: CloudClient) -> None:
    connection, before = Connection(device, cloud), set(threading.enumerate())
    first = finish(connection, "river", ALWAYS)
    with connection.open() as one, connection.open() as other:
        for session in (one, other):
            session.begin(connection.encode("river"), ALWAYS)
        while not (one.advance(ALWAYS).done & other.advance(ALWAYS).done):
            pass
        assert one.answer == other.answer == first
    assert not [t for t in set(threading.enumerate()) - before if t.name.startswith("verifier")]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_slm_of_another_type_answers_with_the_llm_s_words_when_all_is_checked(
    device: Device, cloud: CloudClient, tiny_slm: Path, dtype: str
) -> None:
    """The type changes what the device proposes, never what the cloud lets stand."""
    half = Device.load(tiny_slm, PHONE, max_new_tokens=7, placement=Placement(dtype=dtype))
    assert half.slm.weight_bytes == device.slm.weight_bytes / 2
    assert finish(Connection(half, cloud), "river", ALWAYS) == finish(Connection(device, cloud), "river", ALWAYS)


def test_answers_are_cut_where_the_device_says(device: Device, cloud: CloudClient) -> None:
    short = Connection(replace(device, max_new_tokens=2), cloud)
    assert finish(short, "river", Knobs()) == finish(Connection(device, cloud), "river", Knobs())[:2]
