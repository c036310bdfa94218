"""Record token graphs: run both models over everything a controller can cause on a set of prompts.

Examples:
    synera record                                   # train, validation and test graphs of the bundled tasks
    synera record --splits test --per-kind 50
    synera record --slm /models/small --llm /models/large --prompts prompts.txt --max-new-tokens 64
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from rich.table import Table

from scripts._cli import console, launch, progress
from traces import bundled

if TYPE_CHECKING:
    from traces.synera.graph import GraphSet
    from traces.synera.record import Models, Prompt, Recorder

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Arguments:
    """Record token graphs."""

    slm: Path = bundled.PAIR / "slm"
    """Hugging Face folder of the SLM; `exit_layers` in its config.json names its exits."""
    llm: Path = bundled.PAIR / "llm"
    """Hugging Face folder of the LLM."""
    out: Path = Path("runs/graphs")
    """Folder; one SPLIT.safetensors each."""
    splits: tuple[Split, ...] = ("train", "validation", "test")
    """Which splits to record; the first fits the lens unless one is given."""
    per_kind: int = 40
    """Prompts of each bundled task kind; a quarter of it for validation and test."""
    prompts: Path | None = None
    """A text file, one prompt a line, instead of the bundled tasks: 70 % for training, 15 % each for validation and test.
    The score of an answer is then its agreement with the LLM's own greedy answer (1 or 0)."""
    max_new_tokens: int = bundled.MAX_NEW_TOKENS
    """Where answers are cut."""
    node_budget: int = bundled.NODE_BUDGET
    """Most nodes run for one prompt; a graph that needs more stays open."""
    open_graphs: Literal["drop", "keep"] = "drop"
    """drop: leave out prompts whose graph stays open, and say how many; keep: keep them, with their coverage."""
    lens: Path | None = None
    """A file that holds a lens to use (a graph file or a bundle's lens.safetensors); by default one is fitted."""
    threads: int = 2
    """CPU threads."""


def main(arguments: Arguments) -> None:
    """Record every split."""
    import torch

    from runtime.synera.lens import Lens
    from traces.synera.record import Models, Recorder

    torch.set_num_threads(1)  # batches of prompts side by side scale better than threads within one
    models = Models.load(arguments.slm, arguments.llm)
    lens = Lens.load(arguments.lens) if arguments.lens else None
    table = Table("split", "prompts", "nodes", "nodes a prompt", "left out", "closed", "coverage: random", "never", "always")
    for name, prompts, score in _sources(arguments, models):
        recorder = Recorder(
            models,
            score,
            arguments.max_new_tokens,
            arguments.node_budget,
            lens,
            arguments.open_graphs == "keep",
            arguments.threads,
        )
        graphs = record(recorder, prompts, name)
        lens = Lens.from_tensors(graphs.lens_tensors)
        graphs.save(arguments.out / f"{name}.safetensors")
        c = graphs.meta.coverage
        sizes = sorted(len(g) for g in graphs)
        spread = f"{sizes[0]} .. {sizes[len(sizes) // 2]} .. {sizes[-1]}"
        table.add_row(
            name,
            str(len(graphs)),
            str(graphs.nodes),
            spread,
            str(graphs.meta.notes["left_out"]),
            *(f"{c[k]:.4f}" for k in ("closed", "random", "never", "always")),
        )
    console.print(table)
    console.print(f"next: synera train --graphs {arguments.out}")


def record(recorder: Recorder, prompts: list[Prompt], split: str) -> GraphSet:
    """Record one set of prompts with a progress bar."""
    from traces.synera.graph import GraphSet

    with progress() as bar:
        task = bar.add_task(f"record {split}", total=len(prompts))
        for state in recorder.record(prompts, split):
            if isinstance(state, GraphSet):
                return state
            bar.update(task, completed=state)
    raise AssertionError("the recorder ended without its graphs")


def bundled_prompts(split: str, per_kind: int, seed: int = 0) -> list[Prompt]:
    """Return prompts of the bundled tasks, the same number of each kind."""
    from traces.synera.record import Prompt
    from traces.tasks import tinyworld

    return [Prompt(t.prompt, t.kind) for kind in tinyworld.KINDS for t in tinyworld.tasks(kind, split, per_kind, seed)]


def _sources(arguments: Arguments, models: Models) -> list[tuple[str, list[Prompt], Callable[[str, str], float]]]:
    from traces.synera.record import Prompt, greedy_answers
    from traces.tasks import tinyworld

    if arguments.prompts is None:
        shares = {
            "train": arguments.per_kind,
            "validation": max(1, arguments.per_kind // 4),
            "test": max(1, arguments.per_kind // 4),
        }
        return [(split, bundled_prompts(split, shares[split]), tinyworld.score) for split in arguments.splits]
    shared = _split(arguments.prompts)
    asked = [(split, shared[split]) for split in arguments.splits]
    lines = [line for _, part in asked for line in part]
    wanted = greedy_answers(models.llm, models.tokenizer, lines, arguments.max_new_tokens)

    def agreement(prompt: str, answer: str) -> float:
        return float(wanted[prompt] == answer)

    return [(split, [Prompt(line, "custom") for line in part], agreement) for split, part in asked]


def _split(path: Path) -> dict[str, list[str]]:
    """Divide the distinct prompts of a file: 70 % train, 15 % validation, 15 % test, at least one each."""
    lines = list(dict.fromkeys(line.strip() for line in path.read_text().splitlines() if line.strip()))
    if len(lines) < 3:
        raise ValueError(
            f"{path} holds {len(lines)} distinct prompts; write at least 3, one a line: train, validation and test need one each"
        )
    held = max(1, round(0.15 * len(lines)))
    order = np.random.default_rng(0).permutation(len(lines))
    parts = {"test": order[:held], "validation": order[held : 2 * held], "train": order[2 * held :]}
    return {split: [lines[i] for i in sorted(chosen)] for split, chosen in parts.items()}


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
