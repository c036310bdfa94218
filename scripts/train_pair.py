"""Train the bundled pair (a tiny LLM and an early-exit SLM) from nothing, measure it, write its model card.

Resumes from its last checkpoint. On two CPU cores the SLM takes about 6 minutes and the LLM about 35, the card 3.

Examples:
    synera train-pair                              # into runs/pair
    synera train-pair --out /tmp/pair --device cuda
    synera train-pair --out runs/one-wording --freedom 0
    synera train-pair --slm-steps 50 --llm-steps 50  # a quick look at the mechanics
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.settings import within
from scripts._cli import check_output, console, launch, next_step, say
from scripts._growth import Grower
from traces import bundled
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet


@dataclass(frozen=True)
class Arguments:
    """Train the bundled pair."""

    out: Path = Path("runs/pair")
    """Where the folders `slm` and `llm`, the checkpoints and the model card go."""
    slm_steps: int | None = None
    """Optimiser steps of the SLM, without a restart; by default the recipe's."""
    llm_steps: int | None = None
    """Optimiser steps of the LLM, without a restart; by default the recipe's."""
    freedom: float = 1.0
    """Of the wording that is learned, 0..1: how likely a sentence takes any of its forms instead of the first; at 0 every
    answer has one wording."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: CUDA where it is there, else the CPU."""
    test_prompts: int = 200
    """Prompts of each kind for the model card."""
    graphs: Path | None = None
    """A folder of graphs that were recorded of this pair: with its train.safetensors and test.safetensors the card also states
    what one decision of a controller is worth. They grow as that needs."""
    only_measure: bool = False
    """Measure the models that are in `out` and write the card, without training."""

    def __post_init__(self) -> None:
        for name in ("slm_steps", "llm_steps"):
            if (steps := getattr(self, name)) is not None:
                within(name, steps, 1, 10**7)
        within("freedom", self.freedom, 0, 1)
        within("test_prompts", self.test_prompts, 1, 100_000)


def main(arguments: Arguments) -> None:
    """Train, measure, write the card."""
    check_output(arguments.out, folder=True)
    from traces.pair import train as pair
    from traces.pair.card import write_card
    from traces.synera.graph import GraphSet

    folder = arguments.graphs
    graphs = [] if folder is None else [GraphSet.load(folder / f"{split}.safetensors") for split in ("train", "test")]
    recipes = {"slm": pair.SLM, "llm": pair.LLM}
    steps = {"slm": arguments.slm_steps, "llm": arguments.llm_steps}
    if not arguments.only_measure:
        for name, recipe in recipes.items():
            asked, chosen = steps[name], replace(recipe, freedom=arguments.freedom)
            if asked is not None:
                chosen = replace(chosen, steps=asked, restart_steps=0)
            pair.train(name, chosen, arguments.out, arguments.device)
    console.print("measuring on test prompts ...")
    card = write_card(arguments.out, arguments.test_prompts, _worth(arguments.out, graphs) if graphs else ())
    console.print(card.read_text())
    say("next", next_step("record", slm=arguments.out / "slm", llm=arguments.out / "llm"))


def _worth(pair: Path, recorded: Sequence[GraphSet]) -> list[str]:
    """What one decision is worth, as lines of a card; the graphs, to train on and to test on, grow.

    Raises:
        TraceError: the graphs are of another pair.
    """
    from scripts import _utility

    grower = Grower("yes", pair / "slm", pair / "llm")
    train, test = (grower(each) for each in recorded)
    profiles = DeviceProfile.load(bundled.profile("phone")), CloudProfile.load(bundled.profile("gpu"))
    found = _utility.measured(train, test, *profiles, answers=max(len(train), len(test)), seed=0)
    said = (
        f"Measured by `synera train-pair --only-measure --out FOLDER --graphs FOLDER` over graphs that `synera record` made of "
        f"{len(train)} training and {len(test)} test prompts and that grew: {_utility.title(found, 'test')}. Levels and weights of "
        "rules are found on the training prompts."
    )
    table = [_utility.HEADS, ("---",) * len(_utility.HEADS), *_utility.rows(found)]
    return ["", "## One decision", "", said, "", *("| " + " | ".join(row) + " |" for row in table)]


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
