"""What is seen of a row: its observation, and the metrics of a finished answer; compiled.

The counterpart of the extractors of synera_env/synera/schema.py and of synera_env/metrics.py. What does not live here: the formulas that they
share (formulas.py).
"""

# mypy: ignore-errors

from __future__ import annotations

import math

from synera_env.synera.kernel.device import half
from synera_env.synera.kernel.formulas import compiled, inlined
from synera_env.synera.schema import log_seconds, log_throughput


@inlined
def encode(graphs, tables, r, seen):
    """Write the observation of the decision point in hand."""
    drafted, longest = r.drafted, len(r.draft_token)
    seen[0] = drafted / longest
    at, exits = 1, 0
    for place in range(drafted):
        node, left = r.draft_node[place], r.draft_exit[place]
        seen[at], seen[at + 1] = r.draft_confidence_of[place], r.draft_margin[place]
        seen[at + 2] = graphs.exits[node, left].entropy
        exits += left
        at += 3
    for _ in range(drafted, longest):
        seen[at], seen[at + 1], seen[at + 2] = 1.0, 1.0, 0.0
        at += 3
    seen[at], seen[at + 1] = r.draft_confidence, r.draft_importance
    seen[at + 2] = exits / drafted / max(1, len(graphs.exit_layers) - 1)
    at += 3
    sketch = graphs.exits[r.draft_node[drafted - 1], r.draft_exit[drafted - 1]].sketch
    for direction in range(len(sketch)):
        seen[at + direction] = half(sketch[direction])
    at += len(sketch)
    for place in range(len(r.past_confidence)):
        seen[at], seen[at + 1] = r.past_confidence[place], r.past_importance[place]
        seen[at + 2], seen[at + 3] = r.past_offloaded[place], r.past_accepted[place]
        at += 4
    seen[at], seen[at + 1] = r.acceptance, r.guess_hits
    seen[at + 2], seen[at + 3] = r.offloaded / max(1, r.chunks), r.chunks / 16
    seen[at + 4], seen[at + 5] = r.generated / r.room, r.prompt_tokens / 128
    encode_cloud(r, seen, at + 6)
    at += 13
    for place in range(len(r.weights_shown)):
        seen[at + place] = r.weights_shown[place]
    for entry in range(len(seen)):
        seen[entry] = min(max(seen[entry], tables.low[entry]), tables.high[entry])


@compiled
def encode_cloud(r, seen, at):
    """Write what is seen of link and cloud, from a place on."""
    rtt = r.rtt
    if rtt < 0.0 and r.probe_seconds >= 0.0 and r.now >= r.probe_at:
        rtt = r.probe_seconds
    asked = r.throughput >= 0.0
    seen[at] = log_seconds(rtt) if rtt >= 0.0 else -1.0
    seen[at + 1] = 1.0 if rtt >= 0.0 else 0.0
    seen[at + 2] = log_throughput(r.throughput) if asked else 3.0
    seen[at + 3] = log_seconds(r.queue) if asked else -3.0
    seen[at + 4] = log_seconds(r.compute) if asked else -3.0
    seen[at + 5] = r.load / 8 if asked else 0.0
    seen[at + 6] = r.cloud_lost


METRICS = (
    *("quality", "reward", "ttft_seconds", "tbt_mean_seconds", "tbt_p95_seconds", "seconds", "tokens", "tokens_per_second"),
    *("chunks", "offload_rate", "acceptance_rate", "cloud_seconds", "cloud_tokens", "uplink_bytes", "downlink_bytes", "joules"),
    *("lost_chunks", "hit_rate", "saved_seconds", "wasted_joules"),
)
"""Of :class:`synera_env.metrics.EpisodeMetrics`, in the order in which they are written."""


@compiled
def measure(r, times, quality, metrics):
    """Write the metrics of a finished answer. `times` are those of its chunks, and are used up: they become the gaps between them."""
    chunks, tokens = r.chunks, r.generated
    first, last = times[0], times[chunks - 1]
    gaps = max(tokens - 1, 1)
    metrics[0], metrics[1] = quality, r.reward if not math.isnan(quality) else quality
    metrics[2], metrics[3], metrics[4] = first, (last - first) / gaps, gap_quantile(times, chunks, gaps, 0.95)
    metrics[5], metrics[6], metrics[7] = last, tokens, tokens / max(last, 1e-9)
    metrics[8], metrics[9] = chunks, r.offloaded / chunks
    metrics[10] = r.stood / r.judged if r.judged else math.nan
    metrics[11], metrics[12], metrics[13], metrics[14] = r.cloud_seconds, r.asked_tokens, r.sent, r.received
    metrics[15], metrics[16] = r.joules, r.lost
    metrics[17] = r.hits / r.guesses if r.guesses else math.nan
    metrics[18], metrics[19] = r.saved, r.wasted


@compiled
def gap_quantile(times, chunks, gaps, share):
    """A quantile of the gaps between tokens, as numpy's: those within a chunk are 0, those between chunks the rest."""
    waits = chunks - 1
    for place in range(waits):  # sorted as they come
        gap, into = times[place + 1] - times[place], place
        while into and times[into - 1] > gap:
            times[into] = times[into - 1]
            into -= 1
        times[into] = gap
    wanted = share * (gaps - 1)
    below = int(wanted)
    zeros = gaps - waits
    low = times[below - zeros] if below >= zeros else 0.0
    above = min(below + 1, gaps - 1)
    high = times[above - zeros] if above >= zeros else 0.0
    return low + (high - low) * (wanted - below)
