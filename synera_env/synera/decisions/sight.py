"""What a device sees at a state: the observation of the schema, as the environment would encode it there.

What does not live here: the schema's rows (synera_env/synera/schema.py), and who looks (agents/).

Exact are the draft in hand, its importance, the progress of the answer, its prompt, and the preference. Of link and cloud a
device sees what the scenario says: before the first check a round trip, once the opening of the session was answered (here:
after the time that the tokens so far take at full depth), and from the first check on also the rest, as of a check of usual
size. History a state does not have: what past chunks were like, how many there were, how often they were asked about, accepted
and guessed. It is shown as before the first chunk, always; and a policy that has seen nothing else (a bundle's `seen`)
takes it for that on a device, too. So it is blind to history, and decides in the full replay as it does here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SettingError
from runtime.synera.lens import Lens, clues, importance_reached
from runtime.wire.sizes import on_the_link, open_request_bytes, open_response_bytes
from synera_env.reward import TERMS
from synera_env.schema import Schema, log_weight
from synera_env.synera.decisions.drafts import ASKED, look
from synera_env.synera.decisions.prices import Work
from synera_env.synera.decisions.process import Actions, DecisionProcess
from synera_env.synera.decisions.scenarios import Scenarios
from synera_env.synera.kernel.formulas import compiled
from synera_env.synera.replay import SyneraReplayEnv
from synera_env.synera.schema import log_seconds, log_throughput, throughput
from traces.profile import interpolated_quantile
from traces.synera.graph import GraphSet

HISTORY = {
    "past_confidence": 1.0,
    "past_importance": 0.0,
    "past_offloaded": 0.0,
    "past_accepted": 1.0,
    "acceptance": 0.5,
    "guess_hits": 0.5,
    "offload_rate": 0.0,
    "chunks": 0.0,
    "cloud_lost": 0.0,
}
"""What is shown of the past."""
_NOTHING_YET = {"rtt": -1.0, "rtt_known": 0.0, "throughput": 3.0, "queue": -3.0, "compute": -3.0, "load": 0.0}
_CHECK_TOKENS = 5
"""Of the check by which the cloud is seen."""


@dataclass(frozen=True, eq=False)
class Sight:
    """What is seen of the states of a process."""

    work: Work
    schema: Schema
    lens: Lens
    _felt: NDArray[np.float32] = field(init=False, repr=False)
    """[nodes, exits, 3]: confidence, margin and entropy."""
    _rejected: NDArray[np.float64] = field(init=False, repr=False)
    """[nodes, exits]: how likely the LLM rejects a token."""

    def __post_init__(self) -> None:
        arrays = self.work.process.graphs.arrays
        felt = np.stack([arrays[name] for name in ("confidence", "margin", "entropy")], 2).astype(np.float32)
        rejected = []
        for exit_index in range(felt.shape[1]):
            confidence, margin, entropy = felt[:, exit_index].T
            told = clues(confidence, margin, entropy, arrays["sketch"][:, exit_index].astype(np.float32))
            rejected.append(self.lens.rejected(exit_index, told))
        object.__setattr__(self, "_felt", felt)
        object.__setattr__(self, "_rejected", np.stack(rejected, 1))

    def observe(self, prompts: NDArray[np.int64], scenarios: Scenarios) -> NDArray[np.float32]:
        """Return the observations of all states of a batch of answers, [states of the batch, entries].

        Args:
            prompts: [answers].
            scenarios: of each answer.
        """
        process = self.work.process
        first, arrays = process.states.first, process.graphs.arrays
        states = np.concatenate([np.arange(first[p], first[p + 1]) for p in prompts])
        answer = np.repeat(np.arange(len(prompts)), first[prompts + 1] - first[prompts])
        seen = np.empty((len(states), len(self.schema.low)), np.float32)
        self._show(seen, HISTORY)
        last_node, last_exit, drafted = self._show_drafts(states, seen)
        seen[:, self.schema.places("sketch")] = arrays["sketch"][last_node, last_exit]
        depth = arrays["depth"][process.states.node[states]]
        prompt_tokens = np.diff(arrays["prompt_offsets"])[prompts][answer]
        room = np.minimum(process.graphs.meta.max_new_tokens, process.graphs.meta.context - prompt_tokens)
        weights = self._weights(scenarios)[answer]
        shown = dict(zip((f"weight_{term}" for term in TERMS), weights.T, strict=True))
        self._show(seen, {"progress": depth / room, "prompt_tokens": prompt_tokens / 128, **shown})
        self._show(seen, self._cloud(prompts, scenarios, states, answer, depth + drafted))
        return np.clip(seen, self.schema.low, self.schema.high, out=seen)

    def _show(self, seen: NDArray[np.float32], values: Mapping[str, NDArray | float]) -> None:
        for name, value in values.items():
            for place in self.schema.places(name):
                seen[:, place] = value

    def _show_drafts(
        self, states: NDArray[np.int64], seen: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Show the drafts in hand; return the node and exit of the last token of each, and how many tokens it has."""
        process = self.work.process
        s, arrays, ways = process.states, process.graphs.arrays, process.actions.drafting
        node, way = s.node[states], s.way[states]
        last_node, last_exit, stands = np.zeros(len(states), np.int64), np.zeros(len(states), np.int64), np.ones(len(states))
        base = arrays["node_offsets"][process.prompt_of(node)]
        columns = np.stack([self.schema.places(name) for name in ("confidence", "margin", "entropy")])
        single = np.array([self.schema.places(name)[0] for name in ("draft_tokens", "least_confidence", "mean_exit")])
        drafted = process.drafts.drafted[node, way.astype(np.int64)].astype(np.int64)
        out = columns, single, seen, last_node, last_exit, stands
        look(node, way, base, drafted, ways, arrays["exit_child"], self._felt, self._rejected, *out)
        importance = np.empty(len(states), np.float32)
        _rank(stands, drafted, self.lens.importance.astype(np.float64), importance)
        self._show(seen, {"importance": importance})
        return last_node, last_exit, drafted

    def _weights(self, scenarios: Scenarios) -> NDArray[np.float64]:
        low = [self.schema.low[self.schema.places(f"weight_{term}")[0]] for term in TERMS]
        return np.array([[log_weight(w, at) for w, at in zip(row, low, strict=True)] for row in scenarios.weights])

    def _cloud(
        self,
        prompts: NDArray[np.int64],
        scenarios: Scenarios,
        states: NDArray[np.int64],
        answer: NDArray[np.int64],
        tokens: NDArray[np.int64],
    ) -> dict[str, NDArray[np.float64]]:
        """What is seen of link and cloud, [states of the batch] each; `tokens` are those committed and drafted."""
        work, process = self.work, self.work.process
        asked = process.states.layer[states] == ASKED
        token_seconds, first_tokens = self._token_seconds, process.actions.first.draft_length
        opened = scenarios.seen[:, 0] + _trip(scenarios, on_the_link(open_request_bytes()), on_the_link(open_response_bytes()))
        elapsed = work.start[prompts][answer] + token_seconds * np.maximum(tokens - first_tokens, 0)
        known = asked | (elapsed >= opened[answer])
        up, down = self._usual_bytes
        network = scenarios.seen[:, 0] + _trip(scenarios, up, down)
        loads = [1 + round(interpolated_quantile(work.cloud.load_quantiles, busy)) for busy in scenarios.busy]
        waits = [interpolated_quantile(work.cloud.queue_ms_quantiles, busy) / 1e3 for busy in scenarios.busy]
        of_asked = {
            "throughput": np.array([log_throughput(throughput(up + down, each)) for each in network]),
            "queue": np.array([log_seconds(wait * times) for wait, times in zip(waits, scenarios.waits, strict=True)]),
            "compute": np.full(len(scenarios), log_seconds(work.cloud.forward_seconds(_CHECK_TOKENS))),
            "load": np.array(loads) / 8,
        }
        shown = {name: np.where(asked, values[answer], _NOTHING_YET[name]) for name, values in of_asked.items()}
        probed = np.where(asked, _log_seconds(network)[answer], _log_seconds(opened)[answer])
        return shown | {"rtt": np.where(known, probed, _NOTHING_YET["rtt"]), "rtt_known": known.astype(np.float64)}

    @cached_property
    def _usual_bytes(self) -> tuple[int, int]:
        """Of a check that follows another, up and down; where none does, of any."""
        later = self.work.process.states.layer == ASKED
        of_checks = later if later.any() else np.ones_like(later)
        up, down = (int(np.median(each[of_checks])) for each in (self.work.uplink_bytes, self.work.downlink_bytes))
        return up, down

    @cached_property
    def _token_seconds(self) -> float:
        """Of a token at full depth."""
        process = self.work.process
        full = process.actions.first_way
        drafted = process.drafts.drafted[:, full] > 0
        return float((self.work.drafting[drafted, full] / process.drafts.drafted[drafted, full]).mean())


def sight_of(env: SyneraReplayEnv, draft_ahead: float = 1.0) -> Sight:
    """Return the decision process over an environment's recorded graphs, with its costs, and what is seen of it.

    Raises:
        SettingError: the graphs grow; what they have grown to must be saved and read.
    """
    if not isinstance(env.graphs, GraphSet):
        raise SettingError("plans and fits are over recorded graphs; save those that grow, and give their file")
    return sight_by_now(env, draft_ahead)


def sight_by_now(env: SyneraReplayEnv, draft_ahead: float = 1.0) -> Sight:
    """Return the same, of graphs that grow over what is known by now."""
    graphs = env.graphs if isinstance(env.graphs, GraphSet) else env.graphs.known()
    process = DecisionProcess.of(graphs, Actions.of(env.schema, draft_ahead))
    return Sight(Work.of(process, env.device, env.cloud), env.schema, env.lens)


def _trip(scenarios: Scenarios, uplink_bytes: float, downlink_bytes: float) -> NDArray[np.float64]:
    """Seconds beside the round trip, by what is seen of the link."""
    return 8 * uplink_bytes / scenarios.seen[:, 1] + 8 * downlink_bytes / scenarios.seen[:, 2]


def _log_seconds(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([log_seconds(each) for each in seconds])


@compiled
def _rank(stands, drafted, quantiles, importance):  # type: ignore[no-untyped-def]
    """Turn how likely all tokens stand into the importance of each draft."""
    for state in range(len(stands)):
        importance[state] = importance_reached(1 - stands[state], quantiles[drafted[state]])
