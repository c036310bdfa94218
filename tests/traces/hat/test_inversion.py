from __future__ import annotations

import pytest
import torch

from runtime.model.decoder import Decoder
from runtime.model.loading import load_decoder
from runtime.wire.sizes import PRECISIONS
from runtime.wire.tensors import quantised
from tests.support.checkpoints import random_ids, save_checkpoint
from traces.hat import inversion
from traces.hat.inversion import Probe, Target, answers, by_embedding, by_lens, replay, states

TEXTS = (random_ids(9, 1).tolist(), random_ids(4, 2).tolist(), random_ids(6, 3).tolist())


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    """A random Llama of 3 layers."""
    folder = tmp_path_factory.mktemp("model")
    save_checkpoint(folder, "Llama")
    return load_decoder(folder)


def observed(decoder: Decoder, text: list[int], *targets: Target) -> dict[Target, torch.Tensor]:
    found = states(decoder, [text], [0, 1, 2])
    return {target: quantised(found[target[0]], target[1]) for target in targets}


def test_states_are_those_of_each_text_alone_after_so_many_layers(decoder: Decoder) -> None:
    together = states(decoder, TEXTS, [0, 1, 3])
    begun = 0
    for text in TEXTS:
        rows = slice(begun, begun := begun + len(text))
        embedded = decoder.embed(torch.tensor(text))
        assert torch.equal(together[0][rows], embedded)
        for depth in (1, 3):
            alone = decoder.run(embedded, torch.arange(len(text)), decoder.new_cache(), 0, depth)
            torch.testing.assert_close(together[depth][rows], alone)
    assert list(states(decoder, TEXTS, [2])) == [2]


def test_answers_are_the_greedy_ones_of_each_prompt_alone(decoder: Decoder) -> None:
    def alone(prompt: list[int], most: int) -> list[int]:
        said: list[int] = []
        while len(said) < most:
            ids = torch.tensor([*prompt, *said])
            hidden = decoder.run(decoder.embed(ids), torch.arange(len(ids)), decoder.new_cache())
            token = int(decoder.logits(hidden[-1:]).argmax())
            if token in decoder.config.eos_ids:
                break
            said.append(token)
        return said

    prompts = [random_ids(3 + seed % 4, seed).tolist() for seed in range(24)]
    found = answers(decoder, prompts, 7)
    assert found == [alone(prompt, 7) for prompt in prompts]
    assert max(map(len, found)) == 7


def test_embeddings_are_read_back_whatever_their_length_and_shuffled_ones_are_not(decoder: Decoder) -> None:
    ids = random_ids(200)
    embedded = states(decoder, [ids.tolist()[:90]], [0])[0]
    assert torch.equal(by_embedding(decoder, 7 * embedded), ids[:90])
    shuffled = embedded[torch.randperm(90, generator=torch.Generator().manual_seed(0))]
    assert (by_embedding(decoder, shuffled) == ids[:90]).float().mean() < 0.1


def test_the_lens_says_what_the_head_says(decoder: Decoder) -> None:
    rows = states(decoder, TEXTS, [2])[2]
    assert torch.equal(by_lens(decoder, rows), decoder.logits(rows).argmax(-1))


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_replay_recovers_everything(decoder: Decoder, depth: int, precision: str) -> None:
    for text in TEXTS:
        target = depth, precision
        assert replay(decoder, observed(decoder, text, target))[target].tolist() == text


def test_replay_of_shuffled_states_recovers_nothing_beyond_chance(decoder: Decoder) -> None:
    text = random_ids(40, 5).tolist()
    rows = observed(decoder, text, (2, "fp32"))[2, "fp32"]
    shuffled = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))]
    found = replay(decoder, {(2, "fp32"): shuffled})[2, "fp32"]
    assert (found == torch.tensor(text)).sum() <= 4


def test_targets_that_read_other_tokens_do_not_disturb_each_other(decoder: Decoder) -> None:
    """Their candidates stand behind other tokens from there on."""
    text, other = TEXTS[0], random_ids(9, 8).tolist()
    mixed = observed(decoder, text, (1, "fp32"), (2, "int8")) | {(2, "fp32"): observed(decoder, other, (2, "fp32"))[2, "fp32"]}
    noisy = mixed | {(1, "bf16"): torch.flip(mixed[1, "fp32"], (0,))}
    found = replay(decoder, noisy)
    assert (found[1, "fp32"].tolist(), found[2, "int8"].tolist(), found[2, "fp32"].tolist()) == (text, text, other)
    assert torch.equal(found[1, "bf16"], replay(decoder, {(1, "bf16"): noisy[1, "bf16"]})[1, "bf16"])


def test_a_vocabulary_that_takes_several_forwards_is_the_same(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inversion, "_CANDIDATES", 7)
    steps: list[int] = []
    found = replay(decoder, observed(decoder, TEXTS[0], (1, "fp32")), lambda: steps.append(1))
    assert found[1, "fp32"].tolist() == TEXTS[0]
    assert len(steps) == len(TEXTS[0])


def test_a_probe_says_what_it_was_shown_and_learns_nothing_from_wrong_labels(decoder: Decoder) -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = decoder.embed(torch.arange(decoder.config.vocab))
    ids = torch.randint(3, 13, (600,), generator=generator)
    rows = embeddings[ids] + 0.05 * torch.randn(600, embeddings.shape[1], generator=generator)
    probe = Probe.fitted(rows[:400], ids[:400])
    assert (probe(rows[400:]) == ids[400:]).float().mean() > 0.98
    assert set(probe(torch.randn(300, embeddings.shape[1], generator=generator)).tolist()) <= set(range(3, 13))
    wrong = Probe.fitted(rows[:400], ids[torch.randperm(400, generator=generator)])
    assert (wrong(rows[400:]) == ids[400:]).float().mean() < 0.3


def test_the_same_seed_fits_the_same_probe(decoder: Decoder) -> None:
    ids = random_ids(60, 4)
    rows = decoder.embed(ids)
    assert torch.equal(Probe.fitted(rows, ids, 1).weights, Probe.fitted(rows, ids, 1).weights)
    assert not torch.equal(Probe.fitted(rows, ids, 1).weights, Probe.fitted(rows, ids, 2).weights)
