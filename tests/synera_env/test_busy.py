"""How busy the replayed cloud is: each check drawn anew, or all of them in the state that others leave."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.errors import SettingError
from synera_env import SyneraReplayEnv, chance
from synera_env.busy import DrawnBusy, SharedBusy, busy_of, read_cloud_load
from traces.errors import TraceError
from traces.profile import CloudProfile
from traces.synera.graph import GraphSet
from traces.workload.generators import poisson
from traces.workload.shared_cloud import SharedCloud
from traces.workload.store import save_workload

CLOUD = CloudProfile("gpu", "made up", 30.0, 0.1, (0.0, 20.0), (0.0, 40.0))
OTHERS = poisson(1.5, 120.0)
ALWAYS = {"confidence_threshold": 1.0, "importance_threshold": 0.0, "offload_budget": 1.0}


@pytest.fixture(scope="module")
def shared() -> SharedCloud:
    return SharedCloud.of(OTHERS, CLOUD)


def verdicts(env: SyneraReplayEnv, seed: int) -> list[Any]:
    """Those of an answer that checks every chunk."""
    episode = env.episode(seed=seed)
    knobs = env.schema.presets["always"]
    episode.session.begin(episode.prompt_tokens, knobs)
    while not episode.session.advance(knobs).done:
        pass
    return [record.verdict for record in episode.session.records if record.verdict is not None]


# ---------------------------------------------------------------- one answer


def test_drawn_checks_have_one_number_for_wait_and_load() -> None:
    busy = busy_of(CLOUD, None, 7)
    assert isinstance(busy, DrawnBusy)
    for check in range(1, 51):
        uniform, met = chance.uniform(7, chance.BUSY, check), busy.meets(check, 3.0, 5)
        assert met == busy.meets(check, 9.0, 5)  # whenever it comes, and however often it is asked
        assert met.queue_seconds == pytest.approx(0.020 * uniform)
        assert met.load == 1 + round(40 * uniform)
        assert met.compute_seconds == met.share_seconds == CLOUD.forward_seconds(5)


def test_a_shared_cloud_is_met_from_a_drawn_time_on(shared: SharedCloud) -> None:
    busy, other = (busy_of(CLOUD, shared, seed) for seed in (0, 1))
    assert isinstance(busy, SharedBusy)
    assert isinstance(other, SharedBusy)
    assert 0.0 <= busy.offset_seconds < shared.seconds
    assert busy.offset_seconds != other.offset_seconds
    assert busy.meets(1, 2.5, 6) == shared.meets(busy.offset_seconds + 2.5, 6)


# ---------------------------------------------------------------- the environment


def test_checks_of_an_answer_meet_the_workload(akin_graphs: GraphSet, shared: SharedCloud) -> None:
    env = SyneraReplayEnv(akin_graphs, cloud=CLOUD, cloud_load=shared)
    found = [v for seed in range(12) for v in verdicts(env, seed)]
    assert len({v.load for v in found}) > 5
    for v in found:
        assert v.compute_seconds >= CLOUD.forward_seconds(v.cloud_tokens)
        assert v.cloud_seconds <= v.compute_seconds
    assert any(v.cloud_seconds < 0.7 * v.compute_seconds for v in found), "some share a batch"
    assert verdicts(env, 3) == verdicts(env, 3)


def test_within_an_answer_the_load_changes_and_stays_related(akin_graphs: GraphSet, shared: SharedCloud) -> None:
    """As against independent draws: within an answer loads vary less than between answers."""

    def within_and_between(env: SyneraReplayEnv) -> tuple[float, float]:
        loads = [np.array([v.load for v in verdicts(env, seed)]) for seed in range(40)]
        loads = [each for each in loads if len(each) > 2]
        return float(np.mean([each.var() for each in loads])), float(np.var([each.mean() for each in loads]))

    within, between = within_and_between(SyneraReplayEnv(akin_graphs, cloud=CLOUD, cloud_load=shared))
    assert 0 < within < 0.5 * between
    within, between = within_and_between(SyneraReplayEnv(akin_graphs, cloud=CLOUD))
    assert between < within


def test_without_a_workload_nothing_changes(akin_graphs: GraphSet) -> None:
    plain, none = SyneraReplayEnv(akin_graphs, cloud=CLOUD), SyneraReplayEnv(akin_graphs, cloud=CLOUD, cloud_load=None)
    assert verdicts(plain, 5) == verdicts(none, 5)
    assert plain.provenance()["cloud_load"] is None


def test_a_workload_or_its_file_is_taken(akin_graphs: GraphSet, shared: SharedCloud, tmp_path: Path) -> None:
    save_workload(OTHERS, tmp_path / "w.json")
    expected = verdicts(SyneraReplayEnv(akin_graphs, cloud=CLOUD, cloud_load=shared), 1)
    for given in (OTHERS, tmp_path / "w.json", str(tmp_path / "w.json")):
        env = SyneraReplayEnv(akin_graphs, cloud=CLOUD, cloud_load=given)
        assert verdicts(env, 1) == expected
        assert env.provenance()["cloud_load"] == "poisson-1.5"


@pytest.mark.parametrize(("value", "said"), [(3, "cloud_load=3 must be"), ({"rate": 1.0}, "cloud_load=.* must be")])
def test_what_is_no_workload_is_refused(value: object, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        read_cloud_load(value, CLOUD)


def test_what_was_worked_out_for_another_cloud_is_refused(shared: SharedCloud) -> None:
    with pytest.raises(SettingError, match="was worked out for the profile 'gpu' and cloud is 'other'"):
        read_cloud_load(shared, replace(CLOUD, name="other"))
    with pytest.raises(TraceError, match="no workload at"):
        read_cloud_load("nowhere.csv", CLOUD)
