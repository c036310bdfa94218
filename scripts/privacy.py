"""Measure what a HAT cloud can read back: which share of the tokens each of four attacks recovers from hidden states.

HAT sends hidden states instead of tokens. Whoever holds the model's public weights can invert them: by the nearest embedding, by the
model's own head, by a linear probe that is fitted to public prompts, and by replay, which runs every token of the vocabulary through
the public layers behind what was read so far and takes the one whose state is nearest. Depth 0 sends embeddings.

Examples:
    synera privacy                                  # the bundled LLM, every depth and precision, about a minute
    synera privacy --depths 1 2 3 --precisions int8 --picture runs/privacy.png
    synera privacy --prompts 200 --replayed 24 --json runs/privacy.json
    synera privacy --model /models/large --depths 2 --replayed 0   # a large vocabulary makes replay slow
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import ConfigDict
from rich.progress import Progress, TaskID

from runtime.errors import SettingError
from runtime.model.loading import fingerprint, load_decoder
from runtime.model.tokenizer import load_tokenizer
from scripts import _privacy_view
from scripts._cli import check_output, check_seed, launch, next_step, progress, say
from scripts._report import check_picture
from synera_env import write_json
from traces import bundled
from traces.hat.recovery import Recovered, Trial, measure

Precision = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True)
class Arguments:
    """Measure what hidden states tell."""

    model: Path = bundled.PAIR / "llm"
    """Folder of the model whose states are sent; it runs in float32 on the CPU."""
    prompts: int = 48
    """Test prompts of the bundled tasks, their kinds in turn, each with the model's own greedy answer."""
    replayed: int = 4
    """Of them, the first so many are also inverted by replay, which takes the longest; 0 leaves it out."""
    depths: tuple[int, ...] = ()
    """Layers that run on the device before a state is sent; by default every depth at which a layer is left."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16", "int8")
    """Of the states that travel; tokens are told apart by place in the first."""
    seed: int = 0
    """Draws the prompts and the public texts, orders the probe's rows, and draws the prompts of the intervals."""
    picture: Path | None = None
    """Draw recovery by depth: PNG, PDF or SVG."""
    json: Path | None = None
    """Also write the figures here; the fields are those of `scripts.privacy.Inverted`."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        self.trial()
        for name, values in (("depths", self.depths), ("precisions", self.precisions)):
            if len(set(values)) < len(values):
                raise SettingError(f"{name}={' '.join(map(str, values))} names one twice")
        if not self.precisions:
            raise SettingError("precisions names none; leave it out for all")
        if self.picture is not None:
            check_picture(self.picture)
        outputs = [os.path.realpath(each) for each in (self.json, self.picture) if each is not None]
        if len(set(outputs)) < len(outputs):
            raise SettingError("json must be a file of its own; so must picture")

    def trial(self) -> Trial:
        """What is measured."""
        return Trial(
            prompts=self.prompts,
            replayed=self.replayed,
            depths=self.depths,
            precisions=self.precisions,
            most_tokens=bundled.MAX_NEW_TOKENS,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Inverted:
    """The JSON file of a measurement; `traces.schemas.read_json` reads it back."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str
    """Fingerprint of the weights."""
    layers: int
    trial: Trial
    recovered: Recovered
    format_version: int = 1


def main(arguments: Arguments) -> None:
    """Measure, print, draw.

    Raises:
        SyneraError: the model cannot be used, or has no such depth.
    """
    for path in (arguments.json, arguments.picture):
        if path is not None:
            check_output(path)
    torch.set_num_threads(1)  # beside other work a second one costs more than it brings
    decoder, trial = load_decoder(arguments.model), arguments.trial()
    trial.depths_of(decoder.config.layers)
    with progress() as bar:
        recovered = measure(decoder, load_tokenizer(arguments.model), trial, _shown_by(bar))
    _privacy_view.show(recovered, trial, decoder.config)
    if arguments.picture is not None:
        _privacy_view.draw(recovered, arguments.picture)
        say("picture", str(arguments.picture))
    if arguments.json is not None:
        write_json(arguments.json, asdict(Inverted(fingerprint(arguments.model), decoder.config.layers, trial, recovered)))
        say("figures", str(arguments.json))
    say("next", f"{next_step('make-certs')}   # TLS keeps states from everyone but the cloud, which reads them all the same")


def _shown_by(bar: Progress) -> Callable[[str, int, int], None]:
    """Show each stage as a bar of its own."""
    tasks: dict[str, TaskID] = {}

    def show(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = bar.add_task(stage, total=total)
        bar.update(tasks[stage], completed=done)

    return show


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
