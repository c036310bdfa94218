"""What the steps of answers cost in their scenarios: by the profiles, in the unit of the reward.

What does not live here: which steps there are (process.py), and what the scenarios are (scenarios.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from runtime.wire.sizes import greedy_request_bytes, on_the_link, varint_bytes, verify_response_bytes
from synera_env.reward import TERMS
from synera_env.synera.decisions.drafts import ASKED
from synera_env.synera.decisions.process import DecisionProcess
from synera_env.synera.decisions.scenarios import Scenarios
from traces.profile import CloudProfile, DeviceProfile, interpolated_quantile

_SEQ = 8
"""Number of a check in its session, as far as its bytes go; ours."""


class Prices(NamedTuple):
    """What is paid in a batch of answers, whose states lie one prompt after the other, as compiled code reads it."""

    quality: NDArray[np.float64]
    """[answers]: of a task score of 1."""
    start: NDArray[np.float64]
    """[answers]: of the first draft, the reading of the prompt included."""
    per_second: NDArray[np.float64]
    """[answers]: of the device's own seconds."""
    keeping: NDArray[np.float64]
    """[states of the batch]: of what is owed for keeping the draft."""
    asking: NDArray[np.float64]
    """[states of the batch]: of a check of the draft, and what is owed after it."""
    drafting: NDArray[np.float64]
    """[nodes, ways]: seconds of the next draft."""


@dataclass(frozen=True, eq=False)
class Work:
    """What the steps of all states of a process come to on a device and a cloud, before anything is priced."""

    process: DecisionProcess
    device: DeviceProfile
    cloud: CloudProfile
    drafting: NDArray[np.float64]
    """[nodes, ways]: seconds."""
    start: NDArray[np.float64]
    """[prompts]: seconds of the first draft."""
    kept_seconds: NDArray[np.float64]
    """[states]: owed to the device after keeping the draft."""
    checked_seconds: NDArray[np.float64]
    """[states]: after a check."""
    kept_tokens: NDArray[np.float64]
    """[states]: that the cloud must catch up with."""
    tokens: NDArray[np.float64]
    """[states]: that the cloud processes for a check."""
    uplink_bytes: NDArray[np.float64]
    downlink_bytes: NDArray[np.float64]

    @classmethod
    def of(cls, process: DecisionProcess, device: DeviceProfile, cloud: CloudProfile) -> Self:
        """Work it out."""
        s, d, arrays = process.states, process.drafts, process.graphs.arrays
        seconds, at = process.seconds(device), (s.node, s.way.astype(np.int64))
        drafted, asked = d.drafted[at].astype(np.int64), s.layer == ASKED
        prompt_tokens = np.diff(arrays["prompt_offsets"])
        history = prompt_tokens[process.prompt_of(s.node)] + arrays["depth"][s.node]
        tokens = drafted + np.where(asked, 1, history)
        up = _request_bytes(np.where(asked, 1, history), drafted, arrays["exit_token"])
        down = on_the_link(verify_response_bytes(2, 200, 8, 1))
        goes_on = [(n >= 0) & ~s.ended[n] for n in (s.keep, s.check)]
        root, first = s.root[process.startable], np.zeros(len(process.graphs))
        first[process.startable] = seconds.drafting[s.node[root], s.way[root]]
        return cls(
            process,
            device,
            cloud,
            drafting=seconds.drafting,
            start=first + seconds.prompt_position * (prompt_tokens - 1),
            kept_seconds=np.where(goes_on[0], seconds.left_kept[at], 0.0),
            checked_seconds=np.where(goes_on[1], seconds.left_checked[at], 0.0),
            kept_tokens=np.where(goes_on[0] & asked, drafted, 0).astype(np.float64),
            tokens=tokens.astype(np.float64),
            uplink_bytes=up,
            downlink_bytes=np.full(len(up), float(down)),
        )

    @property
    def mean_wait(self) -> float:
        """Mean seconds that a check waits at the cloud, by its profile."""
        shares = (np.arange(1000) + 0.5) / 1000
        return float(np.mean([interpolated_quantile(self.cloud.queue_ms_quantiles, share) for share in shares])) / 1e3

    def prices(self, prompts: NDArray[np.int64], scenarios: Scenarios) -> Prices:
        """Price the steps of answers.

        Args:
            prompts: [answers]; several may be of one prompt.
            scenarios: of each answer.
        """
        first, d, c = self.process.states.first, self.device, self.cloud
        weight = dict(zip(TERMS, scenarios.weights.T, strict=True))
        busy = weight["latency"] + weight["energy"] * d.busy_watts
        waiting = weight["latency"] + weight["energy"] * d.wait_watts
        megabyte = weight["traffic"] + weight["energy"] * d.radio_joules_per_mb
        rtt, uplink, downlink = scenarios.link.T
        token = (waiting + weight["cost"]) * (c.forward_seconds(1) - c.forward_seconds(0))
        check = waiting * (rtt + scenarios.waits * self.mean_wait) + (waiting + weight["cost"]) * c.forward_seconds(0)
        states = np.concatenate([np.arange(first[p], first[p + 1]) for p in prompts])
        counts = first[prompts + 1] - first[prompts]

        def of_states(price: NDArray[np.float64], what: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.repeat(price, counts) * what[states]

        asking = np.repeat(check, counts) + of_states(token, self.tokens) + of_states(busy, self.checked_seconds)
        asking += of_states(waiting * 8 / uplink + megabyte / 1e6, self.uplink_bytes)
        asking += of_states(waiting * 8 / downlink + megabyte / 1e6, self.downlink_bytes)
        keeping = of_states(busy, self.kept_seconds) + of_states(token, self.kept_tokens)
        return Prices(weight["quality"].copy(), busy * self.start[prompts], busy, keeping, asking, self.drafting)


def _request_bytes(
    context: NDArray[np.integer], drafted: NDArray[np.integer], said: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Bytes of checks by their tokens; a token's are the mean of those that are said."""
    a_token = float(np.mean([varint_bytes(token) for token in said[said >= 0][:100_000].tolist()]))
    occurs = np.zeros((context.max(initial=0) + 1, drafted.max(initial=0) + 1), np.bool_)
    occurs[context, drafted] = True
    sizes = np.zeros(occurs.shape)
    for n, m in np.argwhere(occurs).tolist():
        sizes[n, m] = on_the_link(greedy_request_bytes(0 if n > 1 else 64, round(n * a_token), round(m * a_token), _SEQ))
    return sizes[context, drafted]
