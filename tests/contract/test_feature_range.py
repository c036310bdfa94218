"""What a controller is shown live lies inside what training showed it; otherwise it would act on what it never learned."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.evaluation import PlannedAnswer, answer, make_plan
from agents.fleet import run_fleet
from agents.rules import RandomRule
from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.client import CloudClient
from synera_env import Outages, Preference, SyneraReplayEnv, synera_schema
from synera_env.synera.live import SyneraLiveEnv
from tests.support.recorded import PHONE, Recorded, recorded
from traces import bundled
from traces.profile import CloudProfile

SCHEMA = synera_schema(exits=2)
BUSY = CloudProfile("busy", "made up", 30, 0.05, queue_ms_quantiles=(0.0, 1.0, 5.0, 45.0), load_quantiles=(0, 1, 3, 24))
ALONE = replace(BUSY, name="alone", queue_ms_quantiles=(0.0,), load_quantiles=(0,))
"""The same machine, where nobody is but who really asks: the devices of the test are each other's others."""
TIMES = {"rtt", "throughput", "queue", "compute"}
TIME_TOLERANCE = 1.0
"""In powers of ten: real machines take longer than the profiles, by what others do on them."""
TOLERANCE = 0.01
"""Sketches are kept in half precision."""
TRAINING, LIVE = 400, 12


class Watching(RandomRule):
    """Decides at random, and keeps what it was shown; thread-safe."""

    def __init__(self) -> None:
        super().__init__(SCHEMA)
        self._lock = threading.Lock()
        self._seen: list[NDArray[np.float32]] = []

    def predict(self, observation: Any, *arguments: Any, **named: Any) -> Any:
        with self._lock:
            self._seen.append(observation.copy())
        return super().predict(observation, *arguments, **named)

    @property
    def seen(self) -> NDArray[np.float32]:
        """[observations, entries]"""
        return np.stack(self._seen)


def trained_on(pair: Recorded, plan: Sequence[PlannedAnswer], outages: Outages | None, cloud: CloudProfile) -> Watching:
    env, watching = SyneraReplayEnv(pair.graphs, None, PHONE, cloud, None, outages), Watching()
    for planned in plan:
        answer(env, watching, planned)
    return watching


def outside(live: NDArray[np.float32], training: NDArray[np.float32]) -> Mapping[str, str]:
    """Entries that left the range of training, and how."""
    found = {}
    for place, entry in enumerate(SCHEMA.entries):
        slack = TIME_TOLERANCE if entry in TIMES else TOLERANCE
        low, high = training[:, place].min() - slack, training[:, place].max() + slack
        shown = live[:, place]
        if shown.min() < low or shown.max() > high:
            found[entry] = f"live {shown.min():.3f}..{shown.max():.3f}, training {low:.3f}..{high:.3f}"
    return found


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.fixture(scope="module")
def plan(pair: Recorded) -> list[PlannedAnswer]:
    """Answers on training links, with weights drawn for each; the first few are also answered live."""
    env = SyneraReplayEnv(pair.graphs, None, PHONE, BUSY)
    return [replace(planned, preference=Preference.sample(planned.seed)) for planned in make_plan(env, TRAINING)]


@pytest.fixture(scope="module")
def live(pair: Recorded, tiny_llm: Path, plan: list[PlannedAnswer]) -> NDArray[np.float32]:
    """What four paced devices were shown by a paced cloud over emulated training links, and when that cloud was killed."""
    watching, device, links = Watching(), pair.device(paced=True), bundled.links("train")
    with ExitStack() as served:
        config = ServerConfig(model=tiny_llm, pace=ALONE, grace_seconds=0)
        target = f"127.0.0.1:{served.enter_context(running_server(config))}"

        def make_env() -> SyneraLiveEnv:
            return SyneraLiveEnv(target, device, pair.prompts, pair.score, links)

        run_fleet(make_env, watching, plan[:LIVE], devices=4)
        with CloudClient(target) as client:
            env = SyneraLiveEnv(client, device, pair.prompts, pair.score, links)
            served.close()
            for planned in plan[:3]:
                answer(env, watching, planned)
            env.close()
    return watching.seen


def test_nothing_that_is_met_live_is_outside_of_what_training_saw(
    pair: Recorded, plan: list[PlannedAnswer], live: NDArray[np.float32]
) -> None:
    assert len(live) > 40
    training = trained_on(pair, plan, None, BUSY).seen
    assert not outside(live, training)
    for entry in ("cloud_lost", "load", "queue", "rtt_known", "past_offloaded[0]"):
        assert training[:, SCHEMA.entries.index(entry)].std() > 0.01, f"{entry} hardly varies in training"


def test_the_check_finds_what_a_training_without_losses_or_others_lacks(
    pair: Recorded, plan: list[PlannedAnswer], live: NDArray[np.float32]
) -> None:
    """As it was when replay lost no check, and had every check alone at the cloud."""
    crowded, place = live.copy(), SCHEMA.entries.index("load")
    crowded[0, place] = 1.0  # eight requests
    assert not outside(crowded, trained_on(pair, plan, None, BUSY).seen)
    assert set(outside(crowded, trained_on(pair, plan, Outages.never(), ALONE).seen)) >= {"cloud_lost", "load"}
