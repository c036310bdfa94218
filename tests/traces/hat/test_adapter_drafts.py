"""Speculative decoding on one device: the very tokens of plain decoding, and figures that are what they say."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import SettingError
from runtime.hat.adapter import Adapter
from runtime.model.decoder import Decoder
from runtime.model.loading import fingerprint, load_decoder
from tests.support.adapters import random_module, save_module
from tests.support.checkpoints import random_ids, save_checkpoint
from traces.hat.adapter_card import PAPER_ACCEPT_LENGTH, write_card
from traces.hat.adapter_drafts import CONFIDENCE_BINS, Draft, DraftRule, Figures, measured, plain, speculative
from traces.hat.train_adapter import AdapterModule, save_adapter

NEW = 24


@pytest.fixture(scope="module", params=["Llama", "Mistral", "Qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    save_checkpoint(folder, request.param)
    return folder


@pytest.fixture(scope="module")
def decoder(folder: Path) -> Decoder:
    return load_decoder(folder)


@pytest.fixture(scope="module", params=["random", "exit"])
def adapter(request: pytest.FixtureRequest, folder: Path, decoder: Decoder) -> Adapter:
    """One whose drafts are noise; and none at all, after all layers but the last, many of whose drafts stand."""
    if request.param == "random":
        return Adapter.load(save_module(random_module(decoder, fingerprint(folder), 1), folder / "random"), decoder)
    module = AdapterModule(random_module(decoder, fingerprint(folder), 2).stated)
    save_adapter(module, module.stated, folder / "exit.safetensors")
    return Adapter.load(folder / "exit.safetensors", decoder)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 60), length=st.integers(1, 30), eta=st.sampled_from([0.0, 0.05, 0.6, 1.0]), longest=st.integers(1, 9)
)
def test_tokens_are_those_of_plain_decoding(
    decoder: Decoder, adapter: Adapter, seed: int, length: int, eta: float, longest: int
) -> None:
    prompt = random_ids(length, seed).tolist()
    wanted = plain(decoder, prompt, NEW)
    got = speculative(decoder, adapter, prompt, NEW, DraftRule(eta, longest))
    assert got.tokens == wanted.tokens
    assert sum(draft.committed for draft in got.drafts) == len(wanted.tokens) - 1
    for draft in got.drafts:
        *before, last = draft.confidences or (0.0,)
        assert len(before) < longest
        assert all(confidence >= eta for confidence in before)
        assert last <= 1.0
        assert draft.accepted <= len(draft.confidences)
        assert 1 <= draft.committed <= draft.accepted + 1


def test_some_drafts_stand(decoder: Decoder, adapter: Adapter) -> None:
    """Or the test above would say little."""
    if adapter.first == 1:
        pytest.skip("drafts of noise")
    prompts = [random_ids(6, seed).tolist() for seed in range(12)]
    assert measured(decoder, adapter, prompts, NEW, DraftRule(0.0)).accepted > 0.1


@pytest.mark.parametrize("new", [1, 2, 3])
def test_an_answer_has_as_many_tokens_as_there_is_room_for(decoder: Decoder, adapter: Adapter, new: int) -> None:
    got = speculative(decoder, adapter, [5, 6, 7], new, DraftRule(0.0))
    assert got.tokens == plain(decoder, [5, 6, 7], new).tokens
    assert len(got.tokens) <= new


def test_decoding_is_that_of_the_decoder(decoder: Decoder) -> None:
    ids = random_ids(9).tolist()
    for token in plain(decoder, ids, NEW).tokens:
        hidden = decoder.run(decoder.embed(torch.tensor(ids)), torch.arange(len(ids)), decoder.new_cache())
        assert int(decoder.logits(hidden[-1:]).argmax()) == token
        ids.append(token)


# ---------------------------------------------------------------- figures

DRAFTS = (Draft((0.9, 0.8, 0.3), 2, 3), Draft((0.5,), 0, 1), Draft((0.95, 0.55), 2, 3), Draft((), 0, 1))
FIGURES = Figures(2, 1, DRAFTS, 10, 3.0, 2.0)


def test_means_count_drafts() -> None:
    assert FIGURES.committed == 2.0
    assert FIGURES.accepted == 1.0
    assert FIGURES.drafted == 1.5
    assert FIGURES.speed_up == 1.5


def test_positions_lengths_and_confidences() -> None:
    assert FIGURES.by_position() == [(3, 2 / 3, 2 / 3), (2, 1.0, 1.0), (1, 0.0, 0.0)]
    assert FIGURES.by_length() == {0: 0.25, 1: 0.25, 2: 0.25, 3: 0.25}
    bins = {each.low: (each.high, each.tokens, each.accepted, each.right) for each in FIGURES.by_confidence()}
    assert bins == {
        0.2: (0.4, 1, 0.0, 0.0),
        0.5: (0.6, 2, 0.5, 0.5),
        0.8: (0.9, 1, 1.0, 1.0),
        0.9: (0.99, 2, 1.0, 1.0),
    }
    lost = Figures(1, 1, (Draft((0.7, 0.7), 0, 1),), 1, 1.0, 1.0).by_confidence()
    assert [(each.tokens, each.accepted, each.right) for each in lost] == [(2, 0.0, 0.0)]  # the second was never asked


def test_every_confidence_has_a_bin() -> None:
    for confidence in (0.0, 0.6, 1.0, *CONFIDENCE_BINS):
        figures = Figures(1, 1, (Draft((confidence,), 1, 2),), 1, 1.0, 1.0)
        assert [each.tokens for each in figures.by_confidence()] == [1]
    assert list(pairwise(CONFIDENCE_BINS))[-1][1] == 1.0


def test_pooled_figures_are_sums() -> None:
    pooled = Figures.pooled([FIGURES, FIGURES])
    assert pooled == Figures(4, 2, DRAFTS * 2, 20, 6.0, 4.0)


def test_measuring_answers_each_prompt_both_ways(decoder: Decoder, adapter: Adapter) -> None:
    shown = list[list[int]]()

    def track(prompts: Iterable[list[int]]) -> Iterable[list[int]]:
        for prompt in prompts:
            shown.append(prompt)
            yield prompt

    prompts = [random_ids(5, seed).tolist() for seed in range(3)]
    found = measured(decoder, adapter, prompts, NEW, track=track)
    assert shown == prompts
    assert (found.answers, found.same) == (3, 3)
    assert found.tokens == sum(len(plain(decoder, prompt, NEW).tokens) - 1 for prompt in prompts)
    assert found.plain_seconds > 0 < found.seconds


def test_a_card_states_it_beside_the_papers(decoder: Decoder, adapter: Adapter, tmp_path: Path) -> None:
    found = {(kind, n): measured(decoder, adapter, [[5, n + 1]], NEW) for kind in ("fact", "bill") for n in (0, 2)}
    card = write_card(tmp_path, decoder, adapter, found, DraftRule()).read_text()
    for row in (
        "| all | 4 |",
        "| fact | 2 |",
        "| earlier exchanges: 2 | 2 |",
        f"SpecBench) |  | {PAPER_ACCEPT_LENGTH} |",
        "| 1 | ",
    ):
        assert f"{row}" in card
    assert "plain decoding in 4 of\n4 answers" in card
    tables = [block.splitlines() for block in card.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4
    assert all(len({row.count("|") for row in table}) == 1 for table in tables)


@pytest.mark.parametrize("given_", [{"eta": -0.1}, {"eta": 1.1}, {"longest": 0}, {"longest": 65}])
def test_a_rule_that_cannot_be_is_refused(given_: dict[str, float]) -> None:
    with pytest.raises(SettingError, match=next(iter(given_))):
        DraftRule(**given_)  # type: ignore[arg-type]
