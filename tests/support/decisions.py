"""Worlds over the akin pair's graphs, and walks in the process beside the replay, for the tests of counterfactual training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agents.counterfactual.batch import Batch
from synera_env import Preference, SyneraReplayEnv
from synera_env.radio import Outages
from synera_env.synera.decisions.drafts import ASKED
from synera_env.synera.decisions.scenarios import Scenario, Scenarios
from synera_env.synera.decisions.sight import Sight, sight_of
from tests.support.graphs import CLOUD, DEVICE
from traces.links.generators import constant_link
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet

NEAR = constant_link(rtt_ms=1.0)
IDLE = replace(CLOUD, queue_ms_quantiles=(0.0,))
PLAIN = replace(DEVICE, position_ms=0.0), replace(IDLE, token_ms=0.0)
"""Profiles by which nothing is owed: a further position, and a further token of the cloud's, cost nothing."""


def world(graphs: GraphSet, device: DeviceProfile = DEVICE, cloud: CloudProfile = IDLE) -> tuple[SyneraReplayEnv, Sight]:
    """The full replay without outages, and the process over the same graphs."""
    env = SyneraReplayEnv(graphs, [NEAR], device, cloud, Preference(), Outages.never())
    return env, sight_of(env)


def whole(sight: Sight) -> Batch:
    """One answer to each prompt, over the near link."""
    prompts = sight.work.process.startable
    return Batch.of(sight.work, prompts, Scenarios.constant(Scenario(NEAR), len(prompts)))


def outcome(batch: Batch, answer: int, state: int, action: int) -> tuple[float, int | None, float] | None:
    """What an action comes to by the tables, written plainly: reward, the next state (None at the end), the score paid at the end; None
    where it is not known.

    Args:
        batch: whose prices.
        answer: which of its answers.
        state: of the process.
        action: number.
    """
    process, prices = batch.work.process, batch.prices
    s, here = process.states, state - process.states.first[batch.prompts[answer]] + batch.at[answer]
    asks, way = divmod(action, process.actions.ways)
    node, paid = (s.check[state], prices.asking[here]) if asks else (s.keep[state], prices.keeping[here])
    if node < 0:
        return None
    if s.ended[node]:
        return -paid, None, prices.quality[answer] * s.score[node]
    following = s.state[node, way, ASKED if asks else s.layer[state]]
    return None if following < 0 else (-paid - prices.per_second[answer] * prices.drafting[node, way], int(following), 0.0)


def random_policy(batch: Batch, seed: int) -> NDArray[np.float64]:
    """Any probabilities, [states of the batch, actions]."""
    drawn = np.random.default_rng(seed).exponential(size=(batch.states, len(batch.work.process.actions.knobs))) ** 3
    return drawn / drawn.sum(1, keepdims=True)
