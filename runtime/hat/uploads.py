"""Which chunks of states the cloud was sent and has not answered, by which numbers, and what a new session must be told first.

What does not live here: when anything is sent (talk.py), streams (streams.py), what states are of (ends.py).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from runtime.errors import BadAnswerError
from runtime.wire import synera_pb2 as pb
from runtime.wire.sizes import PRECISIONS, forward_request_bytes, on_the_link, row_bytes


@dataclass(slots=True, eq=False)
class Sent:
    """A chunk; its number is that of the session in force."""

    prefix_length: int
    rows: int
    returned: int
    precision: str
    own: bool = False
    """It only tells a new session what the one before held; nobody waits for its answer."""
    seq: int = 0
    taken: float = 0.0
    """When the radio took it, last."""
    tries: int = 0
    """That met an outage."""
    travelled: bool = False
    """It was sent before."""
    left: bool = False
    """Its last byte has left the radio, some time."""
    written: bool = False
    """A stream of the session in force has it."""
    delivered: bool = False


class Uploads:
    """The chunks of an answer. Its states are kept as they travelled, as a session that is lost can be given them again."""

    def __init__(self, hidden: int, max_rows: int) -> None:
        """Begin.

        Args:
            hidden: numbers of a state.
            max_rows: longest chunk that the cloud takes.
        """
        self._hidden, self._max_rows = hidden, max_rows
        self._held = bytearray()  # states of all positions
        self._precision: str | None = None
        self._seq = 0
        self.unanswered: deque[Sent] = deque()
        """In the order of their numbers."""
        self.waiting: deque[Sent] = deque()
        """For the radio, likewise."""

    def take(self, sent: Sent, data: bytes) -> None:
        """Take another chunk, and number it."""
        row = row_bytes(self._hidden, sent.precision)
        del self._held[sent.prefix_length * row :]
        self._held += data
        self._precision = sent.precision
        self._seq += 1
        sent.seq = self._seq
        self.waiting.append(sent)
        self.unanswered.append(sent)

    def repeat(self) -> None:
        """Have all that is not answered sent once more, by the same numbers."""
        self.waiting = deque(self.unanswered)

    def move(self) -> None:
        """Number all anew, for a session that holds nothing: it is first told what is before."""
        again = [each for each in self.unanswered if not each.own]
        self.unanswered = deque([*self._before(again), *again])
        self._seq = len(self.unanswered)
        for number, each in enumerate(self.unanswered, 1):
            each.seq, each.written = number, False
        self.repeat()

    def _before(self, again: list[Sent]) -> list[Sent]:
        """Chunks of what a session must hold before others are understood; where there are none, of all that is kept."""
        if self._precision is None:
            return []
        first = again[0].prefix_length if again else len(self._held) // row_bytes(self._hidden, self._precision)
        starts = range(0, first, self._max_rows)
        return [Sent(start, min(self._max_rows, first - start), 0, self._precision, own=True) for start in starts]

    @property
    def expected(self) -> Sent | None:
        """Whose answer is next; None while no stream has one that is not answered."""
        return self.unanswered[0] if self.unanswered and self.unanswered[0].written else None

    def answered(self, seq: int) -> Sent:
        """An answer has come.

        Raises:
            BadAnswerError: it is not the next one's.
        """
        sent = self.expected
        if sent is None or sent.seq != seq:
            raise BadAnswerError(f"the verifier answers chunk {seq}, whose turn it is not; is it of this version?")
        self.unanswered.popleft()
        if sent in self.waiting:  # it was to be repeated
            self.waiting.remove(sent)
        return sent

    def request(self, sent: Sent, session_id: str) -> pb.ForwardRequest:
        """The message of a chunk."""
        row, first = row_bytes(self._hidden, sent.precision), sent.prefix_length
        return pb.ForwardRequest(
            session_id=session_id,
            seq=sent.seq,
            prefix_length=first,
            states=bytes(self._held[first * row : (first + sent.rows) * row]),
            precision=PRECISIONS.index(sent.precision),  # type: ignore[arg-type]  # an enum's number is one
            returned=sent.returned,
        )

    def size(self, sent: Sent) -> int:
        """Bytes of that on the link."""
        sizes = sent.seq, sent.prefix_length, sent.rows, self._hidden, sent.precision, sent.returned
        return on_the_link(forward_request_bytes(*sizes))
