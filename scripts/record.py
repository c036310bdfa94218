"""Record token graphs: run both models over everything a controller can cause on a set of prompts.

Examples:
    synera record                                   # train, validation and test graphs of the bundled tasks
    synera record --splits test --per-kind 50
    synera record --slm /models/small --llm /models/large --prompts prompts.txt --max-new-tokens 64
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from runtime.errors import SettingError
from runtime.settings import one_of, within
from scripts._cli import Dtype, check_output, console, launch, next_step, progress, say
from traces import bundled

if TYPE_CHECKING:
    from traces.synera.graph import GraphSet
    from traces.synera.record import Recorder
    from traces.synera.record_models import Models
    from traces.tasks.splits import Prompt

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_WALKS = ("random", "never", "always")


@dataclass(frozen=True)
class Arguments:
    """Record token graphs."""

    slm: Path = bundled.PAIR / "slm"
    """Hugging Face folder of the SLM; `exit_layers` in its config.json names its exits."""
    llm: Path = bundled.PAIR / "llm"
    """Hugging Face folder of the LLM."""
    out: Path = Path("runs/graphs")
    """Folder; one SPLIT.safetensors each."""
    splits: tuple[Split, ...] = SPLITS
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
    """A file that holds a lens to use (a graph file or a bundle's tables.safetensors); by default one is fitted."""
    threads: int = 2
    """CPU threads."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: CUDA where it is there, else the CPU."""
    dtype: Dtype = "float32"
    """Arithmetic type of both models; float32 makes what is recorded independent of the batch."""

    def __post_init__(self) -> None:
        if not self.splits:
            raise SettingError(f"splits is empty; name some of {', '.join(SPLITS)}")
        for split in self.splits:
            one_of("splits", split, SPLITS)
        if len(set(self.splits)) != len(self.splits):
            raise SettingError(f"splits={' '.join(self.splits)} names one twice")
        within("per_kind", self.per_kind, 1, 100_000)
        within("max_new_tokens", self.max_new_tokens, 1, 2**20)
        within("node_budget", self.node_budget, 1, 10**9)
        within("threads", self.threads, 1, 1024)


def main(arguments: Arguments) -> None:
    """Record every split."""
    import torch

    from runtime.model.placement import Placement
    from runtime.synera.lens import Lens
    from traces.synera.record import Recorder
    from traces.synera.record_models import Models

    check_output(arguments.out, folder=True)
    prompts = _prompts(arguments)
    lens = Lens.load(arguments.lens) if arguments.lens else None
    torch.set_num_threads(1)  # batches of prompts side by side scale better than threads within one
    models = Models.load(arguments.slm, arguments.llm, Placement.of(arguments.device, arguments.dtype))
    own = not models.is_pair(bundled.PAIR / "slm", bundled.PAIR / "llm")
    console.print(f"both models in {models.placement}")
    if own and arguments.prompts is None:
        console.print(
            "note: these are not the bundled models, and without --prompts they are recorded on the bundled tasks, which only "
            "the bundled pair was trained for; give prompts of your own with --prompts FILE"
        )
    table = Table(
        "split", "prompts", "nodes", "nodes a prompt", "left out", "closed", *(f"answers inside: {w}" for w in _WALKS)
    )
    score = _scorer(arguments, models, prompts)
    for name in arguments.splits:
        recorder = Recorder(
            models,
            score,
            arguments.max_new_tokens,
            arguments.node_budget,
            lens,
            arguments.open_graphs == "keep",
            arguments.threads,
        )
        graphs = record(recorder, prompts[name], name)
        if own:  # where an evaluation of them finds the models to deploy
            graphs.meta.notes.update(slm=str(arguments.slm), llm=str(arguments.llm))
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
            *(f"{c[k]:.4f}" for k in ("closed", *_WALKS)),
        )
    console.print(table)
    _say_what_comes_next(arguments, own)


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


def _prompts(arguments: Arguments) -> dict[str, list[Prompt]]:
    """The prompts of each split that is asked for."""
    from traces.tasks.splits import bundled_prompts, own_prompts

    if arguments.prompts is not None:
        return own_prompts(arguments.prompts)
    held = max(1, arguments.per_kind // 4)
    return {name: bundled_prompts(name, arguments.per_kind if name == "train" else held) for name in arguments.splits}


def _scorer(arguments: Arguments, models: Models, prompts: dict[str, list[Prompt]]) -> Callable[[str, str], float]:
    """The score of an answer."""
    from traces.synera.record_models import agreement
    from traces.tasks import scorers

    if arguments.prompts is None:
        return scorers.score
    return agreement(models, [p.text for name in arguments.splits for p in prompts[name]], arguments.max_new_tokens)


def _say_what_comes_next(arguments: Arguments, own: bool) -> None:
    missing = [name for name in ("train", "validation") if name not in arguments.splits]
    if not missing:
        say("next", next_step("train", graphs=arguments.out))
    elif "test" in arguments.splits:
        say("next", next_step("evaluate", graphs=arguments.out / "test.safetensors"))
    else:
        lens = shlex.quote(str(arguments.out / f"{arguments.splits[0]}.safetensors"))
        say("next", f"the same command with --splits {' '.join(missing)} --lens {lens}, then synera train")
    if own:
        deploy = next_step("deploy", slm=arguments.slm)
        say("live", next_step("serve", model=arguments.llm), f"{deploy}   # in another terminal")


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
