"""Drafting on while a check is in flight: what is guessed, and that it changes times and energy and nothing else."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.session import Ahead
from runtime.synera.ahead import BONUS_MARGIN, Agreement, Guess, GuessRule, likeliest
from runtime.synera.chunk import Draft, DraftToken
from runtime.synera.knobs import Knobs
from tests.support.language import EOS, Toy, any_knobs, failures, llm, offload_all, prompts


def draft_of(*confidences: float, runner_share: float = 0.5) -> Draft:
    """Tokens 10, 11, ... whose runner-ups (100, 101, ...) have that share of what is left."""
    tokens = [
        DraftToken(10 + i, 0, c, c - runner_share * (1 - c), 0.1, 100 + i, np.zeros(16, np.float32))
        for i, c in enumerate(confidences)
    ]
    return Draft(tuple(tokens), 1.0, 0.0)


def guessing(seed: int) -> GuessRule:
    """A rule that guesses anything, right or wrong."""
    rng = random.Random(seed)

    def guess(draft: Draft, agreement: Agreement) -> Guess:
        accepted = rng.randint(0, len(draft.tokens))
        whole = accepted == len(draft.tokens)
        return Guess(accepted, None if whole and rng.random() < 0.7 else rng.randint(0, 50), rng.random())

    return guess


def with_clairvoyance(prompt: list[int], latency: float) -> Toy:
    """A toy whose guesses are right, as they know its LLM."""

    def guess(draft: Draft, agreement: Agreement) -> Guess:
        history, accepted = [*prompt, *toy.session.answer], 0
        while accepted < len(draft.ids) and llm([*history, *draft.ids[:accepted]]) == draft.ids[accepted]:
            accepted += 1
        return Guess(accepted, llm([*history, *draft.ids[:accepted]]), 1.0)

    toy = Toy(latencies=[latency] * 50, guess=guess)
    return toy


def aheads(toy: Toy) -> list[Ahead]:
    return [r.ahead for r in toy.session.records if r.ahead]


# ---------------------------------------------------------------- times, never tokens


@settings(max_examples=300, deadline=None)
@given(
    prompt=prompts,
    knobs=st.lists(any_knobs, min_size=1, max_size=12),
    fails=failures,
    latencies=st.lists(st.floats(0, 0.2), max_size=40),
    room=st.integers(1, 40),
    rule=st.none() | st.integers(0, 2**32),
)
def test_drafting_ahead_changes_no_token(
    prompt: list[int], knobs: list[Knobs], fails: list[str | None], latencies: list[float], room: int, rule: int | None
) -> None:
    """Chunk by chunk as with stop-and-wait, whatever is guessed and whenever verdicts come; and the time saved is as stated."""
    guess = likeliest if rule is None else guessing(rule)
    ahead = Toy(room=room, failures=fails, latencies=latencies, guess=guess)
    waiting = Toy(room=room, failures=fails, latencies=latencies)
    assert ahead.run(prompt, knobs) == waiting.run(prompt, [replace(k, draft_ahead=1.0) for k in knobs])
    for one, other in zip(ahead.session.records, waiting.session.records, strict=True):
        assert (one.committed, one.offloaded, one.error) == (other.committed, other.offloaded, other.error)
        assert (one.draft.ids, one.draft.importance) == (other.draft.ids, other.draft.importance)
        assert [t.exit_index for t in one.draft.tokens] == [t.exit_index for t in other.draft.tokens]
    assert ahead.verifier.checks == waiting.verifier.checks
    assert not aheads(waiting)
    saved = waiting.clock.now() - ahead.clock.now()
    assert saved == pytest.approx(sum(a.saved_seconds for a in aheads(ahead)), abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(prompt=prompts, knobs=st.lists(any_knobs, min_size=1, max_size=12), rule=st.integers(0, 2**32))
def test_a_verdict_may_come_at_any_moment(prompt: list[int], knobs: list[Knobs], rule: int) -> None:
    """Also between two looks at whether it is there, as a thread brings it."""
    ahead, waiting, coin = Toy(guess=guessing(rule)), Toy(), random.Random(rule)
    ahead.verifier.ready = lambda: coin.random() < 0.3  # type: ignore[method-assign]
    assert ahead.run(prompt, knobs) == waiting.run(prompt, [replace(k, draft_ahead=1.0) for k in knobs])


@settings(max_examples=50, deadline=None)
@given(prompt=prompts, length=st.integers(1, 8), latency=st.sampled_from([0.005, 0.05, 0.5]))
def test_a_right_guess_is_never_slower_and_a_slow_cloud_hides_all_drafting(
    prompt: list[int], length: int, latency: float
) -> None:
    toy = with_clairvoyance(prompt, latency)
    toy.run(prompt, [offload_all(length, 0.0)])
    first, *later = toy.session.records
    assert all(a.hit and a.saved_seconds >= -1e-9 for a in aheads(toy))
    if latency == 0.5:
        assert [r.draft.seconds for r in later] == [0.0] * len(later)
        assert all(r.cost.seconds == pytest.approx(0.5) for r in later)
    assert first.draft.seconds > 0


def test_one_chunk_is_drafted_ahead_and_no_more() -> None:
    """Nothing is decided without the controller, however long the verdict takes."""
    toy = Toy(draft=lambda prefix: 5, target=lambda prefix: 5, latencies=[10.0] * 9, room=30)
    toy.run([1], [offload_all(3, 0.0)])
    assert [(a.drafted, a.kept) for a in aheads(toy)][:2] == [(4, 3)] * 2  # the bonus is guessed by drafting it
    assert aheads(toy)[0].guess == (5, 5, 5, 5)


def test_the_bonus_may_leave_early_and_the_chunk_is_drafted_as_the_knobs_say() -> None:
    toy = Toy(draft=lambda prefix: 5, target=lambda prefix: 5, latencies=[1.0] * 9)
    toy.session.begin([1], Knobs(draft_length=2))
    toy.session.advance(replace(offload_all(2, 0.0), exit_index=1, exit_margin=0.9))
    assert toy.drafter.asked == [(-1, 1.0)] * 2 + [(1, BONUS_MARGIN)] + [(1, 0.9)] * 2


def test_a_wrong_guess_costs_energy_and_no_token() -> None:
    toy = Toy(draft=lambda prefix: 5, target=lambda prefix: 6, latencies=[0.5] * 9, room=4, guess=lambda *_: Guess(2, None, 1))
    assert toy.run([1], [offload_all(2, 0.0)]) == (6, 6, 6, 6)
    [wasted, *_] = aheads(toy)
    assert (wasted.hit, wasted.kept) == (False, 0)
    assert wasted.wasted_joules == pytest.approx(0.02)  # Energy: a joule a busy second; room for the bonus and no more
    assert toy.session.records[0].cost.joules == pytest.approx(0.02 + 0.02 + 10 * 0.48 + 120_000)


def test_a_verdict_that_comes_early_ends_the_drafting_after_the_token_in_hand() -> None:
    toy = Toy(draft=lambda prefix: 5, target=lambda prefix: 5, latencies=[0.025] + [0.0] * 9, room=20)
    toy.session.begin([1], offload_all(4))
    step = toy.session.advance(offload_all(4, 0.0))
    ahead = step.record.ahead
    assert ahead is not None
    assert (ahead.drafted, ahead.kept, ahead.hit) == (3, 2, True)
    assert ahead.saved_seconds == pytest.approx(0.02 - 0.005)
    assert step.point is not None
    assert step.point.draft.seconds == pytest.approx(0.02)  # the other two of four


@pytest.mark.parametrize(
    ("knobs", "failures", "guess"),
    [
        (offload_all(2, 1.0), [], likeliest),
        (Knobs(draft_length=2, draft_ahead=0.0), [], likeliest),  # kept: no check is in flight
        (offload_all(2, 0.0), ["at once"] * 20, likeliest),
        (offload_all(2, 0.5), [], lambda *_: Guess(2, None, 0.49)),
        (offload_all(2, 0.0), [], lambda *_: Guess(1, EOS, 1.0)),  # the guess is that the answer ends
    ],
)
def test_where_nothing_is_drafted_ahead_nothing_is_said(knobs: Knobs, failures: list[str | None], guess: GuessRule) -> None:
    toy = Toy(draft=lambda prefix: 5, target=lambda prefix: 5, failures=failures, guess=guess, room=8)
    toy.run([1], [knobs])
    assert [r.ahead for r in toy.session.records] == [None] * len(toy.session.records)


def test_nothing_is_drafted_after_the_last_token_of_the_room() -> None:
    toy = Toy(draft=lambda prefix: 5, target=lambda prefix: 5, room=3)
    toy.run([1], [offload_all(2, 0.0)])
    assert aheads(toy) == []


# ---------------------------------------------------------------- the guess


def test_a_sure_draft_is_taken_for_accepted_and_an_unsure_token_for_rejected() -> None:
    assert likeliest(draft_of(0.99, 0.98, 0.99), Agreement()).accepted == 3
    guess = likeliest(draft_of(0.99, 0.4, 0.99, runner_share=0.9), Agreement())
    assert (guess.accepted, guess.correction) == (1, 101)


def test_the_probability_of_a_guess_is_what_the_docstring_says() -> None:
    whole = likeliest(draft_of(0.9, 0.8), Agreement())
    assert whole.probability == pytest.approx(0.72 * math.sqrt(0.72))
    rejected = likeliest(draft_of(0.9, 0.3, runner_share=0.9), Agreement())
    assert rejected.probability == pytest.approx(0.9 * 0.7 * 0.9)


@settings(max_examples=200, deadline=None)
@given(
    confidences=st.lists(st.floats(0, 1), min_size=1, max_size=8),
    share=st.floats(0, 1),
    judged=st.lists(st.tuples(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.integers(0, 8)), max_size=5),
)
def test_a_guess_is_a_possible_outcome_with_a_probability(
    confidences: list[float], share: float, judged: list[tuple[list[float], int]]
) -> None:
    agreement = Agreement()
    for seen, accepted in judged:
        agreement.saw(draft_of(*seen), min(accepted, len(seen)))
    guess = likeliest(draft_of(*confidences, runner_share=share), agreement)
    assert 0.0 <= guess.probability <= 1.0
    if guess.correction is None:
        assert guess.accepted == len(confidences)
    else:
        assert confidences[guess.accepted] == min(confidences)
        assert guess.correction == 100 + guess.accepted


def test_agreement_is_learned_from_what_was_judged() -> None:
    kind, harsh = Agreement(), Agreement()
    assert kind.exponent == 1.0
    for _ in range(20):
        kind.saw(draft_of(0.5, 0.5), 2)
        harsh.saw(draft_of(0.9, 0.9), 0)
    assert kind.exponent == pytest.approx(1 / (1 + 40 * math.log(2)))
    assert harsh.exponent == pytest.approx(21 / (1 - 20 * math.log(0.9)))  # nothing is learned of the second token
    draft = draft_of(0.8, 0.8)
    assert likeliest(draft, kind).probability > likeliest(draft, Agreement()).probability
    assert likeliest(draft, harsh).accepted == 0
