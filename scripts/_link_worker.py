"""What check_link.py runs inside a namespace: the device's messages over a real link and an emulated one, in turn.

Run as `python -m scripts._link_worker JSON`; prints a JSON object a line (see `main`). What does not live here: the networks
(_namespaces.py), the way into the namespace and the report (check_link.py).
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from runtime.client import CloudClient
from runtime.errors import CloudUnavailableError, SyneraError
from runtime.link import LinkEmulator
from runtime.synera.chunk import Verdict
from runtime.synera.verifier import CloudVerifier, Terms
from runtime.wire.sizes import on_the_link, open_request_bytes, open_response_bytes
from scripts._namespaces import CLOUD_HOST, ConstantLink, Networks, NotPossibleError, networks, traffic
from scripts._verifier import Verifier, verifier_process
from synera_env.radio import Radio
from traces import bundled

CHECKS = ((400, 8), (1, 4), (1, 8), (60, 8))
"""The checks of a session, in order: tokens of context that are new to the cloud, tokens of the draft."""
_SETTLE_SECONDS = 0.05  # what TCP still says after an answer belongs to that answer


@dataclass(frozen=True)
class Sent:
    """One message and its answer."""

    message: str
    seconds: float
    """Round trip, without the time in the cloud."""
    counted: tuple[int, int]
    """Bytes up and down, as the project counts them."""
    seen: tuple[int, int]
    """Bytes up and down, as the link's device end saw them; zero on an emulated link."""


class Side:
    """One way to a verifier."""

    def __init__(self, verifier: Verifier, stack: ExitStack, emulated: bool) -> None:
        self._client = stack.enter_context(CloudClient(verifier.target, allow_plaintext=True))
        self._emulated = emulated
        began = time.perf_counter()
        info = self._client.model_info()
        self.connect_seconds = time.perf_counter() - began
        """What the first call takes, the connection's making included."""
        self._terms = Terms(info.tokenizer_hash, info.fingerprint, info.vocab)

    def session(self, link: ConstantLink) -> Iterator[Sent]:
        """Open a session as a device does, and have drafts checked."""
        emulator = LinkEmulator(Radio(link.trace)) if self._emulated else None
        terms = self._terms
        with CloudVerifier(self._client, terms, emulator=emulator) as verifier:
            before = self._traffic()
            verifier.open(CHECKS[0][0])
            seconds = self._opened(verifier)
            counted = on_the_link(open_request_bytes(len(terms.tokenizer_hash))), on_the_link(open_response_bytes())
            yield Sent("Open", seconds, counted, self._since(before))
            history: list[int] = []
            for context, length in CHECKS:
                history += _tokens(context, len(history), terms.vocab)
                draft = _tokens(length, len(history), terms.vocab)
                before = self._traffic()
                verifier.submit(history, draft)
                said = verifier.result()
                if not isinstance(said, Verdict):
                    raise said.error
                counted = said.uplink_bytes, said.downlink_bytes
                name = f"Verify {context}+{length}"
                yield Sent(name, said.network_seconds, counted, self._since(before))
                history += [*draft[: said.accepted], said.next_token]

    def _opened(self, verifier: CloudVerifier) -> float:
        """Wait for the session; return the round trip."""
        ends = time.monotonic() + 2 * self._client.deadlines.open_seconds
        while (seconds := verifier.probe_seconds()) is None:
            if time.monotonic() > ends:
                raise CloudUnavailableError("no session could be opened over the link; is it slower than a device waits?")
            time.sleep(0.001)
        return seconds

    def _traffic(self) -> tuple[int, int]:
        return (0, 0) if self._emulated else traffic()

    def _since(self, before: tuple[int, int]) -> tuple[int, int]:
        if not self._emulated:
            time.sleep(_SETTLE_SECONDS)
        (up, down), (up_before, down_before) = self._traffic(), before
        return up - up_before, down - down_before


def _tokens(count: int, salt: int, vocab: int) -> list[int]:
    """Token ids, none of them special; any will do."""
    return [5 + (7 * i + salt) % (vocab - 5) for i in range(count)]


def compare(sides: Sequence[Side], link: ConstantLink, rounds: int) -> list[list[list[Sent]]]:
    """Run sessions on both sides in turn, each first in every other round; one more, before them, warms up.

    Returns:
        Messages by side and round.
    """
    found: list[list[list[Sent]]] = [[] for _ in sides]
    for number in range(-1, rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            sent = list(sides[which].session(link))
            if number >= 0:
                found[which].append(sent)
    return found


def measure(setting: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield which shaper is in use, then for each link and message what both sides took.

    Args:
        setting: `links`, `rounds`, `shaper` (None chooses).

    Raises:
        SyneraError: the link, the verifier or a message fails.
    """
    with ExitStack() as stack:
        nets: Networks = stack.enter_context(networks(setting["shaper"]))
        yield {"shaper": nets.shaper}
        llm = bundled.PAIR / "llm"
        near = stack.enter_context(verifier_process(model=llm, pace=None))
        far = nets.in_cloud(lambda: stack.enter_context(verifier_process(model=llm, pace=None, host=CLOUD_HOST)))
        for text in setting["links"]:
            link = ConstantLink.parse(text)
            with nets.shaped(link), ExitStack() as channels:
                sides = [Side(far, channels, emulated=False), Side(near, channels, emulated=True)]
                yield {"link": text, "connect_seconds": [side.connect_seconds for side in sides]}
                real, emulated = compare(sides, link, setting["rounds"])
                for place, first in enumerate(real[0]):
                    yield {
                        "link": text,
                        "message": first.message,
                        "counted": first.counted,
                        "seen": [sent[place].seen for sent in real],
                        "real": [sent[place].seconds for sent in real],
                        "emulated": [sent[place].seconds for sent in emulated],
                    }


def _end_with_parent() -> None:
    """End this process, and with it the namespace and all in it, when nobody holds its standard input open any more."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def main() -> None:
    """Print what :func:`measure` yields, a line each, and a last line `{"done": true}` or `{"error": ..., "possible": ...}`."""
    _end_with_parent()
    try:
        for each in measure(json.loads(sys.argv[1])):
            print(json.dumps(each), flush=True)
        print(json.dumps({"done": True}), flush=True)
    except SyneraError as error:
        print(json.dumps({"error": str(error), "possible": not isinstance(error, NotPossibleError)}), flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
