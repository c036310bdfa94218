"""What a reader makes of a file of others: the series that were recorded, those that were not left open; and a reader's form.

What does not live here: the readers, the rules that fill what is open (filling.py), and the trace that comes of both (trace.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from traces.links.text import Text

Access = Literal["3g", "lte", "5g", "fixed", "unknown"]
"""How the device was connected; what was not recorded is filled by it."""


@dataclass(frozen=True)
class Recording:
    """A recorded link at a fixed step; a series is None where its source does not have it."""

    name: str
    family: str
    access: Access
    step_seconds: float
    rtt_ms: NDArray[np.float64] | None = None
    """[samples], as are the others."""
    uplink_mbps: NDArray[np.float64] | None = None
    downlink_mbps: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Format:
    """One form of file."""

    name: str
    says: str
    """What it looks like, as a message tells it."""
    recognises: Callable[[Sequence[str]], bool]
    """Whether lines, of which there is at least one, begin such a file."""
    read: Callable[[Text], Recording]
    """Make a recording of the file.

    Raises:
        TraceError: a row is damaged, or there are too few.
    """
