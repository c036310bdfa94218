"""The live middle: a device's states to the cloud and back, by a thread of its own, while the device goes on.

What does not live here: the talk with the cloud and its healing (talk.py), what states are of (ends.py, session.py), single calls and
their errors (runtime/client.py).
"""

from __future__ import annotations

import threading
from functools import partial
from types import TracebackType
from typing import Self

from runtime.client import CloudClient
from runtime.clock import Clock, RealClock
from runtime.errors import CloudError, GivenUpError
from runtime.hat.agenda import Agenda
from runtime.hat.opening import Surroundings, Terms
from runtime.hat.patience import PATIENCE, Patience
from runtime.hat.talk import Talk
from runtime.hat.tray import Tray
from runtime.hat.uploads import Sent, Uploads
from runtime.hat.values import Lost, Reply, Upload
from runtime.leftovers import Leftovers
from runtime.link import LinkEmulator
from runtime.wire.sizes import PRECISIONS, longest_forward_bytes, row_bytes
from runtime.wire.tensors import encoded


class RemoteMiddle:
    """Implements :class:`runtime.hat.parts.Middle`. Used by one thread; `close` and `shutdown` are for any.

    Whatever the cloud does, all uploads are answered in time, or the cloud is lost. The replay mirrors the first three of these rules:

    * The radio takes one upload after the other; the next is taken as soon as the last byte of the one before has left, so that
      transmission and the cloud's work overlap. Without an emulated link that is when gRPC has handed it to the system.
    * What meets an outage of the emulated link is tried again after 0.2, 0.4, ... 3.2 s, as TCP does.
    * An upload is given 30 s from when it was handed over. Then the cloud is lost.
    * Where a stream is silent for 5 s (then 10, 20), another over the client's other channel repeats by the same numbers what was not
      answered; whichever answers first is kept, the other ends. One that breaks is replaced likewise, after 0.1, 0.2, ... 2 s. A session
      that the cloud does not know any more is replaced by a new one, which is first sent the states of all positions before: they are
      kept here, as they travelled. So is, once, one in which the cloud failed or that does not take a repeat. A busy cloud is asked
      again when it says.
    * Bytes. A message counts when it is handed over, and each time that it is sent once more; opening and closing do not count.
    """

    def __init__(
        self,
        client: CloudClient,
        terms: Terms,
        *,
        emulator: LinkEmulator | None = None,
        clock: Clock | None = None,
        patience: Patience = PATIENCE,
        leftovers: Leftovers | None = None,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            client: the channels to the cloud; not closed here.
            terms: what the cloud is held to.
            emulator: of a link that messages cross; None is the network as it is.
            clock: measures round trips and deadlines; None is the real one.
            patience: how long what is tried.
            leftovers: sessions that the cloud may still hold, of whoever shares the client; None begins with none.
        """
        self._clock, self._terms, self._patience = clock or RealClock(), terms, patience
        leftovers = Leftovers() if leftovers is None else leftovers  # an empty one is false
        client.widen(longest_forward_bytes(terms.max_rows, terms.hidden))
        self._around = Surroundings(client, terms, emulator, self._clock, patience, leftovers)
        self._sizes = Uploads(terms.hidden, terms.max_rows)
        self._lock = threading.Lock()
        self._agenda: Agenda | None = None
        self._talk: Talk | None = None
        self._tray = Tray()
        self._seq = 0

    @property
    def state_bytes(self) -> tuple[int, ...]:
        """See :class:`runtime.hat.parts.Middle`."""
        return tuple(row_bytes(self._terms.hidden, precision) for precision in PRECISIONS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shutdown()

    def open(self) -> None:
        """See :class:`runtime.hat.parts.Middle`; the session of an earlier answer is released."""
        self.close()
        with self._lock:
            if self._agenda is None or not self._agenda.alive:
                self._agenda = Agenda("middle", self._clock, self._died)
            self._tray, self._seq = Tray(), 0
            self._talk = Talk(self._around, self._agenda, self._tray)
            self._agenda.put(self._talk.begin)

    def probe_seconds(self) -> float | None:
        """See :class:`runtime.hat.parts.Middle`."""
        return self._tray.probe_seconds

    @property
    def sessions(self) -> int:
        """How many were opened for this answer; each but the first took the place of one that was lost."""
        return self._tray.sessions

    def send(self, upload: Upload) -> int:
        """See :class:`runtime.hat.parts.Middle`."""
        deadline = self._clock.now() + self._patience.longest_seconds
        data = encoded(upload.states, upload.precision)
        sent = Sent(upload.prefix_length, upload.rows, upload.returned, upload.precision)
        with self._lock:
            self._tray.handed()
            self._seq += 1
            sized = Sent(upload.prefix_length, upload.rows, upload.returned, upload.precision, seq=self._seq)
            if self._talk is not None and self._agenda is not None:
                self._agenda.put(partial(self._talk.take, sent, data, deadline))
        return self._sizes.size(sized)

    def free(self) -> bool:
        """See :class:`runtime.hat.parts.Middle`."""
        return self._tray.free

    def wait_free(self) -> None:
        """See :class:`runtime.hat.parts.Middle`."""
        self._tray.wait_free()

    def ready(self) -> bool:
        """See :class:`runtime.hat.parts.Middle`."""
        return self._tray.ready

    def wait_ready(self) -> None:
        """See :class:`runtime.hat.parts.Middle`."""
        self._tray.wait_ready()

    def replies(self) -> list[Reply]:
        """See :class:`runtime.hat.parts.Middle`."""
        return self._tray.take()

    def lost(self) -> Lost | None:
        """See :class:`runtime.hat.parts.Middle`."""
        return self._tray.lost

    def close(self) -> None:
        """See :class:`runtime.hat.parts.Middle`: best effort, without waiting for it. Who waits for an upload is told that it is lost."""
        with self._lock:
            talk, self._talk = self._talk, None
            if talk is not None and self._agenda is not None:
                self._tray.lose(GivenUpError("the device itself no longer waits for the answer"))
                self._agenda.put(talk.end)

    def shutdown(self) -> None:
        """Release the session, and end the thread; a release that the cloud does not hear of in time is kept in mind."""
        self.close()
        with self._lock:
            agenda, self._agenda = self._agenda, None
        if agenda is not None:
            agenda.end()
            client = self._around.client
            self._around.leftovers.insist(client, client.deadlines.close_seconds)

    # ------------------------------------------------------------ the thread

    def _died(self, error: BaseException) -> None:
        bug = CloudError(f"a bug in the device: {error!r}; its log says more")
        with self._lock:
            talk, self._talk = self._talk, None
            self._tray.lose(bug)
        if talk is not None:
            talk.fail(bug)
            talk.end()
