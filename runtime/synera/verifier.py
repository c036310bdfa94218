"""The live verifier: a device's checks by the cloud, on a thread of their own.

What does not live here: the session in the cloud (remote.py, failover.py), what a verdict means for the answer (session.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

from runtime.client import CloudClient
from runtime.clock import Clock, RealClock
from runtime.courier import Courier, Wait, real_wait
from runtime.link import LinkEmulator
from runtime.sampling import SampledDraft
from runtime.synera.caution import CloudState
from runtime.synera.chunk import Lost, Verdict
from runtime.synera.failover import RoamingSession
from runtime.synera.remote import Meet, Submitted, Terms
from runtime.synera.replicas import Cautions, Replicas

_Answer = TypeVar("_Answer")


class CloudVerifier:
    """Implements :class:`runtime.synera.session.Verifier`: one thread talks to the cloud, in order, while the device goes on.

    Whatever the cloud does, a check ends in time, as a verdict that makes sense or as :class:`Lost`. The replay mirrors these rules:

    * Waiting. A check is given `Patience.check_seconds` from its submission, an Open `Patience.open_seconds`. Each request is sent
      once more half-way between its sending and that deadline (see :class:`runtime.courier.Courier`). What is not answered by then is
      abandoned, and its session with it.
    * Opening. `open` sends an Open; the first check waits for its end. Its round trip, of the copy that was answered, is the probe.
      An Open that failed or was not sent leaves the probe unknown for the answer.
    * Leaving alone. What fails opens the circuit breaker (:class:`runtime.breaker.Breaker`): a cloud that does not answer,
      is full, serves another model or talks nonsense, and any Open that fails. Until it is closed again a check is lost at once,
      and free. That is looked at when the check is submitted and again once the Open before it has ended.
    * Coming back. The first check that is submitted once the pause is over, or `open`, sends an Open in the background, which nobody
      waits for: it is the probe of the breaker. Once it is answered, checks are sent again. Only a verdict ends the row of failures.
    * Healing. A session that was lost is opened anew by the next check that is sent, unless the Open in the background has; it sends the
      whole history with seq 1. A session that the cloud lost is replaced within the check, once.
    * Bytes. A message counts into the check that is under way, or else into the next one that is sent; but for the Open of `open`
      while the breaker is closed. Each copy of a request counts; an answer that never came or makes no sense does not.
    * An emulated link. What outages of it teach, breaker and patience alike, is this answer's alone, as the next one has a link of
      its own. A cloud that is silent itself is remembered by all sessions that share a :class:`CloudState`.
    * Replicas. With several verifiers all of this holds for each by itself. A check that one of them fails is asked of the next,
      and lost only where all fail (see :class:`runtime.synera.failover.RoamingSession`); who is left alone is probed past the sessions
      (:class:`runtime.synera.replicas.Replicas`). The replay has one cloud.
    * Release. Not over the emulated link, and free. Sessions whose state is not known are released when the cloud answers again; while it
      is left alone nothing is tried, and their lease ends them.
    """

    def __init__(
        self,
        cloud: CloudClient | Replicas,
        terms: Terms | Meet,
        *,
        emulator: LinkEmulator | None = None,
        clock: Clock | None = None,
        wait: Wait = real_wait,
        state: CloudState | None = None,
        worker: ThreadPoolExecutor | None = None,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            cloud: the channels to one verifier, or several of them; not closed here.
            terms: what the cloud is held to, or what makes them once it is there.
            emulator: of a link that messages cross; None is the network as it is.
            clock: measures round trips and deadlines; None is the real one.
            wait: lets its time pass.
            state: of one verifier, shared with its other sessions; None begins afresh.
            worker: one thread, which stays its owner's and has nothing else to do before `retire`; None starts one.
        """
        self._clock = clock or RealClock()
        self._replicas = cloud if isinstance(cloud, Replicas) else Replicas.one(cloud, state or CloudState())
        self._courier = Courier(self._clock, emulator, wait)
        self._cautions = self._fresh_cautions()
        self._remote = RoamingSession(self._replicas, terms, self._courier, self._cautions)  # used by the worker only
        self._worker = worker or ThreadPoolExecutor(1, thread_name_prefix="verifier")
        self._opening: Future[float | None] | None = None
        self._checking: Future[Verdict | Lost] | None = None
        self._known_at = 0.0
        self._released: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        released = self.retire()
        self._worker.shutdown()
        released.result()

    def open(self, prompt_tokens: int) -> None:
        """Start a session without waiting for it; an earlier one is released first. Failures show at `result`."""
        self._courier.stop()
        self._checking = None
        self._cautions = self._fresh_cautions()
        self._replicas.look(self._clock)
        self._opening = self._run(self._remote.reopen, self._cautions)

    def probe_seconds(self) -> float | None:
        """Round trip of `open`, link included; None until it is known, and when it failed."""
        return self._opening.result() if self._opening is not None and self._opening.done() else None

    def shut(self) -> bool:
        """See :class:`runtime.synera.session.Verifier`."""
        return self._cautions.shut(self._clock.now())

    def submit(self, history: Sequence[int], draft: Sequence[int], sampled: SampledDraft | None = None) -> None:
        """See :class:`runtime.synera.session.Verifier`; while the cloud is left alone the check is lost at once.

        Raises:
            RuntimeError: the check before has not been asked for its result.
        """
        if self._checking is not None:
            raise RuntimeError("one check at a time: call result() before the next submit()")
        self._replicas.look(self._clock)
        now = self._clock.now()
        refused: Lost | None = None
        if self._cautions.well(now) is None:
            replica = self._cautions.next_tried(now)
            caution = self._cautions.of[replica]
            claimed = caution.claim(now)
            refused = caution.refused(now)
        if refused is None:
            self._checking = self._run(self._timed_check, Submitted(now, tuple(history), tuple(draft), sampled))
            return
        self._known_at, self._checking = now, Future()
        self._checking.set_result(replica.named(refused) if self._replicas.several else refused)
        if claimed:
            self._run(self._remote.open_ahead, replica, True)

    def ready(self) -> bool:
        """See :class:`runtime.synera.session.Verifier`."""
        return self._checking is None or self._checking.done()

    def known_at(self) -> float:
        """See :class:`runtime.synera.session.Verifier`."""
        return self._known_at

    def result(self) -> Verdict | Lost:
        """See :class:`runtime.synera.session.Verifier`.

        Raises:
            RuntimeError: nothing was submitted.
        """
        if self._checking is None:
            raise RuntimeError("no check in flight: call submit() first")
        checking, self._checking = self._checking, None
        return checking.result()

    def close(self) -> None:
        """Have the session released, best effort, without waiting for it."""
        self._checking = None
        if self._released is None:
            self._courier.stop()
            self._run(self._remote.let_go)

    def retire(self) -> Future[None]:
        """Have the session released for the last time, without waiting for it; what is returned tells when that is over."""
        self._checking = None
        if self._released is None:
            self._courier.stop()
            self._released = self._run(self._remote.let_go)
        return self._released

    def _fresh_cautions(self) -> Cautions:
        return Cautions(self._replicas, emulated=self._courier.emulator is not None)

    def _run(self, work: Callable[..., _Answer], *arguments: object) -> Future[_Answer]:
        if self._released is not None:
            raise RuntimeError("this verifier has retired; take a new one")
        return self._worker.submit(self._in_turn, self._courier.turn, work, *arguments)

    def _in_turn(self, turn: int, work: Callable[..., _Answer], *arguments: object) -> _Answer:
        self._courier.begin(turn)
        return work(*arguments)

    def _timed_check(self, asked: Submitted) -> Verdict | Lost:
        reply = self._remote.check(asked)
        self._known_at = self._clock.now()
        return reply
