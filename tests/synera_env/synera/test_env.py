from __future__ import annotations

import math
import warnings
from dataclasses import asdict
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import synera_env
from runtime.errors import SettingError
from runtime.synera.knobs import Knobs
from synera_env.radio import Outages
from synera_env.reward import Preference
from synera_env.synera.replay import SyneraReplayEnv
from synera_env.synera.schema import ALWAYS, NEVER
from tests.support.graphs import CLOUD, DEVICE
from traces.errors import TraceError
from traces.links.generators import constant_link, markov_link
from traces.synera.graph import GraphSet

KNOBS = len(synera_env.synera_schema(2).rows)
LINKS = (constant_link(), markov_link(3, seconds=20.0))
NONE = Outages.never()
WEIGHTS = Preference(quality=1.0, latency=0.2, cost=3.0, energy=0.01, traffic=5.0)


def make(graphs: GraphSet, **changes: Any) -> SyneraReplayEnv:
    """An environment in which no check is lost, unless outages are given."""
    return SyneraReplayEnv(graphs, **({"links": LINKS, "device": DEVICE, "cloud": CLOUD, "outages": NONE} | changes))


@pytest.fixture
def env(akin_graphs: GraphSet) -> SyneraReplayEnv:
    return make(akin_graphs)


def trajectory(env: SyneraReplayEnv, seed: int | None, actions: int = 0, answers: int = 3) -> list[np.ndarray]:
    """Observations, rewards and starts of some answers under a fixed sequence of random actions."""
    rng, seen = np.random.default_rng(actions), []
    for answer in range(answers):
        observation, info = env.reset(seed=seed if answer == 0 else None)
        seen += [observation, np.array([info["link_offset_seconds"]])]
        done = False
        while not done:
            observation, reward, terminated, truncated, _ = env.step(rng.uniform(-1, 1, KNOBS).astype(np.float32))
            done = terminated or truncated
            seen += [observation, np.array([reward])]
    return seen


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def answer(env: SyneraReplayEnv, knobs: Knobs, **options: Any) -> dict[str, float]:
    """Answer with the same knobs throughout; return the metrics."""
    env.reset(seed=0, options=options)
    while True:
        *_, terminated, truncated, info = env.step(env.schema.action(knobs))
        assert not truncated
        if terminated:
            metrics: dict[str, float] = info["episode_metrics"]
            return metrics


# ---------------------------------------------------------------- Gymnasium


def test_gymnasium_s_own_checks_pass(akin_graphs: GraphSet) -> None:
    env = gym.make("SyneraReplay-v0", graphs=akin_graphs, links=LINKS, device=DEVICE, cloud=CLOUD, render_mode="ansi")
    assert synera_env.SyneraReplayEnv is type(env.unwrapped)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    env.close()


def test_both_worlds_are_registered() -> None:
    assert not gym.spec("SyneraReplay-v0").nondeterministic
    assert gym.spec("SyneraLive-v0").nondeterministic


def test_an_environment_can_be_made_from_a_graph_file(akin_graphs: GraphSet, tmp_path: Any) -> None:
    akin_graphs.save(tmp_path / "graphs.safetensors")
    path = str(tmp_path / "graphs.safetensors")
    env = gym.make("SyneraReplay-v0", graphs=path, links=LINKS, device=DEVICE, cloud=CLOUD, outages=NONE)
    assert same(trajectory(env.unwrapped, 4), trajectory(make(akin_graphs), 4))  # type: ignore[arg-type]


def test_the_bundled_links_and_profiles_are_the_default(akin_graphs: GraphSet) -> None:
    env = SyneraReplayEnv(akin_graphs)
    assert (env.device.name, env.cloud.name) == ("phone", "gpu")
    assert len(env.links) > 1
    assert env.outages == Outages()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"render_mode": "human"}, ValueError, "render_mode='human'"),
        ({"check_deadline": 0.5}, ValueError, r"check_deadline=0\.5 must be a number in 1\.\.1000"),
        ({"check_deadline": None}, ValueError, r"check_deadline=None must be a number in 1\.\.1000"),
        ({"graphs": "nowhere/graphs.safetensors"}, TraceError, "no graph file at nowhere/graphs.safetensors"),
    ],
)
def test_arguments_that_do_not_fit_are_named(
    akin_graphs: GraphSet, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(**({"graphs": akin_graphs} | changes))


def test_the_deadline_s_factor_is_that_of_every_episode(akin_graphs: GraphSet) -> None:
    env = make(akin_graphs, check_deadline=7.5)
    assert env.provenance()["check_deadline"] == 7.5
    episode: Any = env.episode(seed=0)
    episode.session.begin(episode.prompt_tokens, env.schema.first_knobs)
    assert episode.session._verifier._patience.check_deadline == 7.5


# ---------------------------------------------------------------- seeds


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_a_seed_gives_the_same_answers_in_any_environment(akin_graphs: GraphSet, env: SyneraReplayEnv, seed: int) -> None:
    first = trajectory(env, seed)
    assert same(first, trajectory(env, seed)), "in the same environment, after other answers"
    assert same(first, trajectory(make(akin_graphs), seed))


def test_seeds_give_different_answers(env: SyneraReplayEnv) -> None:
    runs = [trajectory(env, seed) for seed in range(4)]
    assert not any(same(runs[i], runs[j]) for i in range(4) for j in range(i))


def test_zero_is_a_seed(env: SyneraReplayEnv) -> None:
    one, two = env.reset(seed=0), env.reset(seed=0)
    assert env.np_random_seed == 0
    assert one[1] == two[1]
    assert np.array_equal(one[0], two[0])
    assert not np.array_equal(env.reset()[0], env.reset()[0]), "without a seed the generator goes on"


def test_what_is_given_does_not_shift_what_is_drawn(env: SyneraReplayEnv) -> None:
    _, drawn = env.reset(seed=7)
    _, given_prompt = env.reset(seed=7, options={"prompt": 3})
    assert given_prompt["link_offset_seconds"] == drawn["link_offset_seconds"]
    assert given_prompt["link"] == drawn["link"]


def test_actions_do_not_change_what_later_answers_draw(akin_graphs: GraphSet) -> None:
    """Each answer has its own generator, so controllers meet the same prompts, links, weights and outages, whatever they do."""
    env, starts = make(akin_graphs, outages=None), []
    for action in (NEVER, ALWAYS):
        _, info = env.reset(seed=3)
        for _ in range(6):
            while not env.step(env.schema.action(action))[2]:
                pass
            observation, info = env.reset()
            starts.append((tuple(info.values()), tuple(observation[-5:]), env._episode.session._verifier._radio.outages))
    assert starts[:6] == starts[6:]
    assert len(set(starts)) == 6


def test_what_meets_an_answer_depends_on_its_seed_alone(akin_graphs: GraphSet) -> None:
    """Queue times, of checks that are sent alike, do not depend on what came before the seed, nor on outages being drawn."""
    waits = []
    for outages in (NONE, Outages(every_seconds=1e9, mean_seconds=1.0, loss_rate=0.0)):
        env = make(akin_graphs, outages=outages)
        env.reset()
        answer(env, ALWAYS, prompt=2)
        waits.append([r.verdict.queue_seconds for r in env.session.records if r.verdict])
    assert waits[0] == waits[1]
    assert len(set(waits[0])) > 1


# ---------------------------------------------------------------- steps


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), prompt=st.integers(0, 5))
def test_every_step_keeps_its_promises(env: SyneraReplayEnv, seed: int, prompt: int) -> None:
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed, options={"prompt": prompt})
    assert env.observation_space.contains(observation)
    assert (info["prompt"], info["kind"]) == (env.graphs.meta.prompts[prompt], env.graphs.meta.kinds[prompt])
    total, rewards, done = 0.0, 0, False
    while not done:
        action = rng.uniform(-1.3, 1.3, KNOBS).astype(np.float32)
        observation, reward, done, truncated, info = env.step(action)
        assert env.observation_space.contains(observation)
        assert not truncated
        assert not info["uncovered"]
        assert reward == sum(info["reward_terms"].values())
        assert info["knobs"] == asdict(env.schema.knobs(action))
        assert info["offloaded"] == env.session.records[-1].offloaded
        assert done == ("episode_metrics" in info)
        if not done:
            assert info["reward_terms"]["quality"] == 0.0
        total, rewards = total + reward, rewards + 1
    metrics = info["episode_metrics"]
    assert metrics["chunks"] == rewards == len(env.session.records)
    assert metrics["reward"] == pytest.approx(total)
    assert metrics["quality"] == pytest.approx(info["reward_terms"]["quality"])  # the weight of quality is 1
    assert sum(r.cost.seconds for r in env.session.records) == pytest.approx(metrics["seconds"])


def test_the_rewards_of_an_answer_are_its_metrics_by_the_weights(akin_graphs: GraphSet) -> None:
    env = make(akin_graphs, preference=WEIGHTS)
    for prompt in range(6):
        m = answer(env, Knobs(confidence_threshold=1.0, offload_budget=0.5, draft_length=2), prompt=prompt)
        wanted = (
            m["quality"]
            - 0.2 * m["seconds"]
            - 3.0 * m["cloud_seconds"]
            - 0.01 * m["joules"]
            - 5.0 * (m["uplink_bytes"] + m["downlink_bytes"]) / 1e6
        )
        assert m["reward"] == pytest.approx(wanted)


@pytest.mark.parametrize("prompt", range(6))
def test_never_has_the_slm_s_quality_and_always_the_llm_s(env: SyneraReplayEnv, prompt: int) -> None:
    graph = env.graphs[prompt]
    for knobs, children, rate in (
        (Knobs(), graph.exit_child[:, -1], 0.0),
        (Knobs(confidence_threshold=1.0, offload_budget=1.0), graph.llm_child, 1.0),
    ):
        node = 0
        while np.isnan(graph.score[node]):
            node = int(children[node])
        found = answer(env, knobs, prompt=prompt)
        assert found["quality"] == pytest.approx(graph.score[node])
        assert (found["tokens"], found["offload_rate"]) == (graph.depth[node], rate)


# ---------------------------------------------------------------- preference


def test_a_fixed_preference_is_observed_and_never_drawn(akin_graphs: GraphSet) -> None:
    env = make(akin_graphs, preference=WEIGHTS)
    for seed in range(3):
        assert env.reset(seed=seed)[0][-5:] == pytest.approx(np.log10([1.0, 0.2, 3.0, 0.01, 5.0]))


def test_without_one_each_answer_draws_its_own(env: SyneraReplayEnv) -> None:
    env.reset(seed=0)
    drawn = {tuple(env.reset()[0][-5:]) for _ in range(5)}
    assert len(drawn) == 5


@pytest.mark.parametrize("fixed", [None, Preference()])
def test_a_reset_may_give_the_preference(akin_graphs: GraphSet, fixed: Preference | None) -> None:
    env = make(akin_graphs, preference=fixed)
    observation, _ = env.reset(seed=0, options={"preference": WEIGHTS})
    assert observation[-5:] == pytest.approx(np.log10([1.0, 0.2, 3.0, 0.01, 5.0]))
    *_, info = env.step(env.schema.action(Knobs(draft_length=1)))
    record = env.session.records[0]
    assert info["reward_terms"]["latency"] == pytest.approx(-0.2 * record.committed_at)
    assert not np.allclose(env.reset(seed=0)[0][-5:], observation[-5:]), "it holds for that answer alone"


# ---------------------------------------------------------------- reset options


def test_reset_options_choose_the_world(env: SyneraReplayEnv) -> None:
    _, info = env.reset(seed=0, options={"prompt": 4, "link": 1, "link_offset_seconds": 2.5})
    assert info == {
        "prompt": env.graphs.meta.prompts[4],
        "kind": env.graphs.meta.kinds[4],
        "link": LINKS[1].name,
        "link_offset_seconds": 2.5,
    }


def test_draws_cover_all_prompts_links_and_offsets(env: SyneraReplayEnv) -> None:
    env.reset(seed=0)
    infos = [env.reset()[1] for _ in range(80)]
    assert {i["prompt"] for i in infos} == set(env.graphs.meta.prompts)
    assert {i["link"] for i in infos} == {link.name for link in LINKS}
    assert max(i["link_offset_seconds"] for i in infos if i["link"] == LINKS[1].name) > 10


def test_the_offset_is_felt(env: SyneraReplayEnv) -> None:
    always = Knobs(confidence_threshold=1.0, offload_budget=1.0)
    times = {answer(env, always, prompt=2, link=1, link_offset_seconds=s)["seconds"] for s in (0.0, 5.0, 10.0, 15.0)}
    assert len(times) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"promt": 1}, "unknown reset option 'promt'; known are prompt, link, link_offset_seconds, preference"),
        ({3: 1}, "unknown reset option 3"),
        ("prompt", "options='prompt' must be a mapping"),
        (7, "options=7 must be a mapping"),
        *[
            ({"prompt": bad}, "reset option prompt=.* must be a whole number in 0..5")
            for bad in (6, -1, True, 1.0, 1.5, "1", [1])
        ],
        *[({"link": bad}, "reset option link=.* must be a whole number in 0..1") for bad in (2, -1, False, 0.0, "0", LINKS[0])],
        *[
            ({"link_offset_seconds": bad}, "reset option link_offset_seconds=.* must be a number in 0..20")
            for bad in (-0.1, math.nan, math.inf, 1e300, 10**400, "1", True, [1.0], 20.1)
        ],
        ({"link": 0, "link_offset_seconds": 1.5}, "link_offset_seconds=1.5 must be a number in 0..1"),
        ({"preference": {"latency": -1}}, "preference.* preference weight latency=-1"),
        ({"preference": {"speed": 1}}, "preference has no field 'speed'; a Preference has quality, latency"),
        ({"preference": {"cost": "high"}}, "preference is not a Preference: cost: .*'high'"),
        *[({"preference": bad}, "preference=.* must be a Preference or a mapping") for bad in (0.1, "fast", (1, 2, 3, 4, 5))],
    ],
)
def test_options_that_make_no_sense_are_named_before_anything_happens(env: SyneraReplayEnv, options: Any, message: str) -> None:
    env.reset(seed=1)
    env.step(np.zeros(KNOBS, np.float32))
    session, drawn = env.session, env.np_random.bit_generator.state
    for start in (env.reset, env.episode):
        with pytest.raises(SettingError, match=message):
            start(seed=0, options=options)
    assert env.session is session
    assert env.np_random.bit_generator.state == drawn
    env.step(np.zeros(KNOBS, np.float32))  # the answer under way goes on


@pytest.mark.parametrize("seed", [-1, 1.5, "0", True, math.nan, [1]])
def test_a_seed_that_makes_no_sense_is_named_before_anything_happens(env: SyneraReplayEnv, seed: Any) -> None:
    env.reset(seed=1)
    session = env.session
    for start in (env.reset, env.episode):
        with pytest.raises(SettingError, match=r"seed=.* must be a whole number that is not negative"):
            start(seed=seed)
    assert env.session is session


def test_options_may_be_numpy_s_and_weights_a_mapping(env: SyneraReplayEnv) -> None:
    options = {
        "prompt": np.int64(2),
        "link": np.int32(1),
        "link_offset_seconds": np.float32(2.5),
        "preference": {"latency": 0.3},
    }
    observation, info = env.reset(seed=np.int64(4), options=options)  # type: ignore[arg-type]
    assert (info["prompt"], info["link"], info["link_offset_seconds"]) == (env.graphs.meta.prompts[2], LINKS[1].name, 2.5)
    assert observation[-4] == pytest.approx(math.log10(0.3))
    assert env.reset(seed=4)[1] == env.reset(seed=4, options={"prompt": None, "link": None})[1]


# ---------------------------------------------------------------- misuse


def test_a_step_needs_an_answer_under_way(env: SyneraReplayEnv) -> None:
    action = np.zeros(KNOBS, np.float32)
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.step(action)
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.session
    answer(env, Knobs())
    with pytest.raises(RuntimeError, match="again after an episode has ended"):
        env.step(action)
    env.reset(seed=0)
    env.close()
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.step(action)
