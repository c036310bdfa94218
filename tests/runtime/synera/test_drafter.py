from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from runtime.model.loading import load_decoder
from runtime.synera import drafter as drafting
from runtime.synera.chunk import DraftToken
from runtime.synera.drafter import ModelDrafter, Reading, predict, read
from runtime.synera.lens import SKETCH_SIZE
from tests.support.checkpoints import VOCAB, LayerCosts, random_ids, random_lens, save_checkpoint
from tests.support.placements import FLOAT32_AND_BFLOAT16, named, pretended_device

EXITS = (1, 2, 3)
PROMPT = random_ids(5, seed=3).tolist()


@dataclass(frozen=True)
class Tolerance:
    """How far figures of one prefix may be apart when the forwards that led to it had other shapes."""

    confidence: float
    margin: float
    entropy: float
    sketch: float


TOLERANCES = {
    torch.float32: Tolerance(confidence=1e-5, margin=1e-5, entropy=1e-4, sketch=2e-2),  # half precision near 8
    # About twice the most that was seen in 1,800 drafts: 0.010, 0.017, 0.014, 0.29.
    torch.bfloat16: Tolerance(confidence=0.02, margin=0.035, entropy=0.03, sketch=0.6),
}


def save_slm(folder: Path, kind: str) -> Path:
    changes: dict[str, Any] = {"sliding_window": 4} if kind == "Mistral" else {}
    save_checkpoint(folder, kind, exits=EXITS, tie_word_embeddings=True, **changes)
    return folder


@pytest.fixture(scope="module", params=["Llama", "Mistral"])
def slm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_slm(tmp_path_factory.mktemp("slm"), request.param)


@pytest.fixture(scope="module", params=FLOAT32_AND_BFLOAT16)
def decoder(request: pytest.FixtureRequest, slm: Path) -> Decoder:
    return load_decoder(slm, named(request.param))


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


def assert_same(got: DraftToken, wanted: DraftToken, dtype: torch.dtype) -> None:
    """Equal but for rounding; below float32 a tie may break either way, and only there may tokens differ."""
    limits = TOLERANCES[dtype]
    assert got.exit_index == wanted.exit_index
    if dtype == torch.float32:
        assert (got.token, got.runner_up) == (wanted.token, wanted.runner_up)
    elif wanted.margin > limits.margin:
        assert got.token == wanted.token
    for name in ("confidence", "margin", "entropy"):
        assert getattr(got, name) == pytest.approx(getattr(wanted, name), abs=getattr(limits, name))
    np.testing.assert_allclose(got.sketch, wanted.sketch, atol=limits.sketch)


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
            got = bench.next(number, margin)
            # Below float32 a margin at its threshold may fall to either side.
            asked = (number, margin) if decoder.dtype == torch.float32 else (got.exit_index, 1.0)
            assert_same(got, fresh.next(*asked), decoder.dtype)


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
    assert_same(bench.next(-1, 1.0), deep, decoder.dtype)
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
    # The forwards have the same shapes, so this holds to the bit in every type.
    assert_same(Bench(decoder, prompt).next(deepest, margin), at_each[reaching[0] if reaching else last], torch.float32)


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
    lens = random_lens(len(EXITS), decoder.config.hidden)
    np.testing.assert_allclose(got.sketch, lens.sketch(hidden[-1].float().cpu().numpy(), 2), atol=1e-6)
    assert got.sketch.shape == (SKETCH_SIZE,)


def test_begin_forgets_the_last_answer(decoder: Decoder) -> None:
    bench = Bench(decoder, PROMPT)
    first = bench.next(-1, 0.3)
    bench.next(0, 1.0)
    bench.drafter.begin(PROMPT)
    assert_same(bench.next(-1, 0.3), first, torch.float32)  # the same shapes again


def test_prefixes_outgrow_the_first_buffers(decoder: Decoder) -> None:
    bench = Bench(decoder, PROMPT)
    for _ in range(75):
        bench.next(0, 1.0)
    fresh = Bench(decoder, bench.prefix)
    assert_same(bench.next(-1, 1.0), fresh.next(-1, 1.0), decoder.dtype)


def test_shallow_drafts_after_many_deep_ones_are_completed(decoder: Decoder) -> None:
    """A deep draft keeps no hidden states between its exits; what is kept later must land past the first buffers."""
    bench = Bench(decoder, PROMPT)
    for _ in range(65):
        bench.next(-1, 1.0)
    for exit_index in (0, 1, 0, 1, 0):
        bench.next(exit_index, 1.0)
    fresh = Bench(decoder, bench.prefix)
    assert_same(bench.next(-1, 1.0), fresh.next(-1, 1.0), decoder.dtype)


def test_a_deep_draft_asks_the_decoder_once(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[tuple[int, int | None, int]] = []
    run = Decoder.run

    def counted(self: Decoder, hidden: torch.Tensor, positions: torch.Tensor, kv: Any, start: int, stop: int) -> torch.Tensor:
        runs.append((start, stop, len(positions)))
        return run(self, hidden, positions, kv, start, stop)

    monkeypatch.setattr(Decoder, "run", counted)
    bench = Bench(decoder, PROMPT)
    bench.next(-1, 1.0)
    bench.next(0, 1.0)
    bench.next(-1, 1.0)  # the deeper layers run over two positions, the first over one
    assert runs == [(0, 3, 5), (0, 1, 1), (0, 1, 1), (1, 3, 2)]
    runs.clear()
    bench.next(-1, 0.999999)  # asked at each exit
    assert [r[:2] for r in runs] == [(0, 1), (1, 2), (2, 3)][: len(runs)]


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_reading_is_the_prediction_in_plain_numbers(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 150_000, generator=generator)
    logits[0, 149_999] = 9.0  # an id as large as vocabularies have
    logits, hidden = logits.to(dtype), torch.randn(32, generator=generator).to(dtype)
    said, guess = read(logits, hidden), predict(logits)
    assert said[:5] == tuple(t.item() for t in guess[:5])
    assert (said.token, type(said.token), type(said.confidence)) == (149_999, int, float)
    np.testing.assert_array_equal(said.hidden, hidden.float().numpy())
    assert said.hidden.dtype == np.float32


def test_a_token_is_read_back_once_a_head_and_in_no_other_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    margins: list[float] = []

    def reads(logits: torch.Tensor, hidden: torch.Tensor) -> Reading:
        assert {t.device.type for t in (logits, hidden)} == {"meta"}
        return Reading(5, 0.5, margins.pop(0), 1.0, 6, np.zeros(32, np.float32))

    monkeypatch.setattr(drafting, "read", reads)
    with pretended_device(save_slm(tmp_path, "Mistral")) as decoder:
        bench = Bench(decoder, PROMPT)
        for exit_margin, said, exit_index in (
            (0.5, [0.1, 0.7], 1),
            (1.0, [0.1], 2),
            (0.0, [0.1], 0),
            (0.9, [0.1, 0.2, 0.3], 2),
        ):
            margins[:] = said
            assert bench.next(-1, exit_margin).exit_index == exit_index
            assert not margins
        bench.rollback(4)
        for _ in range(70):  # past the first buffers
            margins[:] = [0.1]
            bench.next(0, 1.0)
