"""Which answers of the compiled rows leave the cloud alone at the decision in hand, as the scalar replay's verifier says of its own.

What does not live here: the breaker's rule (runtime/breaker.py), and its compiled step (kernel/cloud.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.breaker import FIRST_SECONDS, LONGEST_SECONDS


def leaves_alone(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where a check submitted now would be lost, and not even try the cloud, [rows].

    The compiled step takes note of an Open that is over when the next check is submitted; here it is looked ahead to.

    Args:
        rows: of :data:`synera_env.synera.kernel.state.ROW`; not changed.
    """
    now, until, is_open, probed = rows["now"], rows["until"], rows["open"], rows["probed"]
    settled = rows["opening"] & (now >= rows["opening_over"])
    closed = settled & rows["opening_answered"] & rows["opening_probes"]
    late = settled & ~rows["opening_answered"]
    again = late & ~(is_open & (rows["opening_over"] < until))
    longer = rows["opening_over"] + np.clip(2 * rows["silence"], FIRST_SECONDS, LONGEST_SECONDS)
    until = np.where(again, longer, until)
    return ((is_open | late) & ~closed) & ((now < until) | (probed & ~late))
