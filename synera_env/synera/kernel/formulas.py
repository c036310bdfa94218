"""The formulas that compiled code shares with the scalar environment: made known to numba, which compiles the same sources.

What does not live here: the formulas.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit
from numba.extending import register_jitable

from runtime import breaker, deadline, rules
from runtime.synera import ahead, held, lens
from runtime.wire import sizes
from synera_env import chance, radio, reward, schema
from synera_env.synera import schema as synera
from traces import profile
from traces.links import transfer
from traces.workload import meeting

SHARED: tuple[Callable[..., Any], ...] = (
    *(chance._mixed, chance.uniform, chance.choice, chance.exponential, radio.starts_down),
    *(reward.priced, reward.weight, schema.knob_value, schema.log_weight),
    *(synera.smoothed, synera.throughput, synera.log_seconds, synera.log_throughput),
    *(
        profile.segment_ms,
        profile.draft_seconds,
        profile.energy_joules,
        profile.forward_seconds,
        profile.interpolated_quantile,
        meeting.meeting,
    ),
    *(transfer.one_way_seconds, transfer.transfer_seconds),
    *(rules.wants_offload, breaker.left_alone_for, held.processed_tokens),
    *(deadline.usual_after, deadline.usual_most, deadline._wait, deadline.open_wait, deadline.check_wait, deadline.repeat_at),
    *(ahead.token_risk, ahead.risk_of, ahead.likeliest_end, lens.rejection, lens.chunk_importance, lens.importance_reached),
    *(sizes.on_the_link, sizes.varint_bytes, sizes._integer, sizes._delimited),
    *(sizes.greedy_request_bytes, sizes.verify_response_bytes),
)
OPTIONS: dict[str, Any] = {"error_model": "numpy", "_nrt": False}
"""Without numba's runtime, as nothing is allocated: counting references to some thirty arrays at each call, atomically, takes ten
times as long as all the rest."""
for _formula in SHARED:
    register_jitable(**OPTIONS)(_formula)

compiled = njit(nogil=True, **OPTIONS)
"""For a function that compiled code calls."""
inlined = njit(nogil=True, forceinline=True, **OPTIONS)
"""Likewise, within its caller: for one that is given many arrays, as each is nine arguments to a call."""


def sources() -> int:
    """Return a hash of all sources that compiled code is made of; numba looks at one file when it asks whether a cache is stale."""
    modules = {inspect.getsourcefile(formula) for formula in SHARED}
    folder = Path(__file__).parent
    files = sorted({*(Path(each) for each in modules if each), *folder.glob("*.py")})
    digest = hashlib.sha256(sys.version.encode())
    for file in files:
        digest.update(file.read_bytes())
    return int.from_bytes(digest.digest()[:7], "little")
