"""Train HAT's adapter, with which a device that has a model's first layers drafts for the whole of it; measure it, write its card.

The model stays as it is. On one busy CPU core the bundled LLM's adapter takes about 12 minutes, the card one. With --drafter medusa,
Medusa heads instead, which draft from what comes back of the whole model: a baseline.

Examples:
    synera train-adapter                                # of the bundled LLM, 2 layers on the device, into runs/adapter
    synera train-adapter --split 3 --out runs/deeper
    synera train-adapter --resume                       # go on with what was interrupted
    synera train-adapter --model MODEL --texts prompts.txt --split 4
    synera train-adapter --only-measure --test-prompts 40
    synera train-adapter --drafter medusa               # heads instead, into runs/medusa
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from runtime.errors import SettingError
from runtime.model.split import Split
from runtime.settings import one_of, shown, whole
from scripts._cli import check_output, check_seed, console, launch, next_step, progress, say
from traces import bundled

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from runtime.hat.drafters import Drafter
    from runtime.model.decoder import Decoder
    from traces.hat.adapter_card import Group
    from traces.hat.adapter_texts import Texts, WorldTexts
    from traces.hat.training import Notes


DrafterName = Literal["adapter", "medusa"]
_GROUPS = 20  # of the bundled tasks' prompts: four kinds after 0 to 4 earlier exchanges
_ANSWERED = 2000  # most prompts of the bundled tasks that the model answers for its heads; they come again in training


@dataclass(frozen=True)
class Arguments:
    """Train an adapter."""

    drafter: DrafterName = "adapter"
    """adapter: an attention block behind the first layers, which drafts also while it waits. medusa: heads on the model's last states,
    which draft from what comes back."""

    model: Path = bundled.PAIR / "llm"
    """The model's folder (config.json, *.safetensors, tokenizer.json); all of it, as its last states are what is learned."""
    split: str = "2"
    """Layers that the device runs before the adapter; what it runs at the end (FIRST:LAST) changes nothing here, nor does any of it to
    heads, but that a device is cut there unless it is told otherwise."""
    texts: Path | None = None
    """A file of prompts, one a line, or JSON lines (.jsonl), which the model answers itself; 15 % are kept for measuring. By
    default dialogues of the bundled tasks, which the bundled LLM knows; for heads it answers
    them itself."""
    steps: int = 800
    """Optimiser steps."""
    out: Path | None = None
    """Where what is trained, card, checkpoint, log and TensorBoard go; by default runs/adapter or runs/medusa."""
    seed: int = 0
    """Of the texts and the first weights."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: CUDA where it is there, else the CPU."""
    test_prompts: int = 10
    """Test prompts of each kind after each number of earlier exchanges (20 groups); of --texts, at most twenty times as many."""
    resume: bool = False
    """Go on from the checkpoint in `out`, with the same arguments."""
    only_measure: bool = False
    """Measure what is in `out`, whatever its split, and write the card, without training."""

    def __post_init__(self) -> None:
        one_of("drafter", self.drafter, get_args(DrafterName))
        Split.parse(self.split)
        whole("steps", self.steps, 1, 10**7)
        check_seed(self.seed)
        whole("test_prompts", self.test_prompts, 1, 100_000)
        if self.only_measure and self.resume:
            raise SettingError("with --only-measure nothing is trained; leave out --resume")

    @property
    def folder(self) -> Path:
        """Where what is trained goes."""
        return self.out or Path("runs") / self.drafter


def main(arguments: Arguments) -> None:
    """Train, measure, write the card."""
    out = arguments.folder
    check_output(out, folder=True)
    from runtime.model.loading import fingerprint, load_decoder
    from runtime.model.placement import Placement
    from runtime.model.tokenizer import load_tokenizer
    from traces.hat.adapter_card import write_card
    from traces.hat.adapter_drafts import DraftRule, measured

    decoder = load_decoder(arguments.model, Placement.of(arguments.device))
    split = Split.parse(arguments.split)
    if not arguments.only_measure:
        split.middle(decoder.config.layers)  # something must be left for the cloud
    model, tokenizer = fingerprint(arguments.model), load_tokenizer(arguments.model)
    texts, prompts, notes = _material(arguments, decoder, tokenizer)
    if not arguments.only_measure:
        _train(arguments, decoder, texts, split.first, model, notes)
    drafter, rule = _load(arguments, decoder, model), DraftRule()
    with progress() as bar:
        task = bar.add_task("measure", total=len(prompts))
        found = {}
        for group, some in prompts.items():
            found[group] = measured(decoder, drafter, some, bundled.MAX_NEW_TOKENS, rule)
            bar.advance(task)
    console.print(write_card(out, decoder, drafter, found, rule).read_text())
    again = {"drafter": arguments.drafter, "model": arguments.model, "texts": arguments.texts, "out": arguments.out}
    say("next", next_step("train-adapter", only_measure=True, test_prompts=4 * arguments.test_prompts, **again))


def _train(arguments: Arguments, decoder: Decoder, texts: Texts, first: int, model: str, notes: Notes) -> None:
    """Train what is asked for."""
    from traces.hat.train_adapter import AdapterRecipe, train
    from traces.hat.train_medusa import MedusaRecipe, train_medusa

    steps, seed, out = arguments.steps, arguments.seed, arguments.folder
    if arguments.drafter == "medusa":
        train_medusa(decoder, texts, MedusaRecipe(first, steps, seed=seed), model, out, notes, resume=arguments.resume)
    else:
        train(decoder, texts, AdapterRecipe(first, steps, seed=seed), model, out, notes, resume=arguments.resume)


def _load(arguments: Arguments, decoder: Decoder, model: str) -> Drafter:
    """Load what was trained."""
    from runtime.hat.adapter import Adapter
    from runtime.hat.medusa import MedusaHeads

    kind = MedusaHeads if arguments.drafter == "medusa" else Adapter
    return kind.load(arguments.folder, decoder, model)


def _material(
    arguments: Arguments, decoder: Decoder, tokenizer: Tokenizer
) -> tuple[Texts, dict[Group, list[list[int]]], Notes]:
    """What is trained on, test prompts by group, and what the file states of it.

    Raises:
        SettingError: the model has another tokenizer than the bundled tasks, and no texts are named.
        TraceError, SettingError, ContextOverflowError: the texts cannot be used; see :mod:`traces.hat.adapter_texts`.
    """
    from runtime.model.tokenizer import tokenizer_hash
    from traces.hat.adapter_card import world_prompts
    from traces.hat.adapter_texts import OwnTexts, WorldTexts, read_own

    if arguments.texts is None:
        if tokenizer_hash(arguments.model) != tokenizer_hash(bundled.PAIR / "llm"):
            raise SettingError(
                f"{shown(str(arguments.model))} has another tokenizer than the bundled tasks; name prompts of its own with --texts FILE"
            )
        world, held = (WorldTexts(tokenizer, decoder.config.context, part) for part in ("train", "test"))
        tests = world_prompts(held, arguments.test_prompts)
        if arguments.drafter == "adapter" or arguments.only_measure:
            return world, tests, {"texts": "dialogues of the bundled tasks"}
        asked = _asked(arguments, world)
        return _answered(decoder, asked), tests, {"texts": f"{len(asked)} prompts of the bundled tasks, answered by the model"}
    learned, test = read_own(arguments.texts, tokenizer, decoder, bundled.MAX_NEW_TOKENS)
    notes: Notes = {"texts": f"{len(learned)} prompts of {arguments.texts.name}, answered by the model"}
    test = test[: _GROUPS * arguments.test_prompts]
    if arguments.only_measure:
        return OwnTexts([]), {("test", 0): test}, notes
    return _answered(decoder, learned), {("test", 0): test}, notes


def _asked(arguments: Arguments, world: WorldTexts) -> list[list[int]]:
    """Prompts of the bundled tasks for heads: what follows what is theirs to say, and the model words its answers its own way."""
    from traces.hat.train_medusa import MedusaRecipe

    count = min(_ANSWERED, arguments.steps * MedusaRecipe(0).rows)
    return world.asked(np.random.default_rng(arguments.seed), count)


def _answered(decoder: Decoder, prompts: Sequence[Sequence[int]]) -> Texts:
    """Prompts with the model's own answers."""
    from traces.hat.adapter_texts import OwnTexts, answered

    with progress() as bar:
        answers = answered(decoder, prompts, bundled.MAX_NEW_TOKENS)
        return OwnTexts(list(bar.track(answers, total=len(prompts), description="answer")))


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
