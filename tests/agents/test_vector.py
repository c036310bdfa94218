"""Environments stepped side by side: as Stable-Baselines3's own vector steps them, and together where graphs grow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.vector import SideBySideVecEnv
from synera_env import Outages, SyneraReplayEnv
from tests.support.growing import bare, growing
from tests.support.recorded import GPU, LINKS, PHONE, Recorded, recorded
from traces.synera.growing import GrowingGraphs
from traces.synera.record_models import Models

ENVS, STEPS = 5, 60


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.fixture
def grown(pair: Recorded) -> GrowingGraphs:
    return growing(Models.load(pair.slm, pair.llm), bare(pair.graphs), pair.score)


def played(kind: type[DummyVecEnv], graphs: Any) -> list[tuple[Any, ...]]:
    """What random actions come to, step by step."""
    envs = [SyneraReplayEnv(graphs, LINKS, PHONE, GPU, outages=Outages.never()) for _ in range(ENVS)]
    vector = kind([lambda env=env: env for env in envs])  # type: ignore[misc]
    vector.seed(3)
    vector.set_options({"prompt": 1})
    rng, found = np.random.default_rng(0), [(vector.reset(), vector.reset_infos)]
    for _ in range(STEPS):
        actions = rng.uniform(-1, 1, (ENVS, *vector.action_space.shape)).astype(np.float32)
        found.append((*vector.step(actions), list(vector.reset_infos)))
    vector.close()
    return found


def assert_same(one: Any, other: Any, tolerance: float = 0.0) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key], tolerance)
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b, tolerance)
    elif isinstance(one, np.ndarray | float):
        np.testing.assert_allclose(one, other, atol=tolerance, rtol=0)
    else:
        assert one == other


def test_where_nothing_grows_it_is_the_vector_of_stable_baselines(pair: Recorded) -> None:
    assert_same(played(SideBySideVecEnv, pair.graphs), played(DummyVecEnv, pair.graphs))


def test_over_graphs_that_grow_it_is_as_over_recorded_ones_and_in_waves(pair: Recorded, grown: GrowingGraphs) -> None:
    # Sketches are kept in half precision.
    assert_same(played(SideBySideVecEnv, grown), played(DummyVecEnv, pair.graphs), tolerance=0.02)
    assert grown.nodes_run > 50
    assert grown.runs.counts.waves < grown.nodes_run / 1.5


def test_a_mistake_in_one_environment_reaches_the_caller(pair: Recorded, grown: GrowingGraphs) -> None:
    envs = [SyneraReplayEnv(grown, LINKS, PHONE, GPU) for _ in range(3)]
    vector = SideBySideVecEnv([lambda env=env: env for env in envs])  # type: ignore[misc]
    vector.reset()
    envs[1].close()
    actions = np.zeros((3, *vector.action_space.shape), np.float32)
    with pytest.raises(RuntimeError, match="call reset"):
        vector.step(actions)
    vector.reset()
    vector.step(actions)
