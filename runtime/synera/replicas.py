"""The verifiers that a device may turn to: in which order, what was learnt of each, and whether those left alone are back.

What does not live here: the session on one of them (remote.py), the move from one to the next (failover.py), whether they fit
(runtime/agreement.py), and when one is left alone (runtime/breaker.py).
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Collection, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any, Self

from runtime.answers import ModelInfo, read_model_info
from runtime.breaker import Breaker
from runtime.client import Asked, CloudClient
from runtime.clock import Clock
from runtime.deadline import LEAST_SECONDS
from runtime.errors import CloudBusyError, CloudError, CloudUnavailableError, SyneraError, TokenizerMismatchError
from runtime.settings import whole
from runtime.synera.caution import Caution, CloudState, pause_seconds
from runtime.synera.chunk import Lost
from runtime.wire import synera_pb2 as pb

MOST_REPLICAS = 64
_log = logging.getLogger(__name__)
Fits = Callable[[str, ModelInfo], object]
"""Does nothing where what the verifier at an address serves fits the device and the other replicas; raises a CloudError or a
TokenizerMismatchError where it does not."""


def rendezvous(key: str, names: Sequence[str]) -> list[str]:
    """Order names by highest random weight (Thaler and Ravishankar, 1998): each key has an order of its own, which stays what it is
    as other names come and go. So the keys of a name that goes spread evenly over the others, and no other key moves.
    """
    return sorted(names, key=lambda name: (blake2b(f"{key}\0{name}".encode(), digest_size=8).digest(), name), reverse=True)


@dataclass(frozen=True, eq=False, slots=True)
class Replica:
    """One verifier, as a device knows it."""

    client: CloudClient
    state: CloudState

    def named(self, lost: Lost) -> Lost:
        """The same loss, by a message that says whose it is."""
        target = self.client.target
        if target in str(lost.error):
            return lost
        error = copy(lost.error)
        error.args = (f"{target}: {lost.error}",)
        return Lost(error, lost.uplink_bytes, lost.downlink_bytes)


class Replicas:
    """All of them; every session of a device shares these. Thread-safe.

    Of several, one that is left alone is asked in the background what it serves once its pause is over, as a probe that no session
    waits for: so checks go on elsewhere meanwhile, and a replica that came back with another model is not used. Of one alone
    the probe is an Open (see :class:`runtime.synera.verifier.CloudVerifier`), and nothing is asked here.
    """

    def __init__(self, replicas: Sequence[Replica], key: str = "", fits: Fits | None = None) -> None:
        """Order them; nothing is sent yet.

        Args:
            replicas: 1..64, no two with the same address.
            key: of the device; chooses the order.
            fits: see there; needed where there are several.

        Raises:
            SettingError: their number is outside its range.
        """
        whole("replicas", len(replicas), 1, MOST_REPLICAS)
        self.given, self.order = tuple(replicas), tuple(replicas)
        if self.several:
            by_name = {replica.client.target: replica for replica in replicas}
            self.order = tuple(by_name[name] for name in rendezvous(key, list(by_name)))
        self._fits = fits
        self._warned: set[Replica] = set()

    @classmethod
    def one(cls, client: CloudClient, state: CloudState) -> Self:
        """A single verifier."""
        return cls([Replica(client, state)])

    @property
    def several(self) -> bool:
        """Whether there is another to turn to."""
        return len(self.given) > 1

    def meet(self, clock: Clock) -> dict[Replica, SyneraError]:
        """Ask all at once what they serve, and leave those alone that do not answer or fit: these are returned, with the reason.

        The first that fits, in the order given, decides what the others must serve. Once one has answered, the others have
        a second left to do so too.
        """
        ended: queue.SimpleQueue[Asked] = queue.SimpleQueue()
        failed: dict[Replica, SyneraError] = {}
        asked: dict[Replica, Asked] = {}
        for replica in self.given:
            try:
                asked[replica] = self._ask(replica, ended.put)
            except CloudUnavailableError as error:  # the client is closed
                failed[replica] = error
        self._wait(clock, ended, len(asked))
        for replica in self.given:
            call = asked.get(replica)
            try:
                if call is not None:
                    self._look_at(replica, call)
            except (CloudError, TokenizerMismatchError) as error:
                failed[replica] = error
        for replica, why in failed.items():
            self._leave_alone(replica, clock.now(), why)
        return failed

    def look(self, clock: Clock) -> None:
        """Find out, without waiting for it, whether those are back that have been left alone for long enough."""
        if not self.several:
            return
        now = clock.now()
        for replica in self.order:
            breaker = replica.state.breaker
            if breaker.refusal(now) is None or not breaker.claim(now):
                continue
            try:
                self._ask(replica, partial(self._looked, replica, clock))
            except CloudUnavailableError:  # the client is closed
                breaker.withdraw()

    def settle(self, seconds: float) -> None:
        """Wait until each has answered to what it was asked to release, but for none longer than that."""
        for replica in self.given:
            replica.state.leftovers.settle(seconds)

    def _ask(self, replica: Replica, on_end: Callable[[Asked], Any]) -> Asked:
        client = replica.client
        return client.ask("ModelInfo", pb.ModelInfoRequest(), client.deadlines.info_seconds, on_end)

    def _wait(self, clock: Clock, ended: queue.SimpleQueue[Asked], calls: int) -> None:
        ends = clock.now() + max(replica.client.deadlines.info_seconds for replica in self.given)
        while calls and (left := ends - clock.now()) > 0:
            try:
                call = ended.get(timeout=left)
            except queue.Empty:
                return
            calls -= 1
            if call.answered:
                ends = min(ends, clock.now() + LEAST_SECONDS)

    def _look_at(self, replica: Replica, call: Asked) -> None:
        """Read what a replica says that it serves.

        Raises:
            CloudError, TokenizerMismatchError: there is no answer yet, or it does not fit.
        """
        if not call.over:
            call.cancel()
            raise replica.client.late_error()
        info = read_model_info(call.answer())
        assert self._fits is not None
        self._fits(replica.client.target, info)
        self._warned.discard(replica)

    def _looked(self, replica: Replica, clock: Clock, call: Asked) -> None:
        try:
            self._look_at(replica, call)
        except (CloudError, TokenizerMismatchError) as error:
            self._leave_alone(replica, clock.now(), error)
        else:
            replica.state.breaker.answered()
            replica.state.leftovers.release(replica.client)

    def _leave_alone(self, replica: Replica, now: float, why: SyneraError) -> None:
        replica.state.breaker.failed(now, str(why), pause_seconds(why))
        if isinstance(why, CloudUnavailableError | CloudBusyError) or replica in self._warned:
            return
        self._warned.add(replica)
        _log.warning("the replica %s is left out: %s", replica.client.target, why)


class Cautions:
    """Those of one answer, one a replica. What an outage of the emulated link teaches is the same for all of them."""

    def __init__(self, replicas: Replicas, *, emulated: bool) -> None:
        link = Breaker()
        self.of = {replica: Caution(replica.state, link, emulated=emulated) for replica in replicas.order}
        """In the order of the replicas."""

    def well(self, now: float, but: Collection[Replica] = ()) -> Replica | None:
        """The first that may be asked now."""
        allowed = (replica for replica, caution in self.of.items() if caution.refused(now) is None)
        return next((replica for replica in allowed if replica not in but), None)

    def next_tried(self, now: float) -> Replica:
        """Which a probe would be of, while none may be asked: the first that only the link keeps from it, or else the first."""
        only_the_link = (replica for replica, caution in self.of.items() if caution.refused_by_cloud(now) is None)
        return next(only_the_link, next(iter(self.of)))

    def shut(self, now: float) -> bool:
        """Say whether a check would be lost now, and not even try a cloud."""
        return all(caution.shut(now) for caution in self.of.values())
