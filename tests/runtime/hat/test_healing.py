"""Live answers over a real cloud whose streams break and whose sessions end at any point: they are the whole model's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.config import ServerConfig
from cloud.engine.embedded.loading import load
from cloud.kept import AnswerRoom, Place
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.clock import RealClock
from runtime.errors import CloudBusyError
from runtime.hat.device import HatConnection, LiveSession
from runtime.hat.ends import ModelEnds
from runtime.hat.knobs import Knobs
from runtime.hat.middle import RemoteMiddle
from runtime.hat.patience import Patience
from runtime.hat.session import ALONE
from runtime.hat.values import Upload
from runtime.link import LinkEmulator
from runtime.model.split import Split
from scripts.benchmarks._faulty import Cable, cable
from synera_env.radio import Radio
from tests.runtime.hat.test_session import any_knobs
from tests.support.hat import SplitWorld, prompts
from traces.links.generators import constant_link

PLACES = 3
FAULTS = ("", "", "cut", "cut behind", "forgotten", "forgotten behind", "cut and forgotten", "again")


@dataclass
class Served:
    """A cloud that can be cut off, and a device."""

    world: SplitWorld
    client: CloudClient
    wire: Cable
    port: int

    def session(self, faults: Sequence[str], link: LinkEmulator | None = None) -> tuple[LiveSession, Meddled]:
        device = self.world.device
        terms = device.agree("here", self.client.model_info())
        ends = ModelEnds(device.ends, device.split, device.adapter, RealClock(), device.profile, device.eos_ids)
        middle = Meddled(self.client, terms, emulator=link, patience=Patience(silent_seconds=1.0))
        middle.served, middle.faults = self, chain(faults, repeat(""))
        return LiveSession(ends, middle, RealClock(), device), middle

    def taken(self) -> int:
        """Places of the cloud that cannot be had."""
        with CloudClient(f"127.0.0.1:{self.port}") as client:
            free = list[str]()
            try:
                while len(free) < PLACES:
                    free.append(client.open(self.world.device.tokenizer_hash).session_id)
            except CloudBusyError:
                pass
            for each in free:
                client.close_session(each)
        return PLACES - len(free)

    def is_left(self) -> bool:
        ends = time.monotonic() + 20
        while (left := self.taken()) and time.monotonic() < ends:
            time.sleep(0.05)
        return left > 0


class Meddled(RemoteMiddle):
    """One whose cloud fails as its uploads are handed over."""

    served: Served
    faults: Iterator[str]
    happened = 0

    def send(self, upload: Upload) -> int:
        fault = next(self.faults)
        self.happened += bool(fault)
        if fault == "again":  # the answer begins while the cloud is cut off
            self.served.wire.cut()
            time.sleep(0.002)
        if not fault.endswith("behind"):
            self._fail_by(fault)
        size = super().send(upload)
        if fault.endswith("behind"):
            self._fail_by(fault)
        return size

    def _fail_by(self, fault: str) -> None:
        if "forgotten" in fault and self._talk is not None and (session_id := self._talk._opening.session_id):
            with CloudClient(f"127.0.0.1:{self.served.port}") as other:
                other.close_session(session_id)
        if "cut" in fault:
            self.served.wire.cut()


@pytest.fixture(scope="module", params=["1", "2:1"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_deep: Path) -> Iterator[Served]:
    world = SplitWorld(tmp_path_factory.mktemp("hat"), tiny_deep, Split.parse(request.param))
    config = ServerConfig(model=world.model, split=world.split, max_sessions=PLACES, grace_seconds=0)
    engine = load(config)
    with running_server(config, engine=engine) as port, cable(port) as wire, CloudClient(wire.target) as client:
        yield Served(world, client, wire, port)
    engine.check_integrity()
    assert (engine.usage.used_blocks, engine.usage.waiting) == (0, 0)


@settings(max_examples=8)
@given(
    knobs=st.lists(any_knobs(precision=0), min_size=1, max_size=4),
    faults=st.lists(st.sampled_from(FAULTS), min_size=1, max_size=10),
    number=st.integers(0, 7),
    rtt=st.sampled_from([None, 0.0, 8.0]),
)
def test_whatever_breaks_the_answer_is_the_whole_models_own(
    served: Served, knobs: list[Knobs], faults: list[str], number: int, rtt: float | None
) -> None:
    prompt = served.world.device.encode(prompts()[number])
    link = None if rtt is None else LinkEmulator(Radio(constant_link(rtt, 20.0, 20.0)))
    session, _ = served.session(faults, link)
    with session:
        session.begin(prompt, knobs[0])
        turn = 0
        while not session.advance(knobs[min(turn, len(knobs) - 1)]).done:
            turn += 1
    assert [record.error for record in session.records if record.error] == []
    assert session.answer == served.world.greedy(prompt)
    assert not served.is_left()


@pytest.mark.parametrize("fault", sorted({*FAULTS} - {""}))
def test_a_fault_at_each_upload_costs_bytes_and_not_the_answer(served: Served, fault: str) -> None:
    prompt = served.world.device.encode(prompts()[5])
    session, middle = served.session([fault] * 6)
    knobs = Knobs(chunk_doublings=4, draft_length=2, draft_threshold=0.0, candidates=2)
    with session:
        session.begin(prompt, knobs)
        while not session.advance(knobs).done:
            pass
    assert session.answer == served.world.greedy(prompt)
    assert middle.happened == 6
    resent = sum(reply.resent_bytes for record in session.records for reply in record.replies)
    assert resent > 0 or fault in ("cut", "again")  # who is cut off before it asks sends nothing twice
    plain = sum(record.cost.uplink_bytes for record in session.records) - resent
    uploads = sum(reply.uplink_bytes for record in session.records for reply in record.replies)
    assert plain == pytest.approx(uploads, rel=0.02)  # numbers of a new session may take another byte
    assert not served.is_left()


def test_answers_that_the_cloud_keeps_for_nobody_cost_bytes_and_not_the_answer(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where others' answers take all the room that there is."""
    take = AnswerRoom.take

    def forgets(room: AnswerRoom, account: str, size_bytes: int, forget: Callable[[], object]) -> Place:
        for each in [each for of in room._accounts.values() for each in of.unused]:
            each.forgotten()
        return take(room, account, size_bytes, forget)

    monkeypatch.setattr(AnswerRoom, "take", forgets)
    prompt = served.world.device.encode(prompts()[5])
    session, _ = served.session(["cut behind"] * 12)
    knobs = Knobs(chunk_doublings=4, draft_length=2, draft_threshold=0.0, candidates=2)
    with session:
        session.begin(prompt, knobs)
        while not session.advance(knobs).done:
            pass
    assert session.answer == served.world.greedy(prompt)
    assert not served.is_left()


def test_sessions_whose_keys_and_values_are_gone_are_replaced(tiny_deep: Path, tmp_path: Path) -> None:
    """A cache that has room for one answer, and two devices: each takes it from the other, at each of its uploads."""
    world = SplitWorld(tmp_path, tiny_deep, Split(1))
    config = ServerConfig(model=world.model, split=world.split, kv_tokens=256, max_sessions=PLACES, grace_seconds=0)
    engine = load(config)
    prompt = [world.device.encode(text) for text in prompts()][5]
    long = (prompt * 20)[:180]
    with running_server(config, engine=engine) as port, CloudClient(f"127.0.0.1:{port}") as client:
        connection = HatConnection(world.device, client)
        with connection.open() as one, connection.open() as two:
            knobs = Knobs(draft_length=2, draft_threshold=0.0)
            running = [one, two]
            for each in running:
                each.begin(long, knobs)
            while running:
                running = [each for each in running if not each.advance(knobs).done]
            assert one.answer == two.answer == world.greedy(long)
            resent = sum(reply.resent_bytes for s in (one, two) for r in s.records for reply in r.replies)
            assert resent > 0
    engine.check_integrity()
    assert engine.usage.used_blocks == 0


def test_who_leaves_while_a_session_is_opened_leaves_none(served: Served) -> None:
    for number in range(10):
        session, middle = served.session([])
        middle.open()
        time.sleep(0.0005 * number)
        session.shutdown()
    assert not served.is_left()


def test_a_cloud_that_stays_away_ends_the_answer_with_the_reason(served: Served) -> None:
    connection = HatConnection(
        served.world.device, served.client, Patience(longest_seconds=0.8, silent_seconds=0.3, open_seconds=0.3)
    )
    prompt = served.world.device.encode(prompts()[2])
    with connection.open() as session:
        session.begin(prompt, Knobs())
        for _ in range(3):
            assert session.advance(Knobs()).record.error is None
        served.wire.silence(True)
        try:
            step = session.advance(Knobs())
        finally:
            served.wire.silence(False)
        assert step.done
        assert session.lost
        assert step.record.error is not None
        assert "did not answer in time" in step.record.error
        assert step.record.error.endswith(ALONE)
        assert session.answer == served.world.greedy(prompt)[:3]
        session.begin(prompt, Knobs())  # and it is there again for the next one
        while not session.advance(Knobs()).done:
            pass
        assert session.answer == served.world.greedy(prompt)
    assert not served.is_left()
