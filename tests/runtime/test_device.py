"""What a device loads, and the sessions that it opens, against a real verifier."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.client import CloudClient, Deadlines
from runtime.device import Connection, Device, LiveSession
from runtime.errors import CheckpointError, CloudError, ContextOverflowError, TokenizerMismatchError
from runtime.model.loading import fingerprint
from runtime.model.placement import Placement
from runtime.synera.knobs import Knobs
from tests.support.hostile import Asked, hostile, info_of
from tests.support.recorded import PHONE, foreign_copy

ROOT = Path(__file__).resolve().parents[2]
ALWAYS = Knobs(confidence_threshold=1.0, offload_budget=1.0)


@pytest.fixture(scope="module")
def cloud(tiny_llm: Path) -> Iterator[CloudClient]:
    with running_server(ServerConfig(model=tiny_llm)) as port, CloudClient(f"127.0.0.1:{port}") as client:
        yield client


@pytest.fixture(scope="module")
def device(tiny_slm: Path) -> Device:
    return Device.load(tiny_slm, PHONE, max_new_tokens=7)


def drive(connection: Connection, prompt: str, knobs: Knobs) -> LiveSession:
    with connection.open() as session:
        session.begin(connection.encode(prompt), knobs)
        while not session.advance(knobs).done:
            pass
        return session


def finish(device: Device, cloud: CloudClient, knobs: Knobs) -> tuple[int, ...]:
    with Connection(device, cloud) as connection:
        return drive(connection, "river", knobs).answer


def errors(session: LiveSession) -> list[str | None]:
    return [record.error for record in session.records]


def threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith("verifier")}


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
    with Connection(device, cloud) as connection:
        first = drive(connection, "river", ALWAYS).answer
        for _ in range(3):
            with connection.open() as one, connection.open() as other:
                for session in (one, other):
                    session.begin(connection.encode("river"), ALWAYS)
                while not (one.advance(ALWAYS).done & other.advance(ALWAYS).done):
                    pass
                assert one.answer == other.answer == first
                assert errors(one) == errors(other) == [None] * len(one.records)
        assert len(threads()) == 2  # one for each session at a time
        left = connection.open()
        left.begin(connection.encode("river"), ALWAYS)
    assert not threads()  # also of the session that its owner left open
    with pytest.raises(RuntimeError, match="this connection is closed"):
        connection.open()
    with pytest.raises(RuntimeError, match="retired"):
        left.begin(connection.encode("river"), ALWAYS)
    connection.close()


def test_each_answer_s_session_is_released_before_the_next_one_s_is_opened(device: Device, tiny_llm: Path) -> None:
    """Though nobody waits for it: the cloud has one place."""
    with (
        running_server(ServerConfig(model=tiny_llm, max_sessions=1)) as port,
        CloudClient(f"127.0.0.1:{port}") as client,
    ):
        with Connection(device, client) as connection:
            for _ in range(10):
                session = drive(connection, "river", ALWAYS)
                assert errors(session) == [None] * len(session.records)
        client.close_session(client.open(device.tokenizer_hash).session_id)  # a short program leaves the place free


def test_the_next_answer_knows_of_a_dead_cloud(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.breaker.FIRST_SECONDS", 600.0)
    monkeypatch.setattr("runtime.breaker.LONGEST_SECONDS", 600.0)
    with (
        hostile(info_of(device), {"Verify": lambda asked: asked.abort(grpc.StatusCode.UNAVAILABLE)}) as server,
        CloudClient(server.target) as client,
        Connection(device, client) as connection,
    ):
        assert all(errors(drive(connection, "river", ALWAYS)))  # one answer finds out
        asked = len(server.asked)
        for _ in range(3):
            with connection.open() as session:
                point = session.begin(connection.encode("river"), ALWAYS)
                record = session.advance(ALWAYS).record
            assert re.search(r"next try in (599|600)\.\d s", str(record.error))
            assert point.probe_seconds is None
            assert (record.cost.uplink_bytes, record.committed) == (0, record.draft.ids)
        assert len(server.asked) == asked  # it is left alone


def test_nobody_waits_for_the_release_but_the_connection(device: Device) -> None:
    closing, allowed = threading.Event(), threading.Event()

    def close(asked: Asked) -> Any:
        closing.set()
        assert allowed.wait(30)
        return asked.honest

    with (
        hostile(info_of(device), {"Close": close}) as server,
        CloudClient(server.target, deadlines=Deadlines(close_seconds=60)) as client,
    ):
        connection = Connection(device, client)
        drive(connection, "river", ALWAYS)  # shut down while the release hangs
        assert closing.wait(30)
        with connection.open() as session:  # and so is another answer begun and ended
            session.begin(connection.encode("river"), ALWAYS)
        assert len(server.calls("Open")) == 1
        threading.Timer(0.1, allowed.set).start()
        connection.close()
        assert [name for name, _ in server.asked][-2:] == [
            "Verify",
            "Close",
        ]  # the second, which nobody waited for, was not opened
        assert not threads()


def test_nobody_waits_for_a_release_that_a_dead_cloud_cannot_get(device: Device) -> None:
    unavailable = grpc.StatusCode.UNAVAILABLE
    with (
        hostile(info_of(device), {"Verify": lambda asked: asked.abort(unavailable)}) as server,
        CloudClient(server.target) as client,
    ):
        with Connection(device, client) as connection:
            assert all(errors(drive(connection, "river", ALWAYS)))
        assert len(server.calls("Open")) == 1
        assert not server.calls("Close")


_PATIENT = """
import sys
from pathlib import Path
from runtime.client import CloudClient, Deadlines
from runtime.device import Connection, Device
from tests.runtime.test_device import ALWAYS, drive, threads
from tests.support.recorded import PHONE

device = Device.load(Path(sys.argv[1]), PHONE, max_new_tokens=7)
try:
    with (
        CloudClient(sys.argv[2], deadlines=Deadlines(verify_seconds=250, close_seconds=0.1)) as client,
        Connection(device, client, check_deadline=1000) as connection,
    ):
        drive(connection, "river", ALWAYS)
except KeyboardInterrupt:
    for thread in threads():
        thread.join(30)
    print("stopped", len(threads()))
"""


def test_ctrl_c_does_not_sit_out_a_cloud_that_hangs(device: Device, tiny_slm: Path) -> None:
    """In a process of its own, so that a press that comes late meets no other test."""
    with hostile(info_of(device), {"Verify": lambda asked: asked.hang(250)}) as server:
        line = [sys.executable, "-c", _PATIENT, str(tiny_slm), server.target]
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            try:
                assert server.hanging.acquire(timeout=120)  # a busy machine may stand still for a while
                for _ in range(15):  # Python drops a press that falls into a finaliser
                    process.send_signal(signal.SIGINT)
                    with suppress(subprocess.TimeoutExpired):
                        said, _ = process.communicate(timeout=10)
                        break
                assert process.poll() == 0
                assert said == "stopped 0\n"
            finally:
                process.kill()
        assert not server.over.is_set()  # the cloud had not answered yet


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_slm_of_another_type_answers_with_the_llm_s_words_when_all_is_checked(
    device: Device, cloud: CloudClient, tiny_slm: Path, dtype: str
) -> None:
    """The type changes what the device proposes, never what the cloud lets stand."""
    half = Device.load(tiny_slm, PHONE, max_new_tokens=7, placement=Placement(dtype=dtype))
    assert half.slm.weight_bytes == device.slm.weight_bytes / 2
    assert finish(half, cloud, ALWAYS) == finish(device, cloud, ALWAYS)


def test_answers_are_cut_where_the_device_says(device: Device, cloud: CloudClient) -> None:
    assert finish(replace(device, max_new_tokens=2), cloud, Knobs()) == finish(device, cloud, Knobs())[:2]


def test_a_cloud_that_takes_only_short_drafts_is_refused_at_once(device: Device, tiny_llm: Path) -> None:
    with (
        running_server(ServerConfig(model=tiny_llm, max_draft_tokens=7)) as port,
        CloudClient(f"127.0.0.1:{port}") as client,
        pytest.raises(CloudError, match=r"drafts of at most 7 tokens, the device drafts up to 8; have it configured for 8"),
    ):
        Connection(device, client)
