"""The contract of the vector environment: row i is the scalar environment with seed i, step for step, whatever the knobs,
the links, the cloud, the outages and the graphs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from agents.vector import CompiledVecEnv, SideBySideVecEnv
from synera_env import DiscreteChoices, Preference
from synera_env.radio import Outages
from synera_env.synera.replay import SyneraReplayEnv
from synera_env.synera.vector import SyneraReplayVectorEnv
from tests.support.cuts import likeliest
from tests.support.growing import bare, growing
from tests.support.recorded import GPU, LINKS, PHONE, Recorded, recorded
from traces import bundled
from traces.links.generators import constant_link, markov_link
from traces.links.trace import LinkTrace
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet
from traces.synera.record_models import Models
from traces.workload.generators import poisson
from traces.workload.trace import Workload

CHECKED = np.array([1.0, -1.0, 1.0, 1.0, 0.0, -1.0, 1.0], np.float32)
"""Every chunk of four is checked, and the device always drafts on."""
NEVER_ENDS = {"every_seconds": 0.8, "mean_seconds": 0.6, "loss_rate": 0.2}


def actions(rng: np.random.Generator, rows: int, checked: float) -> NDArray[np.float32]:
    """Any settings, values beyond the bounds among them; `checked` is the share of entries that are those of CHECKED."""
    drawn = rng.uniform(-1.1, 1.1, (rows, len(CHECKED)))
    return np.where(rng.random(drawn.shape) < checked, CHECKED, drawn).astype(np.float32)


def plain(infos: Mapping[str, Any], row: int) -> dict[str, float]:
    return {name: float(values[row]) for name, values in infos.items()}


class Twins:
    """A vector environment, and a scalar one for each row; every step is compared."""

    def __init__(
        self, rows: int, seed: int, mode: AutoresetMode = AutoresetMode.SAME_STEP, off: float = 0.0, **world: Any
    ) -> None:
        """Observations may be off by so much: nodes that are run once more, in another wave, differ in their last bits."""
        self.off = off
        self.vector = SyneraReplayVectorEnv(rows, **world, autoreset_mode=mode)
        self.scalars = [SyneraReplayEnv(**world) for _ in range(rows)]
        self.mode, self.over, self.met = mode, np.zeros(rows, bool), Counter[str]()
        self.reset(seed=seed)

    def same(self, one: NDArray[np.float32], other: NDArray[np.float32]) -> None:
        np.testing.assert_allclose(one, other, rtol=0, atol=self.off)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        seen, info = self.vector.reset(seed=seed, options=options)
        for row, env in enumerate(self.scalars):
            one, wanted = env.reset(seed=None if seed is None else seed + row, options=options)
            self.same(seen[row], one)
            assert {name: info[name][row] for name in wanted} == wanted
        self.over[:] = False

    def step(self, chosen: NDArray[np.float32]) -> None:
        seen, rewards, terminated, truncated, info = self.vector.step(chosen)
        for row, env in enumerate(self.scalars):
            if self.over[row]:
                self.same(seen[row], env.reset()[0])
                assert (rewards[row], terminated[row], truncated[row]) == (0.0, False, False)
                assert all(math.isnan(value) for value in plain(info["knobs"], row).values())
                self.over[row] = False
                continue
            one, reward, ends, leaves, wanted = env.step(chosen[row])
            assert (terminated[row], truncated[row]) == (ends, leaves), wanted
            assert rewards[row] == pytest.approx(reward, rel=1e-12, abs=0)
            assert plain(info["reward_terms"], row) == {"quality": 0.0} | wanted["reward_terms"]
            assert plain(info["knobs"], row) == wanted["knobs"]
            np.testing.assert_array_equal(info["vector_reward"][row], wanted.get("vector_reward", np.zeros(5)))
            assert (info["offloaded"][row], info["uncovered"][row]) == (wanted["offloaded"], wanted["uncovered"])
            self.met.update({"offloaded": int(wanted["offloaded"]), "left": int(leaves), "ended": int(ends)})
            if ends or leaves:
                self._over(row, one, info, wanted, seen[row])
            else:
                self.same(seen[row], one)
        self._masks()

    def _masks(self) -> None:
        """What can be done now is the same; the choices one by one where not all of them can."""
        masks = self.vector.action_masks()
        for row, env in enumerate(self.scalars):
            if self.over[row]:
                continue
            assert env.point.cloud_shut == (not masks[row].all())
            if env.point.cloud_shut:
                self.met["shut"] += 1
                np.testing.assert_array_equal(masks[row], DiscreteChoices(env).action_masks())

    def _over(self, row: int, last: NDArray[np.float32], info: dict[str, Any], wanted: dict[str, Any], seen: Any) -> None:
        assert info["_final_obs"][row]
        self.same(info["final_obs"][row], last)
        assert info["final_info"]["_episode_metrics"][row] == ("episode_metrics" in wanted)
        if "episode_metrics" in wanted:
            assert info["quality_known"][row] == wanted["quality_known"]
            found = plain(info["final_info"]["episode_metrics"], row)
            assert found == pytest.approx(wanted["episode_metrics"], rel=1e-9, abs=1e-12, nan_ok=True)
            self.met.update(lost=found["lost_chunks"], guessed=not math.isnan(found["hit_rate"]))
        if self.mode == AutoresetMode.SAME_STEP:
            self.same(seen, self.scalars[row].reset()[0])
        else:
            self.same(seen, last)
            self.over[row] = True


@pytest.mark.parametrize(
    ("checked", "outages", "load"),
    [(0.0, None, None), (0.5, None, None), (0.7, NEVER_ENDS, None), (0.7, None, poisson(1.5, 90.0))],
    ids=["any knobs", "mostly checked", "mostly cut off", "a shared cloud"],
)
def test_12_000_random_steps_are_equal(checked: float, outages: dict[str, float] | None, load: Workload | None) -> None:
    """On the bundled graphs, which are open, and links."""
    rows, steps = 16, 200
    rng, twins = np.random.default_rng(steps), Twins(rows, seed=rows * steps, outages=outages, cloud_load=load)
    for _ in range(steps):
        twins.step(actions(rng, rows, checked))
    assert min(twins.met[what] for what in ("offloaded", "left", "ended", "guessed")) > 40
    assert twins.met["lost"] > (100 if outages else 0)
    assert twins.met["shut"] > (100 if outages else 0)


milliseconds = st.sampled_from([0.0, 0.3, 7.0, 90.0])
quantiles = st.lists(st.sampled_from([0.0, 1.5, 40.0, 900.0, 4000.0]), min_size=1, max_size=6).map(sorted).map(tuple)
devices = st.builds(
    DeviceProfile,
    *(st.just("made up"), st.just("made up")),
    *(milliseconds, milliseconds, milliseconds, milliseconds),
    *(st.sampled_from([0.0, 3.0]), st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 5.0])),
)
clouds = st.builds(CloudProfile, st.just("made up"), st.just("made up"), milliseconds, milliseconds, quantiles, quantiles)
links = st.one_of(
    st.builds(
        constant_link, st.sampled_from([0.0, 20.0, 700.0]), st.sampled_from([0.001, 10.0]), st.sampled_from([0.002, 10.0])
    ),
    st.builds(lambda seed: markov_link(seed, seconds=15.0), st.integers(0, 50)),
    st.just(
        LinkTrace("gaps", "made up", 0.5, np.array([10.0, 90.0, 40.0]), np.array([0.0, 0.01, 5.0]), np.array([2.0, 0.0, 0.005]))
    ),
)
outages = st.builds(
    Outages, st.sampled_from([0.4, 5.0, math.inf]), st.sampled_from([0.0, 0.5, 3.0]), st.sampled_from([0.0, 0.01, 0.5])
)
worlds = st.fixed_dictionaries(
    {
        "links": st.lists(links, min_size=1, max_size=3),
        "device": devices,
        "cloud": clouds,
        "outages": outages,
        "preference": st.none() | st.just(Preference(0.0, 1.0, 0.0, 0.5, 3.0)),
        "cloud_load": st.none() | st.builds(poisson, st.sampled_from([1.0, 3.0]), st.just(20.0), seed=st.integers(0, 9)),
        "check_deadline": st.sampled_from([1.0, 2.0, 50.0]),
    }
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    world=worlds,
    seed=st.integers(0, 2**32),
    checked=st.sampled_from([0.0, 0.6, 0.9]),
    mode=st.sampled_from([AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP]),
    data=st.data(),
)
def test_any_world_is_equal(
    world: dict[str, Any],
    seed: int,
    checked: float,
    mode: AutoresetMode,
    data: st.DataObject,
    tiny_graphs: GraphSet,
    akin_graphs: GraphSet,
) -> None:
    """Links with gaps and without, slow and instant devices and clouds, closed graphs and cut ones, both modes."""
    if world["cloud"].forward_seconds(1) == 0.0:
        world["cloud_load"] = None  # nobody waits for a cloud that takes no time
    graphs = data.draw(st.sampled_from([tiny_graphs, akin_graphs, likeliest(akin_graphs, 0.8)]))
    rng, twins = np.random.default_rng(seed), Twins(3, seed, mode, graphs=graphs, **world)
    for _ in range(25):
        twins.step(actions(rng, 3, checked))


# ---------------------------------------------------------------- graphs that grow


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.fixture(scope="module")
def models(pair: Recorded) -> Models:
    return Models.load(pair.slm, pair.llm)


@pytest.mark.parametrize(
    ("mode", "node_limit"), [(AutoresetMode.SAME_STEP, None), (AutoresetMode.NEXT_STEP, None), (AutoresetMode.SAME_STEP, 30)]
)
def test_rows_over_graphs_that_grow_are_equal(
    mode: AutoresetMode, node_limit: int | None, pair: Recorded, models: Models
) -> None:
    """From one node a prompt, the last of them given up again and again; scalar environments read what the rows' waves found out."""
    graphs = growing(models, bare(pair.graphs), pair.score, node_limit)
    rng, twins = (
        np.random.default_rng(0),
        Twins(6, 3, mode, 0.02 if node_limit else 0.0, graphs=graphs, links=LINKS, device=PHONE, cloud=GPU),
    )
    for _ in range(80):
        twins.step(actions(rng, 6, 0.4))
    assert twins.met["left"] == 0
    assert min(twins.met["ended"], twins.met["offloaded"], twins.met["guessed"]) > 10
    assert graphs.nodes_run > 100


def test_rows_run_what_walkers_side_by_side_run_and_in_as_few_waves(pair: Recorded, models: Models) -> None:
    sets = [growing(models, bare(pair.graphs), pair.score) for _ in range(2)]
    compiled, walkers = (SyneraReplayEnv(graphs, LINKS, PHONE, GPU) for graphs in sets)
    one = CompiledVecEnv(compiled.vector(8))
    other = SideBySideVecEnv([lambda env=env: env for env in walkers.siblings(8)])  # type: ignore[misc]
    for env in (one, other):
        env.seed(5)
        env.reset()
    rng = np.random.default_rng(0)
    for _ in range(60):
        chosen = actions(rng, 8, 0.4)
        np.testing.assert_allclose(one.step(chosen)[0], other.step(chosen)[0], atol=0.02)  # figures differ with the wave
    assert sets[0].nodes_run == sets[1].nodes_run > 100
    assert sets[0].runs.counts.waves <= 1.1 * sets[1].runs.counts.waves


def test_what_was_given_up_leaves_room_for_others(pair: Recorded, models: Models) -> None:
    graphs = growing(models, bare(pair.graphs), pair.score, node_limit=1)
    env = SyneraReplayEnv(graphs, LINKS, PHONE, GPU).vector(2)
    env.reset(seed=0)
    rng, rooms = np.random.default_rng(0), []
    for _ in range(200):
        env.step(actions(rng, 2, 0.4))
        rooms.append(sum(len(taken.places) for taken in env._pool._taken.values()))
    assert graphs.nodes_run > 5 * max(rooms)


def test_a_wave_that_fails_leaves_the_rows_where_they_were(
    pair: Recorded, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = growing(models, bare(pair.graphs), pair.score)
    rng, twins = np.random.default_rng(0), Twins(4, 3, graphs=graphs, links=LINKS, device=PHONE, cloud=GPU)
    failed = 0
    for _ in range(30):
        chosen = actions(rng, 4, 0.4)
        with monkeypatch.context() as broken:
            broken.setattr(graphs.runs, "serve", out_of_memory)
            try:
                twins.vector.step(chosen)
            except MemoryError:
                failed += 1
            else:
                break
        twins.step(chosen)
    assert failed > 3


def out_of_memory(wants: object) -> None:
    if wants:
        raise MemoryError


def test_reset_goes_on_seeds_again_and_takes_options() -> None:
    """Past the seeds that are drawn ahead, too."""
    rng, twins = np.random.default_rng(0), Twins(2, seed=5, graphs=bundled.graphs("test"))
    for _ in range(80):
        twins.reset()
    twins.step(actions(rng, 2, 0.5))
    twins.reset(seed=9)
    options = {"prompt": 3, "link": 1, "link_offset_seconds": 2.5, "preference": Preference(latency=0.7)}
    for kept in (options, {"link": 2}, {"preference": {"energy": 0.0}}):
        twins.reset(options=kept)
        for _ in range(40):
            twins.step(actions(rng, 2, 0.5))
    twins.reset(seed=9, options=options)
