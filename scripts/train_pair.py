"""Train the bundled pair (a tiny LLM and an early-exit SLM) from nothing, measure it, write its model card.

Resumes from its last checkpoint. On two CPU cores the SLM takes about 5 minutes and the LLM about 30.

Examples:
    synera train-pair                              # into runs/pair
    synera train-pair --out /tmp/pair --device cuda
    synera train-pair --slm-steps 50 --llm-steps 50  # a quick look at the mechanics
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from runtime.settings import within
from scripts._cli import check_output, console, launch, next_step, say


@dataclass(frozen=True)
class Arguments:
    """Train the bundled pair."""

    out: Path = Path("runs/pair")
    """Where the folders `slm` and `llm`, the checkpoints and the model card go."""
    slm_steps: int | None = None
    """Optimiser steps of the SLM, without a restart; by default the recipe's."""
    llm_steps: int | None = None
    """Optimiser steps of the LLM, without a restart; by default the recipe's."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: CUDA where it is there, else the CPU."""
    test_prompts: int = 200
    """Prompts of each kind for the model card."""
    only_measure: bool = False
    """Measure the models that are in `out` and write the card, without training."""

    def __post_init__(self) -> None:
        for name in ("slm_steps", "llm_steps"):
            if (steps := getattr(self, name)) is not None:
                within(name, steps, 1, 10**7)
        within("test_prompts", self.test_prompts, 1, 100_000)


def main(arguments: Arguments) -> None:
    """Train, measure, write the card."""
    check_output(arguments.out, folder=True)
    from traces.pair import train as pair
    from traces.pair.card import write_card

    recipes = {"slm": pair.SLM, "llm": pair.LLM}
    steps = {"slm": arguments.slm_steps, "llm": arguments.llm_steps}
    if not arguments.only_measure:
        for name, recipe in recipes.items():
            asked = steps[name]
            chosen = recipe if asked is None else replace(recipe, steps=asked, restart_steps=0)
            pair.train(name, chosen, arguments.out, arguments.device)
    console.print("measuring on test prompts ...")
    card = write_card(arguments.out, arguments.test_prompts)
    console.print(card.read_text())
    say("next", next_step("record", slm=arguments.out / "slm", llm=arguments.out / "llm"))


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
