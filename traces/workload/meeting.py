"""What a check meets that reaches a cloud at a given time: the formula, once.

Scalars and one-dimensional series of floats alone, so that compiled code can share it. What does not live here: where the series
come from (shared_cloud.py).
"""

from __future__ import annotations

from collections.abc import Sequence


def meeting(
    at_seconds: float,
    tokens: int,
    forward_ms: float,
    token_ms: float,
    edges: Sequence[float],
    starts: Sequence[float],
    beside_tokens: Sequence[float],
    beside_jobs: Sequence[float],
    arrived: Sequence[float],
) -> tuple[float, float, float, float]:
    """Return what a check meets: queue seconds, compute seconds, its share of them in seconds, load.

    Between two edges nothing changes but the time. A check that comes then waits for the forward that it joins, at `starts`, or for
    none where that is past; its tokens and those beside it take the forward's time (:func:`traces.profile.forward_seconds`), of
    which its share is by tokens. Its load is itself, those beside it and those who wait at the forward's end, as the server counts it
    (`cloud.engine.embedded.batcher.Outcome`).

    Args:
        at_seconds: when it comes, from the first edge to before the last.
        tokens: that the LLM has to process for it, at least one.
        forward_ms: of the cloud's profile.
        token_ms: likewise.
        edges: when anything changes, rising [edges]; the series below hold from each edge to the next.
        starts: when the forward begins that a check joins; not after the edge where it begins at once.
        beside_tokens: of the others in that forward.
        beside_jobs: the others in it, those who did not fit, and those who had arrived by its start, less: so that adding
            `arrived` at its end gives all who run or wait.
        arrived: requests that have arrived by the edge.
    """
    edge, after = 0, len(edges)  # the last edge that is not later than the check, and the first that is
    while after - edge > 1:
        middle = (edge + after) // 2
        if edges[middle] <= at_seconds:
            edge = middle
        else:
            after = middle
    start = max(starts[edge], at_seconds)
    beside = beside_tokens[edge]
    compute = (forward_ms + (tokens + beside) * token_ms) / 1e3
    done, later = start + compute, edge
    while later + 1 < len(edges) and edges[later + 1] <= done:
        later += 1
    load = 1.0 + beside_jobs[edge] + arrived[later]
    return start - at_seconds, compute, compute * (tokens / (tokens + beside)), load
