"""The device's part over a real model: what is drafted ahead is what waiting would have drafted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.clock import RealClock
from runtime.hat.ends import ModelEnds, cut_ahead
from runtime.hat.knobs import MAX_DRAFT_LENGTH
from runtime.hat.values import DraftToken
from runtime.model.loading import load_ends
from runtime.model.split import Split
from tests.support.checkpoints import save_checkpoint
from tests.support.hat import SplitWorld, prompts, save_adapter

KINDS = {"Llama": {}, "Mistral": {"sliding_window": 7}, "Qwen2": {}, "Qwen3": {"head_dim": 16}}


class NoCosts:
    def draft_seconds(self, segments: object, heads: int) -> float:
        return 0.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_deep: Path) -> SplitWorld:
    return SplitWorld(tmp_path_factory.mktemp("hat"), tiny_deep, Split(1))


def ends_of(world: SplitWorld, eos_ids: frozenset[int] = frozenset()) -> ModelEnds:
    d = world.device
    return ModelEnds(d.ends, d.split, d.adapter, RealClock(), d.profile, eos_ids)


def told(tokens: list[DraftToken] | tuple[DraftToken, ...]) -> list[tuple[int, tuple[int, ...]]]:
    return [(each.token, each.candidates) for each in tokens]


@settings(max_examples=30)
@given(
    length=st.integers(1, 5),
    stands=st.integers(0, 5),
    candidate=st.integers(0, 3),
    steps=st.integers(1, 10),
    branches=st.integers(1, 4),
    number=st.integers(0, 7),
)
def test_what_a_branch_keeps_is_what_waiting_would_have_drafted(
    world: SplitWorld, length: int, stands: int, candidate: int, steps: int, branches: int, number: int
) -> None:
    prompt = world.device.encode(prompts()[number])
    ahead, waits = ends_of(world), ends_of(world)
    for each in (ahead, waits):
        each.begin(prompt)
        each.states(0, len(prompt))
        each.commit(len(prompt), 9)
    draft = [(ahead.draft(), waits.draft())[0] for _ in range(length)]
    place = len(prompt) + 1
    for each in (ahead, waits):
        each.states(place - 1, place + length)
    assert ahead.branch(branches) == branches
    for _ in range(steps):
        ahead.step_branches()
    accepted = min(stands, length)
    token = draft[-1].candidates[candidate] if accepted == length - 1 else 11
    if accepted == length:  # and what the draft model itself says next
        waits.begin([*prompt, 9, *(each.token for each in draft)])
        token = waits.draft().token
    kept = ahead.commit(place + accepted, token)
    waits.begin([*prompt, 9, *(each.token for each in draft[:accepted]), token])
    expected = [waits.draft() for _ in range(MAX_DRAFT_LENGTH)]
    assert told(kept) == told(expected[: len(kept)])
    if accepted == length - 1:
        assert len(kept) == (min(steps, MAX_DRAFT_LENGTH) if candidate < branches else 0)
    elif accepted == length:
        assert len(kept) == min(steps - 1, MAX_DRAFT_LENGTH)
    else:
        assert not kept
    goes_on = [ahead.draft() for _ in range(MAX_DRAFT_LENGTH - len(kept))]
    assert told(goes_on) == told(expected[len(kept) :])


def test_what_is_left_of_a_draft_that_was_cut_is_branched_at_its_own_last_token(world: SplitWorld) -> None:
    """It was branched at the candidates of a token that was cut off."""
    ends = ends_of(world)
    ends.begin(world.device.encode(prompts()[2]))
    first, _, _ = (ends.draft() for _ in range(3))
    ends.trim(2)
    ends.branch(4)
    assert ends._branches is not None
    assert ends._branches.roots == first.candidates


def test_a_branch_that_ends_the_answer_ends_with_that() -> None:
    tokens = [DraftToken(number, 0.5, 0.1, (number, 1, 2, 3)) for number in range(20, 32)]
    assert [each.token for each in cut_ahead(tokens, frozenset())] == list(range(20, 20 + MAX_DRAFT_LENGTH))
    assert [each.token for each in cut_ahead(tokens, frozenset({23}))] == [20, 21, 22, 23]


@pytest.mark.parametrize("kind", KINDS)
def test_branches_of_every_family_keep_what_waiting_would_have_drafted(kind: str, tmp_path: Path) -> None:
    """With sliding windows and shared heads."""
    from runtime.hat.adapter import Adapter

    save_checkpoint(tmp_path / "model", kind, num_hidden_layers=4, **KINDS[kind])
    split = Split(2)
    decoder = load_ends(tmp_path / "model", split)
    adapter = Adapter.load(save_adapter(tmp_path / "adapter", tmp_path / "model", 2), decoder)
    ahead, waits = (ModelEnds(decoder, split, adapter, RealClock(), NoCosts(), frozenset()) for _ in range(2))
    prompt = list(range(3, 23))
    ahead.begin(prompt)
    draft = [ahead.draft() for _ in range(3)]
    ahead.states(0, 23)
    ahead.branch(4)
    for _ in range(6):
        ahead.step_branches()
    token = draft[-1].candidates[2]
    kept = ahead.commit(22, token)
    waits.begin([*prompt, *(each.token for each in draft[:2]), token])
    assert told(kept) == told([waits.draft() for _ in range(6)])
    waits.read(29)
    torch.testing.assert_close(ahead.states(20, 28), waits.states(20, 28), atol=1e-4, rtol=1e-4)


def test_a_vocabulary_smaller_than_the_candidates_is_all_of_them(tmp_path: Path) -> None:
    from runtime.hat.adapter import Adapter

    save_checkpoint(tmp_path / "model", "Llama", num_hidden_layers=3, vocab_size=3)
    split = Split(1)
    decoder = load_ends(tmp_path / "model", split)
    adapter = Adapter.load(save_adapter(tmp_path / "adapter", tmp_path / "model", 1), decoder)
    ends = ModelEnds(decoder, split, adapter, RealClock(), NoCosts(), frozenset())
    ends.begin([0, 1, 2])
    assert sorted(ends.draft().candidates) == [0, 1, 2]
    assert ends.branch(4) == 3
    ends.step_branches()
