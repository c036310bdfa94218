from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.clock import SimulatedClock
from runtime.errors import CheckpointError
from runtime.model.decoder import Decoder
from runtime.model.exits import ExitLedger, Segment, resolve_exit
from runtime.model.kv import ATTENTION_WINDOW
from runtime.model.loading import load_decoder
from runtime.synera.chunk import DraftToken
from runtime.synera.drafter import ModelDrafter, predict
from runtime.synera.lens import SKETCH_SIZE
from tests.support.checkpoints import VOCAB, LayerCosts, random_ids, random_lens, save_checkpoint

EXITS = (1, 2, 3)
PROMPT = random_ids(5, seed=3).tolist()


@pytest.fixture(scope="module", params=["Llama", "Mistral"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder: Path = tmp_path_factory.mktemp("slm")
    changes: dict[str, Any] = {"sliding_window": 4} if request.param == "Mistral" else {}
    save_checkpoint(folder, request.param, exits=EXITS, tie_word_embeddings=True, **changes)
    return load_decoder(folder)


class Bench:
    """A drafter, its clock, what it was charged for, and the prefix that it should hold."""

    def __init__(self, decoder: Decoder, prompt: Sequence[int]) -> None:
        self.clock, self.costs, self.prefix = SimulatedClock(), LayerCosts(), list(prompt)
        self.drafter = ModelDrafter(decoder, random_lens(len(EXITS), decoder.config.hidden), self.clock, self.costs)
        self.drafter.begin(prompt)

    def next(self, exit_index: int, exit_margin: float) -> DraftToken:
        token = self.drafter.next(exit_index, exit_margin)
        self.prefix.append(token.token)
        return token

    def rollback(self, length: int) -> None:
        self.drafter.rollback(length)
        del self.prefix[length:]

    def push(self, token: int) -> None:
        self.drafter.push(token)
        self.prefix.append(token)


def assert_same(got: DraftToken, wanted: DraftToken) -> None:
    assert (got.token, got.exit_index, got.runner_up) == (wanted.token, wanted.exit_index, wanted.runner_up)
    for name in ("confidence", "margin"):
        assert getattr(got, name) == pytest.approx(getattr(wanted, name), abs=1e-5)
    assert got.entropy == pytest.approx(wanted.entropy, abs=1e-4)
    np.testing.assert_allclose(got.attention, wanted.attention, atol=1e-5)
    np.testing.assert_allclose(got.sketch, wanted.sketch, atol=2e-2)  # half precision near 8


exits = st.integers(-1, len(EXITS) - 1)
margins = st.sampled_from([0.0, 0.1, 0.3, 0.6, 1.0])
operations = st.lists(
    st.one_of(
        st.tuples(st.just("next"), exits, margins),
        st.tuples(st.just("next"), exits, margins),
        st.tuples(st.just("rollback"), st.integers(1, 8), st.just(0.0)),
        st.tuples(st.just("push"), st.integers(0, VOCAB - 1), st.just(0.0)),
    ),
    min_size=1,
    max_size=16,
)


@settings(max_examples=50, deadline=None)
@given(operations=operations)
def test_a_draft_depends_on_the_prefix_alone(decoder: Decoder, operations: list[tuple[str, int, float]]) -> None:
    bench = Bench(decoder, PROMPT)
    for kind, number, margin in operations:
        if kind == "rollback":
            bench.rollback(max(1, len(bench.prefix) - number))
        elif kind == "push":
            bench.push(number)
        else:
            fresh = Bench(decoder, bench.prefix)
            assert_same(bench.next(number, margin), fresh.next(number, margin))


@settings(max_examples=30, deadline=None)
@given(operations=operations)
def test_the_clock_is_charged_for_the_segments_that_ran(decoder: Decoder, operations: list[tuple[str, int, float]]) -> None:
    """A second ledger, fed with the exits that were taken, must ask for the same segments."""
    bench, mirror = Bench(decoder, PROMPT), ExitLedger(EXITS)
    for kind, number, margin in operations:
        if kind == "rollback":
            bench.rollback(max(1, len(bench.prefix) - number))
            mirror.truncate(len(bench.prefix))
        elif kind == "push":
            bench.push(number)
        else:
            length, before = len(bench.prefix), bench.clock.now()
            token = bench.next(number, margin)
            mirror.truncate(length - 1)
            wanted = tuple(mirror.segments(length, token.exit_index))
            segments, heads = bench.costs.asked[-1]
            assert segments == wanted
            assert heads == (1 if margin == 1.0 else token.exit_index + 1)
            assert bench.clock.now() - before == sum(s.layers * s.positions for s in wanted) + 100 * heads


def test_shallow_drafts_leave_work_that_a_deep_one_does_in_one_batch(decoder: Decoder) -> None:
    bench = Bench(decoder, PROMPT)
    bench.next(0, 1.0)
    bench.next(0, 1.0)
    bench.next(-1, 1.0)
    asked = [segments for segments, _ in bench.costs.asked]
    assert asked[0] == (Segment(0, 0, 1, 0, 5),)
    assert asked[1] == (Segment(0, 0, 1, 5, 6),)
    assert asked[2] == (Segment(0, 0, 1, 6, 7), Segment(1, 1, 2, 0, 7), Segment(2, 2, 3, 0, 7))


def test_the_last_token_is_read_afresh_so_that_any_exit_can_draft_from_it(decoder: Decoder) -> None:
    bench = Bench(decoder, PROMPT)
    deep = bench.next(-1, 1.0)
    bench.rollback(len(PROMPT))
    shallow = bench.next(0, 1.0)
    bench.rollback(len(PROMPT))
    assert_same(bench.next(-1, 1.0), deep)
    assert shallow.exit_index == 0
    last = len(PROMPT) - 1
    assert bench.costs.asked[1][0] == (Segment(0, 0, 1, last, last + 1),)


@settings(max_examples=40, deadline=None)
@given(prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12), deepest=exits, margin=st.floats(0, 1))
def test_progressive_exit_leaves_at_the_first_exit_whose_margin_reaches_it(
    decoder: Decoder, prompt: list[int], deepest: int, margin: float
) -> None:
    last = resolve_exit(deepest, len(EXITS))
    at_each = [Bench(decoder, prompt).next(exit_index, 1.0) for exit_index in range(last + 1)]
    reaching = [e for e, token in enumerate(at_each[:last]) if token.margin >= margin and margin < 1.0]
    assert_same(Bench(decoder, prompt).next(deepest, margin), at_each[reaching[0] if reaching else last])


def test_margin_zero_leaves_at_the_first_exit_and_one_never_early(decoder: Decoder) -> None:
    assert Bench(decoder, PROMPT).next(-1, 0.0).exit_index == 0
    assert Bench(decoder, PROMPT).next(-1, 1.0).exit_index == 2
    assert Bench(decoder, PROMPT).next(1, 1.0).exit_index == 1


def test_a_draft_is_the_greedy_choice_of_the_decoder(decoder: Decoder) -> None:
    kv = decoder.new_cache()
    hidden = decoder.run(decoder.embed(torch.tensor(PROMPT)), torch.arange(len(PROMPT)), kv)
    wanted = predict(decoder.logits(hidden[-1:]))
    got = Bench(decoder, PROMPT).next(-1, 1.0)
    assert (got.token, got.runner_up) == (int(wanted.token), int(wanted.runner_up))
    assert got.confidence == pytest.approx(float(wanted.confidence), abs=1e-6)
    assert got.sketch.shape == (SKETCH_SIZE,)
    assert got.attention.shape == (ATTENTION_WINDOW,)


def test_begin_forgets_the_last_answer(decoder: Decoder) -> None:
    bench = Bench(decoder, PROMPT)
    first = bench.next(-1, 0.3)
    bench.next(0, 1.0)
    bench.drafter.begin(PROMPT)
    assert_same(bench.next(-1, 0.3), first)


def test_prefixes_outgrow_the_first_buffers(decoder: Decoder) -> None:
    bench = Bench(decoder, PROMPT)
    for _ in range(75):
        bench.next(0, 1.0)
    fresh = Bench(decoder, bench.prefix)
    assert_same(bench.next(-1, 1.0), fresh.next(-1, 1.0))


def test_an_exit_that_is_not_there_is_an_error(decoder: Decoder) -> None:
    with pytest.raises(ValueError, match=r"exit_index=3.*only 3 exits"):
        Bench(decoder, PROMPT).next(3, 1.0)
    assert [resolve_exit(e, 3) for e in (-1, 0, 1, 2)] == [2, 0, 1, 2]


def test_a_lens_of_another_model_is_an_error(decoder: Decoder) -> None:
    with pytest.raises(CheckpointError, match="2 exits of hidden size 32"):
        ModelDrafter(decoder, random_lens(2, 32), SimulatedClock(), LayerCosts())


def test_predict_by_hand() -> None:
    guess = predict(torch.tensor([[0.2, 0.7, 0.1], [1 / 3, 1 / 3, 1 / 3]]).log())
    assert guess.token[0] == 1
    assert guess.runner_up[0] == 0
    assert guess.confidence[0].item() == pytest.approx(0.7)
    assert guess.margin.tolist() == pytest.approx([0.5, 0.0], abs=1e-6)
    assert guess.entropy[1].item() == pytest.approx(np.log(3))
    assert guess.probabilities.sum(-1).tolist() == pytest.approx([1, 1])
