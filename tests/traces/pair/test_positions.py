"""What a pair says by kind of position: models that say what is written down for them, so that all of it is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from traces.pair import positions
from traces.pair.exits import Said
from traces.pair.picture import draw_positions
from traces.pair.positions import AtExit, Effect, Place, measure_positions, token_accuracy, token_parts
from traces.tasks import vocabulary
from traces.tasks.world import world

TOWN = world().towns[0]
MAYOR = world().facts[TOWN]["mayor"]
WRONG = next(facts["mayor"] for facts in world().facts.values() if set(facts["mayor"].split()).isdisjoint(MAYOR.split()))
PROMPTS = (f"Who leads {TOWN}?", f"Tell me the mayor of {TOWN}.")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=vocabulary.build_tokenizer(),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


class Told:
    """An exit that says "It is NAME.", or opens otherwise; whatever is begun, at each place it says what stands there in that."""

    eos = 2

    def __init__(self, tokenizer: PreTrainedTokenizerFast, layer: int, name: str, opening: str = "It") -> None:
        self.layer, self._tokenizer, self._name, self._opening = layer, tokenizer, name, opening

    def _ids(self, text: str) -> list[int]:
        return [*self._tokenizer(text, add_special_tokens=False)["input_ids"], self.eos]

    def _next(self, begun: Sequence[int]) -> int:
        return self._ids(f"{self._opening} is {self._name}.")[len(begun)]

    def finish(self, prompts: Sequence[Sequence[int]], begun: Sequence[Sequence[int]]) -> list[list[int]]:
        answers = [list(answer) for answer in begun]
        for answer in answers:
            while self.eos not in answer:
                answer.append(self._next(answer))
        return answers

    def read(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[Said]:
        said = [[self._next(answer[:at]) for at in range(len(answer))] for answer in answers]
        return [Said(torch.tensor(tokens), torch.linspace(0.1, 1.0, len(tokens))) for tokens in said]


@pytest.fixture
def out(tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a pair: the LLM knows the mayor; the SLM knows none, and opens otherwise from its deeper exit."""
    tokenizer.save_pretrained(tmp_path / "llm")
    pair = {
        ("llm", None): Told(tokenizer, 8, MAYOR),
        ("slm", 2): Told(tokenizer, 2, WRONG),
        ("slm", 4): Told(tokenizer, 4, WRONG, "That"),
    }
    monkeypatch.setattr(positions, "Exit", lambda folder, layer=None: pair[folder.name, layer])
    monkeypatch.setattr(positions, "exit_layers", lambda folder: [2, 4])
    return tmp_path


def test_positions_are_of_the_kind_of_the_llm_s_token(out: Path) -> None:
    found = measure_positions(out, PROMPTS, PROMPTS[:1])
    assert (found.answers, found.tried, found.unread) == (2, 1, 0)
    shallow, deep = found.exits
    assert (shallow.exit_layer, deep.exit_layer) == (2, 4)
    for seen in found.exits:
        assert [place.part for place in seen.places] == ["wording", "wording", "fact", "fact", "wording", "wording"] * 2
        assert (seen.agreement("fact"), str(seen.agreement("digit"))) == (0.0, "nan")
    assert (shallow.agreement("wording"), deep.agreement("wording")) == (1.0, 0.75)


def test_a_wrong_token_costs_what_it_costs_and_only_where_it_is_tried(out: Path) -> None:
    deep = measure_positions(out, PROMPTS, PROMPTS[:1]).exits[1]
    assert [place.losses is None for place in deep.places] == [False] * 6 + [True] * 6
    wording, fact = deep.effect("wording"), deep.effect("fact")
    assert wording == Effect(places=1, loss=0.0, harmless=1.0, slm_loss=0.0, slm_harmless=1.0)
    assert fact is not None
    # The LLM mends no name that was begun wrongly; the SLM spoils the second half of one that was begun rightly.
    assert (fact.places, fact.loss, fact.harmless) == (2, 1.0, 0.0)
    assert (fact.slm_loss, fact.slm_harmless) == (0.5, 0.5)
    assert deep.effect("digit") is None
    assert [place.harmless for place in deep.places[:6]] == [True, True, False, False, True, True]


def test_an_answer_whose_text_does_not_give_its_tokens_back_is_left_out(
    out: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert token_parts(tokenizer, PROMPTS[0], [30, 3, 31]) is None
    monkeypatch.setattr(positions, "token_parts", lambda _, prompt, tokens: None if prompt == PROMPTS[0] else ["wording"] * 6)
    found = measure_positions(out, PROMPTS, PROMPTS)
    assert (found.answers, found.tried, found.unread) == (1, 1, 1)


def test_the_parts_of_tokens_are_those_of_their_characters(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = [*tokenizer("Now Mira has 12 + 30 = 42.", add_special_tokens=False)["input_ids"], 2]
    prompt = "Mira has 12 apples. Mira buys 30 more. How many apples does Mira have now?"
    w, d = "wording", "digit"
    assert token_parts(tokenizer, prompt, ids) == [w, w, w, d, d, w, d, d, w, d, d, w, w]


def test_token_accuracy_is_by_kind_of_position(tokenizer: PreTrainedTokenizerFast) -> None:
    model = Told(tokenizer, 4, WRONG, "That")
    said = [(PROMPTS[0], f"It is {MAYOR}."), (PROMPTS[1], f"That is {WRONG}.")]
    found = token_accuracy(model, tokenizer, said)  # type: ignore[arg-type]
    assert found["wording"] == 7 / 8
    assert found["fact"] == 0.5
    assert str(found["digit"]) == "nan"


def test_a_histogram_has_all_places_of_its_kind() -> None:
    places = [Place("fact", confidence, True) for confidence in (0.0, 0.29, 0.3, 0.95, 1.0)] + [Place("digit", 0.6, True)]
    seen = AtExit(4, tuple(places))
    assert seen.histogram("fact") == pytest.approx([0.4, 0.2, 0, 0, 0.2, 0.2])
    assert seen.histogram("digit") == [0, 0, 1, 0, 0, 0]
    assert seen.histogram("wording") == [0.0] * 6


def test_the_picture_is_small_and_shows_what_was_tried(out: Path) -> None:
    seen = measure_positions(out, PROMPTS, PROMPTS).exits[1]
    draw_positions(seen, out / "seen.png")
    draw_positions(AtExit(4, ()), out / "nothing.png")
    assert (out / "seen.png").stat().st_size < 100_000
    with Image.open(out / "seen.png") as one, Image.open(out / "nothing.png") as other:
        assert one.size == other.size
        assert one.tobytes() != other.tobytes()
