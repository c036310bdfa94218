"""How many tokens attacks recover from the states that HAT sends: by depth, precision and the place of a token.

The texts are prompts of the test split with the model's own greedy answers; the probe is fitted to public texts, of the training
split alone. Intervals are 95 %, by bootstrap over prompts. What does not live here: the attacks (inversion.py), the texts
(texts.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from runtime.model.decoder import Decoder
from runtime.model.tokenizer import encode
from runtime.settings import one_of, whole
from runtime.wire.sizes import PRECISIONS
from runtime.wire.tensors import quantised
from traces.errors import TraceError
from traces.hat.inversion import Probe, Target, answers, by_embedding, by_lens, replay, states
from traces.hat.texts import FRAME, PARTS, SIDES, Text, private_prompts, public_texts, read

ATTACKS = ("embedding", "lens", "probe", "replay")
"""See inversion.py."""
EVERYTHING = "all"
PLACES = tuple(f"{side} {part}" for side in SIDES for part in PARTS)
GROUPS = (EVERYTHING, *SIDES, *PLACES)
"""Of what there is a share: all tokens, those of a side, those of a place."""
Progress = Callable[[str, int, int], object]
"""Told of a stage how much of it is done, and how much there is."""
_RESAMPLES = 2000
_AT_ONCE = 64  # texts of a forward


@dataclass(frozen=True)
class Trial:
    """What is measured.

    Raises:
        SettingError: a value is outside its range.
    """

    prompts: int = 48
    """Test prompts; their kinds in turn."""
    replayed: int = 4
    """Of them, the first so many are also inverted by replay, which takes by far the longest."""
    public: int = 400
    """Training prompts that the probe is fitted to."""
    depths: tuple[int, ...] = ()
    """Layers that were run before a state is sent; empty is every depth at which a layer is left."""
    precisions: tuple[str, ...] = PRECISIONS
    most_tokens: int = 112
    """Of an answer."""
    seed: int = 0

    def __post_init__(self) -> None:
        whole("prompts", self.prompts, 2, 1000)
        whole("replayed", self.replayed, 0, self.prompts)
        whole("public", self.public, 1, 100_000)
        for precision in self.precisions:
            one_of("precisions", precision, PRECISIONS)
        whole("seed", self.seed, 0, 2**32 - 1)

    def depths_of(self, layers: int) -> list[int]:
        """Return the depths, rising, of a model with so many layers.

        Raises:
            SettingError: the model has no such depth.
        """
        for depth in self.depths:
            whole("depths", depth, 0, layers - 1)
        return sorted(set(self.depths)) or list(range(layers))


@dataclass(frozen=True)
class Share:
    """A share of tokens, with its interval."""

    mean: float
    low: float
    high: float
    tokens: int


@dataclass(frozen=True)
class Recovery:
    """What an attack recovers."""

    attack: str
    """One of :data:`ATTACKS`."""
    depth: int
    precision: str
    prompts: int
    shares: dict[str, Share]
    """By those of :data:`GROUPS` that have a token."""


@dataclass(frozen=True)
class Recovered:
    """What all attacks recover, and what would come of none."""

    recoveries: tuple[Recovery, ...]
    commonest: dict[str, Share]
    """Of saying everywhere the commonest token of the public texts."""
    unseen: dict[str, Share]
    """Of tokens that are in no public text, which the probe cannot say."""

    def of(self, attack: str, depth: int, precision: str) -> Recovery | None:
        """Return what an attack recovers; None where it was not tried."""
        wanted = attack, depth, precision
        return next((each for each in self.recoveries if (each.attack, each.depth, each.precision) == wanted), None)


def measure(decoder: Decoder, tokenizer: Tokenizer, trial: Trial, progress: Progress = lambda *_: None) -> Recovered:
    """Try every attack at every depth and precision.

    Args:
        decoder: the model, in float32 on the CPU.
        tokenizer: its own.
        trial: what is measured.
        progress: told how far it is.

    Raises:
        SettingError: a depth that the model does not have.
        ContextOverflowError: a text does not fit the model's context.
        TraceError: a prompt was in the public texts, too.
    """
    depths = trial.depths_of(decoder.config.layers)
    public = public_texts(tokenizer, trial.public, trial.seed)
    private = _private_texts(decoder, tokenizer, trial)
    require_apart(public, private)
    shown, seen = (
        _states(decoder, [*public], depths, "public states", progress),
        _states(decoder, private, depths, "states", progress),
    )
    of_public, wanted = _ids(public), _ids(private)
    guesses: dict[tuple[str, Target], Tensor] = {}
    for number, depth in enumerate(depths):
        probe = Probe.fitted(shown[depth], of_public, trial.seed)
        for precision in trial.precisions:
            observed, target = quantised(seen[depth], precision), (depth, precision)
            guesses["embedding", target] = by_embedding(decoder, observed)
            guesses["lens", target] = by_lens(decoder, observed)
            guesses["probe", target] = probe(observed)
        progress("probes", number + 1, len(depths))
    replayed = private[: trial.replayed]
    for target, guess in _replayed(decoder, replayed, seen, trial.precisions, progress).items():
        guesses["replay", target] = guess
    found = []
    for (attack, (depth, precision)), guess in sorted(guesses.items(), key=lambda each: _order(each[0])):
        texts = replayed if attack == "replay" else private
        hits = (guess == wanted[: len(guess)]).numpy()
        found.append(Recovery(attack, depth, precision, len(texts), shares(hits, texts, trial.seed)))
    commonest = int(torch.bincount(of_public).argmax())
    unseen = ~torch.isin(wanted, of_public)
    return Recovered(
        tuple(found),
        shares((wanted == commonest).numpy(), private, trial.seed),
        shares(unseen.numpy(), private, trial.seed),
    )


def require_apart(public: Sequence[Text], private: Sequence[Text]) -> None:
    """Do nothing where no private prompt is among the public ones.

    Raises:
        TraceError: one is, so that a probe would have seen what it is tried on.
    """
    if common := {text.prompt for text in public} & {text.prompt for text in private}:
        raise TraceError(
            f"{len(common)} prompts are among the public texts, too; a probe would have seen them: {min(common)!r}"
        )


def shares(hits: NDArray[np.bool_], texts: Sequence[Text], seed: int) -> dict[str, Share]:
    """Return the share of tokens that were recovered, by those of :data:`GROUPS` that have one; prompts are drawn anew for the intervals.

    Args:
        hits: whether each token was, [rows] of the texts end to end.
        texts: those of the rows; what is :data:`traces.hat.texts.FRAME` does not count.
        seed: draws the prompts.
    """
    owner = np.repeat(np.arange(len(texts)), [len(text.ids) for text in texts])
    places = np.array([place for text in texts for place in text.places])
    drawn = np.random.default_rng(seed).multinomial(len(texts), np.full(len(texts), 1 / len(texts)), _RESAMPLES)
    found = {}
    for group in GROUPS:
        counted = (places != FRAME) & np.array([group == EVERYTHING or f"{place} ".startswith(f"{group} ") for place in places])
        every = np.bincount(owner[counted], minlength=len(texts))
        right = np.bincount(owner[counted & hits], minlength=len(texts))
        if not every.sum():
            continue
        in_all = drawn @ every
        low, high = np.quantile((drawn @ right)[in_all > 0] / in_all[in_all > 0], [0.025, 0.975])
        found[group] = Share(float(right.sum() / every.sum()), float(low), float(high), int(every.sum()))
    return found


def _private_texts(decoder: Decoder, tokenizer: Tokenizer, trial: Trial) -> list[Text]:
    """Test prompts with the model's answers."""
    prompts = private_prompts(trial.prompts, trial.seed)
    said = answers(decoder, [encode(tokenizer, prompt) for prompt in prompts], trial.most_tokens)
    texts = tokenizer.decode_batch(said, skip_special_tokens=True)
    return [read(tokenizer, prompt, answer) for prompt, answer in zip(prompts, texts, strict=True)]


def _states(
    decoder: Decoder, texts: Sequence[Text], depths: Sequence[int], stage: str, progress: Progress
) -> dict[int, Tensor]:
    found: list[dict[int, Tensor]] = []
    for at in range(0, len(texts), _AT_ONCE):
        found.append(states(decoder, [text.ids for text in texts[at : at + _AT_ONCE]], depths))
        progress(stage, min(at + _AT_ONCE, len(texts)), len(texts))
    return {depth: torch.cat([part[depth] for part in found]) for depth in depths}


def _replayed(
    decoder: Decoder, texts: Sequence[Text], seen: Mapping[int, Tensor], precisions: Sequence[str], progress: Progress
) -> dict[Target, Tensor]:
    """The guesses of replay by target, texts end to end."""
    total, done, begun = sum(len(text.ids) for text in texts), 0, 0
    parts: dict[Target, list[Tensor]] = {}

    def finished() -> None:
        nonlocal done
        done += 1
        progress("replay", done, total)

    for text in texts:
        rows = slice(begun, begun + len(text.ids))
        observed = {(depth, each): quantised(seen[depth][rows], each) for depth in seen for each in precisions}
        for target, guess in replay(decoder, observed, finished).items():
            parts.setdefault(target, []).append(guess)
        begun = rows.stop
    return {target: torch.cat(guesses) for target, guesses in parts.items()}


def _ids(texts: Sequence[Text]) -> Tensor:
    return torch.tensor([token for text in texts for token in text.ids])


def _order(key: tuple[str, Target]) -> tuple[int, int, int]:
    attack, (depth, precision) = key
    return ATTACKS.index(attack), depth, PRECISIONS.index(precision)
