"""What an adapter is trained and measured on: dialogues of the generated world, or a user's prompts with the model's own answers.

What does not live here: the tasks (traces/tasks/), and what is computed of the texts (train_adapter.py, adapter_drafts.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from tokenizers import Tokenizer

from runtime.errors import ContextOverflowError
from runtime.model.decoder import Decoder
from runtime.model.kv import RaggedKV
from runtime.model.tokenizer import encode
from traces.bundled import MAX_NEW_TOKENS
from traces.tasks import tinyworld
from traces.tasks.splits import own_prompts
from traces.tasks.tinyworld import Task

EXCHANGES = 4
"""Most earlier exchanges of a dialogue."""
_FORM_WEIGHTS = {"description": 1.0, "bill": 1.5, "problem": 1.5, "fact": 1.5}  # descriptions are longest
_LONGEST_TOKENS = 224  # of a dialogue's prompt; the bundled LLM, trained on rows of 192, forgets its questions soon after
_TOGETHER = 16  # prompts that are answered at a time


@dataclass(frozen=True)
class Text:
    """A prompt with its answer, as tokens."""

    ids: tuple[int, ...]
    learned: tuple[bool, ...]
    """Of each position, whether its next token is of an answer, and so is drafted."""


class Texts(Protocol):
    """Where the texts of a training step come from."""

    def draw(self, rng: np.random.Generator, count: int) -> list[Text]:
        """Return so many, the same for the same generator."""
        ...


class WorldTexts:
    """Dialogues of the bundled tasks: up to :data:`EXCHANGES` earlier exchanges, the question, its answer.

    Half of them are marked, as the bundled LLM's training has them: each exchange framed as a prompt is, its answer ended. The
    others are one prompt of words alone, as whoever types a long prompt gives them.
    """

    def __init__(self, tokenizer: Tokenizer, context: int, split: str = "train") -> None:
        """Take the bundled tasks' tokenizer and the context of a model, for which earlier exchanges are left out."""
        self._tokenizer, self._split = tokenizer, split
        self._longest = min(_LONGEST_TOKENS, context - MAX_NEW_TOKENS)
        self._eos = int(tokenizer.token_to_id("<eos>") or 0)

    def draw(self, rng: np.random.Generator, count: int) -> list[Text]:
        """See :class:`Texts`."""
        return [self._text(rng) for _ in range(count)]

    def prompts(self, rng: np.random.Generator, kind: str, exchanges: int, count: int) -> list[list[int]]:
        """Return the tokens of prompts of a kind after so many earlier exchanges, every second marked."""
        return [self._prompt(rng, kind, exchanges, marked=bool(i % 2))[0] for i in range(count)]

    def asked(self, rng: np.random.Generator, count: int) -> list[list[int]]:
        """Return the tokens of so many prompts, of the kinds and lengths that texts have."""
        return [self._drawn(rng)[0] for _ in range(count)]

    def _drawn(self, rng: np.random.Generator) -> tuple[list[int], list[bool], Task]:
        kinds = list(_FORM_WEIGHTS)
        shares = np.array(list(_FORM_WEIGHTS.values()))
        kind = kinds[rng.choice(len(kinds), p=shares / shares.sum())]
        exchanges, marked = int(rng.integers(EXCHANGES + 1)), bool(rng.integers(2))
        return self._prompt(rng, kind, exchanges, marked=marked)

    def _text(self, rng: np.random.Generator) -> Text:
        ids, learned, task = self._drawn(rng)
        said = [*self._words(task.answer), self._eos]
        learned[-1] = True
        return Text((*ids, *said), (*learned, *([True] * (len(said) - 1)), False))

    def _prompt(
        self, rng: np.random.Generator, kind: str, exchanges: int, *, marked: bool
    ) -> tuple[list[int], list[bool], Task]:
        """A dialogue's prompt, which of its positions are drafted after, and the question with its answer."""
        task = tinyworld.sample(kind, rng, self._split, freedom=1.0)
        earlier = list(self._earlier(rng, exchanges))
        while True:
            ids, learned = list[int](), list[bool]()
            if marked:
                for each in earlier:
                    asked, said = self._tokenizer.encode(each.prompt).ids, [*self._words(each.answer), self._eos]
                    ids += [*asked, *said]
                    learned += [*([False] * (len(asked) - 1)), *([True] * len(said)), False]
                ids += self._tokenizer.encode(task.prompt).ids
            else:
                words = [text for each in earlier for text in (each.prompt, each.answer)]
                ids += self._tokenizer.encode(" ".join([*words, task.prompt])).ids
            learned += [False] * (len(ids) - len(learned))
            if len(ids) <= self._longest or not earlier:
                return ids, learned, task
            earlier = earlier[1:]

    def _earlier(self, rng: np.random.Generator, exchanges: int) -> Iterator[Task]:
        """Exchanges of any kind, drawn alike."""
        for _ in range(exchanges):
            kind = tinyworld.KINDS[rng.integers(len(tinyworld.KINDS))]
            yield tinyworld.sample(kind, rng, self._split, freedom=1.0)

    def _words(self, answer: str) -> list[int]:
        return list(self._tokenizer.encode(answer, add_special_tokens=False).ids)


class OwnTexts:
    """A user's prompts, each with the model's own greedy answer."""

    def __init__(self, texts: Sequence[Text]) -> None:
        self._texts = list(texts)

    def draw(self, rng: np.random.Generator, count: int) -> list[Text]:
        """See :class:`Texts`."""
        return [self._texts[i] for i in rng.integers(len(self._texts), size=count)]


def read_own(
    path: Path, tokenizer: Tokenizer, decoder: Decoder, max_new_tokens: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Read a file of prompts, as tokens: those to train on (training and validation split) and those of the test.

    Raises:
        TraceError, SettingError: see :func:`traces.tasks.splits.own_prompts`.
        ContextOverflowError: a prompt leaves no room for an answer.
    """
    splits, room = own_prompts(path), decoder.config.context - max_new_tokens
    parts = [*splits["train"], *splits["validation"]], splits["test"]
    encoded = [[encode(tokenizer, prompt.text) for prompt in part] for part in parts]
    if too_long := next((ids for part in encoded for ids in part if not 1 <= len(ids) <= room), None):
        raise ContextOverflowError(
            f"{path}: a prompt has {len(too_long)} tokens; with {max_new_tokens} of an answer at most {room} fit the model's context"
        )
    return encoded[0], encoded[1]


def answered(decoder: Decoder, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> Iterator[Text]:
    """Yield each prompt with the model's own greedy answer; many are answered at a time."""
    for at in range(0, len(prompts), _TOGETHER):
        some = prompts[at : at + _TOGETHER]
        for prompt, answer in zip(some, _greedy(decoder, some, max_new_tokens), strict=True):
            learned = [False] * (len(prompt) - 1) + [True] * len(answer) + [False]
            yield Text((*prompt, *answer), tuple(learned))


@torch.inference_mode()
def _greedy(decoder: Decoder, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
    """Greedy answers, each with the token that ends it."""
    caches, said = [decoder.new_cache() for _ in prompts], [list[int]() for _ in prompts]
    fresh = {i: list(prompt) for i, prompt in enumerate(prompts)}
    while fresh:
        rows = list(fresh.values())
        firsts = [caches[i].lengths[0] for i in fresh]
        places = torch.cat([torch.arange(first, first + len(row)) for first, row in zip(firsts, rows, strict=True)])
        kv = RaggedKV([caches[i] for i in fresh], [len(row) for row in rows])
        hidden = decoder.run(decoder.embed(torch.tensor([token for row in rows for token in row])), places, kv)
        lasts = torch.tensor([len(row) for row in rows]).cumsum(0) - 1
        tokens = decoder.logits(hidden[lasts.to(hidden.device)]).argmax(-1).tolist()
        for i, token in zip(list(fresh), tokens, strict=True):
            said[i].append(token)
            fresh[i] = [token]
            if token in decoder.config.eos_ids or len(said[i]) == max_new_tokens:
                del fresh[i]
    return said
