"""What is seen of a figure: the ranking by hand, and labels that are what settling a chunk both ways gives."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import signals
from agents.evaluation import PlannedAnswer, answer, make_plan
from agents.rules import FIGURES, ChanceRule, FixedRule
from agents.signals import OFFLOAD_RATE, measure_signals, ranking
from synera_env import Knobs, UncoveredError
from synera_env.synera.replay import SyneraReplayEnv
from synera_env.synera.schema import ALWAYS, NEVER


@pytest.mark.parametrize(
    ("doubts", "needs", "wanted"),
    [
        ([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], 1.0),
        ([0.1, 0.2, 0.3, 0.4], [1, 1, 0, 0], 0.0),
        ([0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1], 0.75),
        ([0.5, 0.5, 0.5], [0, 1, 0], 0.5),
    ],
)
def test_a_ranking_is_the_share_of_pairs_in_order(doubts: list[float], needs: list[int], wanted: float) -> None:
    assert ranking(np.array(doubts), np.array(needs, bool)) == wanted


@pytest.mark.parametrize("needs", [[True, True], [False, False]])
def test_without_pairs_there_is_no_ranking(needs: list[bool]) -> None:
    assert np.isnan(ranking(np.array([0.1, 0.2]), np.array(needs)))


@given(doubts=st.lists(st.integers(0, 4), min_size=2, max_size=30), seed=st.integers(0, 9))
def test_turning_the_doubt_round_turns_the_ranking_round(doubts: list[int], seed: int) -> None:
    values = np.array(doubts, float)
    needs = np.random.default_rng(seed).random(len(values)) < 0.5
    if needs.any() and not needs.all():
        assert ranking(values, needs) + ranking(-values, needs) == pytest.approx(1.0)


def test_chunks_are_labelled_by_what_the_world_does(env: SyneraReplayEnv) -> None:
    rejected, matters, count = 0, 0, 0
    for planned in make_plan(env, 6):
        met = answer(env, ChanceRule(OFFLOAD_RATE, env.schema), planned)
        for place in range(len(met.records)):
            way = [r.offloaded for r in met.records[:place]]
            sent, kept = (settle(env, planned, [*way, offload]) for offload in (True, False))
            rejected += sent[1]
            matters += sent[0] > kept[0] + 1e-6
            count += 1
    found = measure_signals(env, 6)
    assert (found.chunks, found.rejected, found.matters) == (
        count,
        pytest.approx(rejected / count),
        pytest.approx(matters / count),
    )
    assert 0 < matters <= rejected < count
    assert set(found.figures) == set(FIGURES)
    for signal in found.figures.values():
        assert signal.rejected is not None
        assert signal.rejected.low <= signal.rejected.mean <= signal.rejected.high


def settle(env: SyneraReplayEnv, planned: PlannedAnswer, offloads: list[bool]) -> tuple[float, bool]:
    """Step through an answer by hand; return its score, and whether a token of the last of these chunks was rejected."""
    options = {name: getattr(planned, name) for name in ("prompt", "link", "link_offset_seconds", "preference")}
    env.reset(seed=planned.seed, options=options)
    done, place, cut = False, 0, False
    while not done:
        offload = offloads[place] if place < len(offloads) else True
        *_, done, _, info = env.step(env.schema.action(ALWAYS if offload else NEVER))
        if place == len(offloads) - 1:
            cut = env.session.records[-1].accepted < env.session.records[-1].judged
        place += 1
    return info["episode_metrics"]["quality"], cut


def test_kept_or_checked_the_llm_writes_what_follows(env: SyneraReplayEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = signals._settled, []

    def settled(env: SyneraReplayEnv, planned: PlannedAnswer, knobs: list[Knobs], then: Knobs) -> object:
        records, score = real(env, planned, knobs, then)
        asked.append(knobs[-1])
        assert all(r.offloaded for r in records[len(knobs) :])
        return records, score

    monkeypatch.setattr(signals, "_settled", settled)
    chunks = measure_signals(env, 6).chunks
    assert asked == [ALWAYS, NEVER] * chunks


def test_the_same_seed_gives_the_same_and_each_answer_is_told(env: SyneraReplayEnv) -> None:
    told: list[None] = []
    assert measure_signals(env, 6, finished=lambda: told.append(None)) == measure_signals(env, 6)
    assert len(told) == 6


def test_chunks_that_leave_the_graphs_are_left_out_and_counted(env: SyneraReplayEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by itself: the others of its answer count."""
    whole = measure_signals(env, 6)
    assert whole.covered == 1.0
    real, lost = signals._settled, {2: 1}  # from that chunk of the answer to that prompt on

    def settled(env: SyneraReplayEnv, planned: PlannedAnswer, knobs: Sequence[Knobs], *more: object) -> object:
        if len(knobs) > lost.get(planned.prompt, 99):
            raise UncoveredError("gone")
        return real(env, planned, knobs, *more)

    monkeypatch.setattr(signals, "_settled", settled)
    of_lost = sum(len(answer(env, ChanceRule(OFFLOAD_RATE, env.schema), p).records) for p in make_plan(env, 6) if p.prompt == 2)
    assert of_lost > 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a share that depends on the pair
        found = measure_signals(env, 6)
    assert found.chunks == whole.chunks - of_lost + 1
    assert found.covered == pytest.approx(found.chunks / whole.chunks)
    lost.update(dict.fromkeys(range(5), 0))
    with pytest.warns(UserWarning, match=r"how figures rank chunks rests on \d+% of those met"):
        measure_signals(env, 6)
    lost[5] = 0
    with pytest.raises(UncoveredError, match="both ways"):
        measure_signals(env, 6)


def test_a_world_where_all_are_alike_is_no_number(env: SyneraReplayEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """An LLM that agrees with every draft leaves no pairs to order."""
    records = answer(env, FixedRule(NEVER, env.schema), make_plan(env, 1)[0]).records
    monkeypatch.setattr(signals, "_settled", lambda *_: (records * 9, 1.0))
    found = measure_signals(env, 2)
    assert (found.rejected, found.matters) == (0.0, 0.0)
    assert all(s.rejected is s.matters is s.matters_uncertain is None for s in found.figures.values())
