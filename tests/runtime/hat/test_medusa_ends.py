"""Medusa heads on a device: drafts are what they say of the state that came back, and answers the whole model's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.clock import RealClock
from runtime.hat.knobs import Knobs
from runtime.hat.ledger import MEDUSA_LAYERS, MedusaLedger, Work
from runtime.hat.medusa import MedusaHeads
from runtime.hat.medusa_ends import MedusaEnds
from runtime.model.split import Split
from tests.runtime.hat.test_session import any_knobs
from tests.support.hat import SplitWorld, prompts, save_heads

HEADS = 3
EAGER = Knobs(chunk_doublings=3, draft_threshold=0.0, draft_length=8, candidates=4)


@pytest.fixture(scope="module", params=["1", "2:1"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_deep: Path) -> SplitWorld:
    return SplitWorld(tmp_path_factory.mktemp("heads"), tiny_deep, Split.parse(request.param), save_heads)


@settings(max_examples=25)
@given(
    knobs=st.lists(any_knobs(precision=0), min_size=1, max_size=6),
    number=st.integers(0, 7),
    polls=st.sampled_from([0, 3]),
)
def test_whatever_is_decided_the_answer_is_the_whole_models_own(
    world: SplitWorld, knobs: list[Knobs], number: int, polls: int
) -> None:
    prompt = world.device.encode(prompts()[number])
    session = world.session(polls=polls)
    session.begin(prompt, knobs[0])
    turn = 0
    while not session.advance(knobs[min(turn, len(knobs) - 1)]).done:
        turn += 1
    assert session.answer == world.greedy(prompt)
    for record in session.records:
        assert len(record.draft) <= min(record.knobs.draft_length, HEADS)
        assert record.ahead is None


def test_drafts_are_what_the_heads_say_of_the_models_last_state(world: SplitWorld) -> None:
    whole, heads = world.models.model, world.device.adapter
    assert isinstance(heads, MedusaHeads)
    accepted = 0
    for text in prompts():
        prompt, session = world.device.encode(text), world.session(polls=5)
        session.begin(prompt, EAGER)
        known = len(prompt)
        while not (step := session.advance(EAGER)).done:
            if step.record.draft:
                ids = torch.tensor([*prompt, *session.answer][: known - 1])  # the state that said the last committed token
                final = whole.run(whole.embed(ids), torch.arange(len(ids)), whole.new_cache())[-1:]
                said = heads.logits(whole, final)[0].softmax(-1)
                assert [t.token for t in step.record.draft] == said.argmax(-1)[: len(step.record.draft)].tolist()
                for token, chances in zip(step.record.draft, said, strict=False):
                    assert token.confidence == pytest.approx(float(chances.max()), abs=1e-4)
            accepted += step.record.accepted
            known = len(prompt) + len(session.answer)
    assert accepted > 0


def test_nothing_is_drafted_ahead_and_no_more_than_there_are_heads(world: SplitWorld) -> None:
    d = world.device
    assert isinstance(d.adapter, MedusaHeads)
    ends = MedusaEnds(d.ends, d.split, d.adapter, RealClock(), d.profile)
    prompt = d.encode(prompts()[0])
    ends.begin(prompt)
    ends.ready_to_draft()
    ends.states(0, len(prompt))
    ends.choose([torch.randn(len(prompt), d.ends.config.hidden)], 1)
    assert ends.commit(len(prompt), 9) == ()
    drafted = [ends.draft() for _ in range(HEADS + 2)]
    assert [token is None for token in drafted] == [False] * HEADS + [True] * 2
    assert ends.branch(4) == 0


def test_the_heads_are_run_once_for_all_that_they_say() -> None:
    ledger = MedusaLedger(2, 1, HEADS)
    ledger.begin(10)
    assert ledger.run(10) == [Work(2, 10)]
    ledger.commit(10, 0)
    assert [ledger.draft() for _ in range(3)] == [[Work(HEADS * MEDUSA_LAYERS, 1)], [], []]
    assert ledger.length == 14
    assert ledger.run(14) == [Work(2, 4)]  # their first layers, once they are uploaded
    ledger.commit(12, 0)
    assert ledger.draft() == [Work(HEADS * MEDUSA_LAYERS, 1)]
    ledger.begin(3)
    assert ledger.draft() == [Work(HEADS * MEDUSA_LAYERS, 1)]
