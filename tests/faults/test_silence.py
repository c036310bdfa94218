"""A cloud that is stopped (SIGSTOP) and goes on: what it costs the answers meanwhile, and that it holds nothing afterwards."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from runtime.client import CloudClient
from runtime.device import Connection, Device
from runtime.synera.caution import CloudState
from runtime.synera.chunk import ChunkRecord, Lost
from runtime.synera.remote import Terms
from runtime.synera.verifier import CloudVerifier
from tests.support.engine import greedy
from tests.support.process import served
from tests.support.surviving import PROMPT, finish
from tests.support.verifying import agreed

DEVICES, SLOTS = 12, 64
LATE = "did not answer in time"


def test_a_stopped_cloud_is_waited_for_once_and_found_again(device: Device, tiny_llm: Path) -> None:
    truth = greedy(tiny_llm, PROMPT, device.max_new_tokens)

    def answer() -> list[ChunkRecord]:
        """The checks of an answer that were lost."""
        with connection.open() as session:
            finish(session)
        assert len(session.answer) == len(truth)
        lost = [record for record in session.records if record.error is not None]
        if not lost:
            assert list(session.answer) == truth
        return lost

    with (
        served(tiny_llm) as cloud,
        CloudClient(cloud.target) as client,
        Connection(device, client) as connection,
    ):
        assert answer() == []
        cloud.process.send_signal(signal.SIGSTOP)
        lost = [record for _ in range(8) for record in answer()]
        stalled = [record.cost.wait_seconds for record in lost if record.cost.wait_seconds >= 0.5]
        assert len(stalled) == 1  # all others were refused at once
        assert all(LATE in str(record.error) for record in lost)
        assert len(lost) > 8
        cloud.process.send_signal(signal.SIGCONT)
        ends = time.monotonic() + 60
        while answer():
            assert time.monotonic() < ends
            time.sleep(0.1)
        assert answer() == []


def test_a_freeze_under_twelve_devices_leaves_every_slot_free(tiny_llm: Path) -> None:
    """Checks, Opens and Closes are all under way when it begins; 64 free slots became 40."""
    began, thawed = threading.Barrier(DEVICES + 1), threading.Event()

    def work(terms: Terms, target: str, number: int) -> int:
        """Answer after answer through the freeze; return how many checks were lost."""
        lost = verdicts = checks = 0
        state = CloudState()
        with CloudClient(target) as client:
            with CloudVerifier(client, terms, state=state) as verifier:
                verifier.open(3)
                verifier.submit(PROMPT, [])
                verifier.result()
                began.wait(60)
                while verdicts < 3:
                    if checks % (2 + number % 5) == 0:
                        verifier.open(3)
                    checks += 1
                    verifier.submit(PROMPT, [])
                    if isinstance(verifier.result(), Lost):
                        lost += 1
                        time.sleep(0.02)
                    else:
                        verdicts += thawed.is_set()
            state.leftovers.settle(30)
            assert len(state.leftovers) == 0
        return lost

    with served(tiny_llm, "--max-sessions", SLOTS) as cloud, CloudClient(cloud.target) as client:
        terms = agreed(client)
        with ThreadPoolExecutor(DEVICES) as pool:
            devices = [pool.submit(work, terms, cloud.target, number) for number in range(DEVICES)]
            began.wait(60)
            time.sleep(0.05)  # they are at it
            cloud.process.send_signal(signal.SIGSTOP)
            time.sleep(2.5)  # longer than a check is waited for
            cloud.process.send_signal(signal.SIGCONT)
            thawed.set()
            assert all(each.result(60) > 0 for each in devices)
        opened = [client.open(terms.tokenizer_hash).session_id for _ in range(SLOTS)]
        assert len(set(opened)) == SLOTS
