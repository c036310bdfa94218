"""The network of one answer: a link trace from some time on. What does not live here: the trace (traces/links/)."""

from __future__ import annotations

from dataclasses import dataclass

from traces.links.trace import LinkTrace


@dataclass(frozen=True)
class Radio:
    """A link trace and where in it an answer starts; implements :class:`runtime.link.Link`."""

    trace: LinkTrace
    offset_seconds: float = 0.0
    outages: tuple[tuple[float, float], ...] = ()
    """(start, stop) of each time in which nothing gets through, in seconds from the answer's start."""

    def reachable(self, at_seconds: float) -> bool:
        """See :class:`runtime.link.Link`; `at_seconds` counts from the answer's start."""
        return not any(start <= at_seconds < stop for start, stop in self.outages)

    def uplink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        """See `LinkTrace`; `at_seconds` counts from the answer's start."""
        return self.trace.uplink_seconds(self.offset_seconds + at_seconds, size_bytes)

    def downlink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        """See `LinkTrace`; `at_seconds` counts from the answer's start."""
        return self.trace.downlink_seconds(self.offset_seconds + at_seconds, size_bytes)
