"""Stall-free against stop-and-wait: what drafting on while a check is in flight cuts off an answer's seconds, at equal tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agents.evaluation import Answered, PlannedAnswer, answer, make_plan
from agents.rules import FixedRule
from scripts._verifier import verifier_process
from scripts.benchmarks.harness import Figure, Setting
from synera_env import DecisionEnv, Knobs, Outages, SyneraReplayEnv
from synera_env.metrics import summarise
from synera_env.synera.schema import ALWAYS, THRESHOLD
from traces import bundled

_REPLAYED = 160
_MOST_LIVE = 12
"""Answers of each rule and kind; paced they take about two seconds each."""
_GOALS = {"always": (ALWAYS, 0.25), "threshold 0.7": (THRESHOLD, 0.08)}


def measure(setting: Setting) -> list[Figure]:
    """Measure the cut in replay on both sets of bundled links, and live, paced to the phone and the GPU.

    The bundled pair and its graphs serve whatever `setting.pair` is, as only they have recorded graphs.
    """
    figures = []
    for split in ("test", "train"):
        env = SyneraReplayEnv(bundled.graphs("test"), bundled.links(split), outages=Outages.never())
        plan = make_plan(env, _REPLAYED)
        figures += [_cut(f"in replay, {split} links", name, env, plan) for name in _GOALS]
    return figures + _live(min(setting.repetitions, _MOST_LIVE))


def _live(answers: int) -> list[Figure]:
    from runtime.client import CloudClient
    from synera_env.synera.live import SyneraLiveEnv

    with (
        verifier_process(model=bundled.PAIR / "llm", pace=bundled.profile("gpu")) as verifier,
        CloudClient(verifier.target) as client,
    ):
        env = SyneraLiveEnv(client, outages=Outages.never())
        try:
            return [_cut("live, paced, test links", name, env, make_plan(env, answers)) for name in _GOALS]
        finally:
            env.close()


def _cut(where: str, name: str, env: DecisionEnv, plan: Sequence[PlannedAnswer]) -> Figure:
    """The share of an answer's seconds that is cut off, over a plan; each answer is given both ways in turn."""
    knobs, goal = _GOALS[name]
    pairs = [tuple(_answered(env, planned, replace(knobs, draft_ahead=at)) for at in (0.0, 1.0)) for planned in plan]
    if differ := sum(ahead.tokens != waiting.tokens for ahead, waiting in pairs):
        raise AssertionError(f"{differ} of {len(pairs)} answers differ between stall-free and stop-and-wait")
    ahead, waiting = (summarise([a.metrics for a in each if a.metrics]) for each in zip(*pairs, strict=True))
    return Figure(
        name=f"cut in seconds an answer, {name}, {where}",
        value=100 * (1 - ahead["seconds"] / waiting["seconds"]),
        unit="%",
        goal=100 * goal,
        better="higher",
        peer=(
            f"stop-and-wait, same tokens: {waiting['seconds']:.3f} s and {waiting['joules']:.2f} J an answer, ours {ahead['seconds']:.3f} s and "
            f"{ahead['joules']:.2f} J; {ahead['hit_rate']:.0%} of guesses right, {len(pairs)} answers"
        ),
    )


def _answered(env: DecisionEnv, planned: PlannedAnswer, knobs: Knobs) -> Answered:
    return answer(env, FixedRule(knobs, env.schema), planned)
