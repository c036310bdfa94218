"""Train HAT's adapter, with which a device that has a model's first layers drafts for the whole of it; measure it, write its card.

The model stays as it is. On one busy CPU core the bundled LLM's adapter takes about 12 minutes, the card one.

Examples:
    synera train-adapter                                # of the bundled LLM, 2 layers on the device, into runs/adapter
    synera train-adapter --split 3 --out runs/deeper
    synera train-adapter --resume                       # go on with what was interrupted
    synera train-adapter --model MODEL --texts prompts.txt --split 4
    synera train-adapter --only-measure --test-prompts 40
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import SettingError
from runtime.model.split import Split
from runtime.settings import shown, whole
from scripts._cli import check_output, check_seed, console, launch, next_step, progress, say
from traces import bundled

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from runtime.model.decoder import Decoder
    from traces.hat.adapter_card import Group
    from traces.hat.adapter_texts import Texts
    from traces.hat.train_adapter import Notes


_GROUPS = 20  # of the bundled tasks' prompts: four kinds after 0 to 4 earlier exchanges


@dataclass(frozen=True)
class Arguments:
    """Train an adapter."""

    model: Path = bundled.PAIR / "llm"
    """The model's folder (config.json, *.safetensors, tokenizer.json); all of it, as its last states are what is learned."""
    split: str = "2"
    """Layers that the device runs before the adapter; what it runs at the end (FIRST:LAST) changes nothing here."""
    texts: Path | None = None
    """A file of prompts, one a line, or JSON lines (.jsonl), which the model answers itself; 15 % are kept for measuring. By
    default dialogues of the bundled tasks, which the bundled LLM knows."""
    steps: int = 800
    """Optimiser steps."""
    out: Path = Path("runs/adapter")
    """Where adapter, card, checkpoint, log and TensorBoard go."""
    seed: int = 0
    """Of the texts and the first weights."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: CUDA where it is there, else the CPU."""
    test_prompts: int = 10
    """Test prompts of each kind after each number of earlier exchanges (20 groups); of --texts, at most twenty times as many."""
    resume: bool = False
    """Go on from the checkpoint in `out`, with the same arguments."""
    only_measure: bool = False
    """Measure the adapter that is in `out`, whatever its split, and write the card, without training."""

    def __post_init__(self) -> None:
        Split.parse(self.split)
        whole("steps", self.steps, 1, 10**7)
        check_seed(self.seed)
        whole("test_prompts", self.test_prompts, 1, 100_000)
        if self.only_measure and self.resume:
            raise SettingError("with --only-measure nothing is trained; leave out --resume")


def main(arguments: Arguments) -> None:
    """Train, measure, write the card."""
    check_output(arguments.out, folder=True)
    from runtime.hat.adapter import Adapter
    from runtime.model.loading import fingerprint, load_decoder
    from runtime.model.placement import Placement
    from runtime.model.tokenizer import load_tokenizer
    from traces.hat.adapter_card import write_card
    from traces.hat.adapter_drafts import DraftRule, measured
    from traces.hat.train_adapter import AdapterRecipe, train

    decoder = load_decoder(arguments.model, Placement.of(arguments.device))
    split = Split.parse(arguments.split)
    if not arguments.only_measure:
        split.middle(decoder.config.layers)  # something must be left for the cloud
    model, tokenizer = fingerprint(arguments.model), load_tokenizer(arguments.model)
    texts, prompts, notes = _material(arguments, decoder, tokenizer)
    if not arguments.only_measure:
        recipe = AdapterRecipe(split.first, arguments.steps, seed=arguments.seed)
        train(decoder, texts, recipe, model, arguments.out, notes, resume=arguments.resume)
    adapter, rule = Adapter.load(arguments.out, decoder, model), DraftRule()
    with progress() as bar:
        task = bar.add_task("measure", total=len(prompts))
        found = {}
        for group, some in prompts.items():
            found[group] = measured(decoder, adapter, some, bundled.MAX_NEW_TOKENS, rule)
            bar.advance(task)
    console.print(write_card(arguments.out, decoder, adapter, found, rule).read_text())
    again = {"model": arguments.model, "texts": arguments.texts, "out": arguments.out}
    say("next", next_step("train-adapter", only_measure=True, test_prompts=4 * arguments.test_prompts, **again))


def _material(
    arguments: Arguments, decoder: Decoder, tokenizer: Tokenizer
) -> tuple[Texts, dict[Group, list[list[int]]], Notes]:
    """What is trained on, test prompts by group, and what the adapter's file states of it.

    Raises:
        SettingError: the model has another tokenizer than the bundled tasks, and no texts are named.
        TraceError, SettingError, ContextOverflowError: the texts cannot be used; see :mod:`traces.hat.adapter_texts`.
    """
    from runtime.model.tokenizer import tokenizer_hash
    from traces.hat.adapter_card import world_prompts
    from traces.hat.adapter_texts import OwnTexts, WorldTexts, answered, read_own

    if arguments.texts is None:
        if tokenizer_hash(arguments.model) != tokenizer_hash(bundled.PAIR / "llm"):
            raise SettingError(
                f"{shown(str(arguments.model))} has another tokenizer than the bundled tasks; name prompts of its own with --texts FILE"
            )
        texts, held = (WorldTexts(tokenizer, decoder.config.context, part) for part in ("train", "test"))
        return texts, world_prompts(held, arguments.test_prompts), {"texts": "dialogues of the bundled tasks"}
    learned, test = read_own(arguments.texts, tokenizer, decoder, bundled.MAX_NEW_TOKENS)
    notes: Notes = {"texts": f"{len(learned)} prompts of {arguments.texts.name}, answered by the model"}
    test = test[: _GROUPS * arguments.test_prompts]
    if arguments.only_measure:
        return OwnTexts([]), {("test", 0): test}, notes
    with progress() as bar:
        said = list(bar.track(answered(decoder, learned, bundled.MAX_NEW_TOKENS), total=len(learned), description="answer"))
    return OwnTexts(said), {("test", 0): test}, notes


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
