"""Live answers held against replayed ones; here the replay plays both parts, so that differences can be planted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.agreement import agreement
from agents.evaluation import Answered, answer, make_plan
from agents.registry import controller
from synera_env.synera.replay import SyneraReplayEnv


@pytest.fixture
def answered(env: SyneraReplayEnv) -> list[Answered]:
    rule = controller("random", env.schema)
    return [answer(env, rule, planned) for planned in make_plan(env, 4)]


def test_the_same_answers_agree_in_everything(env: SyneraReplayEnv, answered: list[Answered]) -> None:
    found = agreement(env, answered, answered)
    assert (found.tokens_identical, found.same_knobs, found.same_tokens, found.differences) == (1.0, 1.0, 1.0, ())
    assert found.bytes_identical == 1.0
    assert found.replay_error["seconds"] == {"mean": 0.0, "p95": 0.0}


def test_a_live_answer_that_the_replay_does_not_reproduce_is_counted_and_shown(
    env: SyneraReplayEnv, answered: list[Answered]
) -> None:
    first = answered[0].records[0]
    wrong = replace(first, committed=(*first.committed[:-1], first.committed[-1] + 1))
    live = [replace(answered[0], records=(wrong, *answered[0].records[1:])), *answered[1:]]
    found = agreement(env, live, answered)
    assert (found.tokens_identical, found.bytes_identical) == (0.75, 0.75)
    assert [d.split(":")[0] for d in found.differences] == ["chunk 1"]
    assert (found.same_knobs, found.same_tokens) == (1.0, 1.0)  # what it decided and said was the same


def test_bytes_that_the_replay_does_not_reproduce_are_counted_although_the_tokens_are_the_same(
    env: SyneraReplayEnv, answered: list[Answered]
) -> None:
    first = answered[0].records[0]
    longer = replace(first, cost=replace(first.cost, downlink_bytes=first.cost.downlink_bytes + 1))
    live = [replace(answered[0], records=(longer, *answered[0].records[1:])), *answered[1:]]
    found = agreement(env, live, answered)
    assert (found.tokens_identical, found.bytes_identical) == (1.0, 0.75)


def test_knobs_and_tokens_that_differ_are_counted(env: SyneraReplayEnv, answered: list[Answered]) -> None:
    first = answered[0].records[0]
    other = replace(first, knobs=replace(first.knobs, draft_length=first.knobs.draft_length % 8 + 1))
    replayed = [replace(answered[0], records=(other, *answered[0].records[1:]), tokens=(1,)), *answered[1:]]
    found = agreement(env, answered, replayed)
    assert (found.tokens_identical, found.same_knobs, found.same_tokens) == (1.0, 0.75, 0.75)


def test_times_that_differ_are_relative_to_the_live_ones(env: SyneraReplayEnv, answered: list[Answered]) -> None:
    slower = [replace(a, metrics=replace(a.metrics, seconds=2.0 * a.metrics.seconds)) for a in answered if a.metrics]
    assert agreement(env, slower, answered).replay_error["seconds"]["mean"] == pytest.approx(0.5)


def test_answers_of_another_plan_are_refused(env: SyneraReplayEnv, answered: list[Answered]) -> None:
    with pytest.raises(ValueError, match="shorter"):
        agreement(env, answered, answered[:-1])
