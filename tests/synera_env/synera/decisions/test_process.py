"""The process over token graphs, held against the full replay: the same decisions lead to the same tokens, sights and costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.counterfactual.policy import ChoiceController, ChoiceNet
from agents.evaluation import PlannedAnswer
from agents.evaluation import answer as answer_one
from runtime.errors import SettingError
from synera_env import synera_schema
from synera_env.synera.decisions.drafts import KEPT
from synera_env.synera.decisions.process import Actions
from synera_env.synera.decisions.scenarios import Scenario, Scenarios
from synera_env.synera.decisions.sight import HISTORY, sight_of
from synera_env.synera.replay import SyneraReplayEnv
from tests.support.cuts import holed
from tests.support.decisions import NEAR, PLAIN, outcome, whole, world
from traces.synera.graph import GraphSet

OF_CLOUD = {"rtt", "rtt_known", "throughput", "queue", "compute", "load"}


def _columns(env: SyneraReplayEnv, names: set[str]) -> list[int]:
    return [place for name in sorted(names) for place in env.schema.places(name)]


def _walks(graphs: GraphSet, seed: int, *profiles):  # type: ignore[no-untyped-def]
    """Random decisions in the replay and in the process: yields (env, sight, batch, answer, [(state, observation, env's reward, process's)])."""
    env, sight = world(graphs, *profiles)
    batch, matrix, rng = whole(sight), sight.work.process.actions.matrix(env.schema), np.random.default_rng(seed)
    states = sight.work.process.states
    for answer, prompt in enumerate(batch.prompts.tolist()):
        seen, _ = env.reset(seed=seed, options={"prompt": prompt})
        state, steps, done = int(states.root[prompt]), [], False
        while not done:
            action = int(rng.integers(len(matrix)))
            found = outcome(batch, answer, state, action)
            before, (seen, reward, done, truncated, info) = (state, seen), env.step(matrix[action])
            steps.append((*before, reward, None if found is None else found[0] + found[2], info))
            if truncated:
                assert found is None  # what the replay does not know, the process does not
                break
            if found is None:  # ... and it knows no more of what leads nowhere
                break
            assert done == (found[1] is None)
            state = found[1] if found[1] is not None else -1
        yield env, sight, batch, answer, steps


@pytest.mark.parametrize("seed", range(4))
def test_the_same_decisions_are_the_same_answer_at_the_same_cost(akin_graphs: GraphSet, seed: int) -> None:
    """Where nothing is owed, reward by reward; but for bytes, of which the process knows the mean."""
    chunks = 0
    for _, _, batch, answer, steps in _walks(akin_graphs, seed, *PLAIN):
        paid = [process for _, _, _, process, _ in steps]
        earned = [reward for _, _, reward, _, _ in steps]
        # the replay charges a draft with the decision on it, the process with the decision that it was drafted by
        assert sum(paid) - batch.prices.start[answer] == pytest.approx(sum(earned), abs=2e-5)
        assert steps[-1][4]["reward_terms"]["quality"] > 0 or paid[-1] <= 0
        chunks += len(steps)
    assert chunks > 12


@pytest.mark.parametrize("seed", range(4))
def test_what_is_owed_is_charged_at_once_so_never_too_little(akin_graphs: GraphSet, seed: int) -> None:
    differences = []
    for _, _, batch, answer, steps in _walks(akin_graphs, seed):
        paid = sum(process for _, _, _, process, _ in steps) - batch.prices.start[answer]
        differences.append(paid - sum(reward for _, _, reward, _, _ in steps))
    assert max(differences) < 2e-5
    assert min(differences) > -0.01  # a tail's debts


def test_a_state_is_seen_as_the_replay_encodes_it(akin_graphs: GraphSet) -> None:
    checked = 0
    for env, sight, batch, answer, steps in _walks(akin_graphs, 1):
        states = sight.work.process.states
        prompt = batch.prompts[[answer]]
        seen = sight.observe(prompt, Scenarios.constant(Scenario(NEAR), 1))
        first, blind = states.first[prompt[0]], _columns(env, {*HISTORY})
        cloud = _columns(env, OF_CLOUD)
        exact = [place for place in range(seen.shape[1]) if place not in {*blind, *cloud}]
        for number, (state, observation, *_) in enumerate(steps):
            row = seen[state - first]
            np.testing.assert_allclose(row[exact], observation[exact], rtol=1e-6, atol=1e-6)
            # of link and cloud about what is measured, as the first check is larger than others
            np.testing.assert_allclose(row[cloud], observation[cloud], atol=0.35)
            if number == 0:
                np.testing.assert_array_equal(row[blind], observation[blind])
                assert states.layer[state] == KEPT
            checked += 1
    assert checked > 12


def test_what_was_not_recorded_cannot_be_done(akin_graphs: GraphSet) -> None:
    cut = holed(akin_graphs, 0.1, seed=3, from_depth=6)
    left = sum(steps[-1][3] is None for *_, steps in _walks(cut, 0))
    assert left > 0  # and _walks asserts that the process knows it whenever the replay leaves


def test_every_state_can_come_to_an_end(akin_graphs: GraphSet) -> None:
    _, sight = world(holed(akin_graphs, 0.1, seed=3, from_depth=6))
    states = sight.work.process.states
    for state in range(len(states.node)):
        node_layers = [(states.keep[state], states.layer[state]), (states.check[state], 1)]
        assert any(
            node >= 0 and (states.ended[node] or (states.state[node, :, layer] > state).any()) for node, layer in node_layers
        )


def test_actions_are_the_schemas_choices_one_to_one() -> None:
    schema = synera_schema(2)
    actions = Actions.of(schema)
    assert [replace(knobs, draft_ahead=0.3) for knobs in actions.knobs] == list(schema.choices)
    assert len(np.unique(actions.matrix(schema), axis=0)) == 24 == 2 * actions.ways
    first = actions.knobs[actions.first_way]
    assert (first.exit_index, first.exit_margin, first.draft_length) == (1, 1.0, 4)
    with pytest.raises(SettingError, match=r"draft_ahead=1\.5"):
        Actions.of(schema, 1.5)


def test_actions_of_other_exits_are_refused(akin_graphs: GraphSet) -> None:
    from synera_env.synera.decisions.process import DecisionProcess

    with pytest.raises(SettingError, match="exit_index=2 of an action is not one of the 2 exits"):
        DecisionProcess.of(akin_graphs, Actions.of(synera_schema(3)))


def test_a_policy_is_worth_in_the_replay_what_the_process_says(akin_graphs: GraphSet) -> None:
    """A network that decides by what it sees: first in the process, then as a controller of the full replay."""
    env, sight = world(akin_graphs, *PLAIN)
    batch = whole(sight)
    seen = sight.observe(batch.prompts, batch.scenarios)
    for seed in range(5):
        torch.manual_seed(seed)
        net = ChoiceNet(env.schema, 24, 8)
        with torch.no_grad():
            net.body[-1].weight.mul_(100)
        cloud = _columns(env, OF_CLOUD)
        low, high = seen.min(0), seen.max(0)
        low[cloud] = high[cloud] = 0.0  # blind to link and cloud, of which the process knows the usual, not the very
        net.scaling.has_seen(low, high)
        weights = net.probabilities(seen)
        policy = (weights == weights.max(1, keepdims=True)).astype(float)
        said = batch.value(policy).answers
        controller = ChoiceController(net, sight.work.process.actions, env.schema)
        for prompt, value in zip(batch.prompts.tolist(), said, strict=True):
            metrics = answer_one(env, controller, PlannedAnswer(prompt, 0, 0.0, seed)).metrics
            assert metrics is not None
            assert metrics.reward == pytest.approx(value, abs=2e-5)


def test_graphs_that_grow_are_refused() -> None:
    class Growing:
        graphs = object()

    with pytest.raises(SettingError, match="over recorded graphs; save those that grow"):
        sight_of(Growing())  # type: ignore[arg-type]
