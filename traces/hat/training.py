"""A training of what drafts for one frozen model, whatever it is: its steps, its resumable checkpoint, its log.

What does not live here: what is learned (train_adapter.py, train_medusa.py) and the texts (adapter_texts.py).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from runtime.settings import above, shown, whole
from traces.errors import TraceError
from traces.files import make_folder, replacing
from traces.hat.adapter_texts import Text, Texts

Notes = dict[str, str | int | float]
_LOG_EVERY = 20  # steps


@dataclass(frozen=True)
class Recipe:
    """How long and how fast something is trained; AdamW, warm-up, then a cosine to nothing.

    Raises:
        SettingError: a value is outside its range.
    """

    first: int
    """Layers before the cut."""
    steps: int = 800
    rows: int = 16
    """Texts of a step."""
    learning_rate: float = 6e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    clip: float = 1.0
    """Longest gradient; longer ones are cut to it."""
    seed: int = 0
    checkpoint_every: int = 200
    """Steps."""

    def __post_init__(self) -> None:
        whole("first", self.first, 0, 1024)
        whole("steps", self.steps, 1, 10**7)
        whole("rows", self.rows, 1, 4096)
        above("learning_rate", self.learning_rate, 0)
        whole("seed", self.seed, 0, 2**32 - 1)
        whole("checkpoint_every", self.checkpoint_every, 1, 10**7)

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        left = max(0, step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * left))


class Met(Protocol):
    """What a step met: the loss that is lowered, and whatever else is logged, by name."""

    @property
    def whole(self) -> Tensor:
        """The loss."""
        ...

    def _asdict(self) -> dict[str, Tensor]: ...


def trained(
    module: nn.Module,
    meet: Callable[[Sequence[Text]], Met],
    texts: Texts,
    recipe: Recipe,
    of: Notes,
    checkpoint: Path,
    *,
    resume: bool = False,
) -> None:
    """Train a module from where it is, or from the run's last checkpoint.

    Args:
        module: what is trained; on its device.
        meet: from the texts of a step to its losses.
        texts: what it is trained on.
        recipe: length and rates.
        of: what a run must have in common with the one that it goes on with.
        checkpoint: its file; `log.jsonl` and TensorBoard's `tb` are written beside it.
        resume: go on from the checkpoint that is there.

    Raises:
        TraceError: nothing can be written there, there is a checkpoint though none is to be resumed, or none, or it is damaged
            or of another model or recipe.
    """
    run = Run(module, recipe, of, checkpoint)
    if resume:
        run.resume()
    elif run.checkpoint.exists():
        raise TraceError(
            f"{run.checkpoint} is of an earlier run; go on with it with --resume, delete it, or name another folder"
        )
    make_folder(checkpoint.parent)
    with _Log(checkpoint, run.step) as log:
        for step in _progress(range(run.step, recipe.steps), recipe.steps, checkpoint.stem):
            met = run.take(meet(texts.draw(np.random.default_rng([recipe.seed, step]), recipe.rows)))
            log.add(step + 1, met, recipe.learning_rate_at(step))
            if (step + 1) % recipe.checkpoint_every == 0:
                run.save()
    run.save()


class Run:
    """A training under way: the module, its optimiser, and how many steps were taken."""

    def __init__(self, module: nn.Module, recipe: Recipe, of: Notes, checkpoint: Path) -> None:
        self.module, self.checkpoint, self.step = module, checkpoint, 0
        self._recipe, self._of = recipe, of
        self._optimizer = torch.optim.AdamW(module.parameters(), betas=(0.9, 0.95), weight_decay=recipe.weight_decay)

    def take(self, met: Met) -> dict[str, float]:
        """Take a step; return what was met."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._recipe.learning_rate_at(self.step)
        self._optimizer.zero_grad()
        met.whole.backward()  # type: ignore[no-untyped-call]
        length = nn.utils.clip_grad_norm_(self.module.parameters(), self._recipe.clip)
        self._optimizer.step()
        self.step += 1
        return {name: value.item() for name, value in met._asdict().items()} | {"gradient": length.item()}

    def save(self) -> None:
        """Write the checkpoint."""
        state = {"module": self.module.state_dict(), "optimizer": self._optimizer.state_dict(), "step": self.step}
        with replacing(self.checkpoint) as part:
            torch.save(state | {"of": self._of}, part)

    def resume(self) -> None:
        """Take up the checkpoint."""
        if not self.checkpoint.is_file():
            raise TraceError(f"there is no checkpoint at {self.checkpoint}; leave out --resume, or name the folder of a run")
        try:
            state = torch.load(self.checkpoint, weights_only=True, map_location=next(self.module.parameters()).device)
            of, self.step = dict(state["of"]), int(state["step"])
        except Exception as error:  # torch raises whatever a damaged file leads it to
            raise TraceError(
                f"{self.checkpoint} cannot be taken up ({shown(str(error), 120)[1:-1]}); delete it to begin anew"
            ) from None
        if differing := [name for name, value in self._of.items() if of.get(name) != value]:
            name = differing[0]
            raise TraceError(
                f"{self.checkpoint} is of another run: {name}={shown(of.get(name))}, not {shown(self._of[name])}; "
                "give that, delete it to begin anew, or name another folder"
            )
        self.module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])


class _Log:
    """Lines of JSON every few steps, and the same figures for TensorBoard."""

    def __init__(self, checkpoint: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to load, and only a training needs it

        self._lines, self._of = checkpoint.parent / "log.jsonl", checkpoint.stem
        self._writer = SummaryWriter(str(checkpoint.parent / "tb"), purge_step=step + 1)

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, step: int, met: dict[str, float], learning_rate: float) -> None:
        """Note what a step met; `step` counts from 1."""
        if step % _LOG_EVERY:
            return
        figures = {f"loss_{name}" if name != "gradient" else name: value for name, value in met.items()}
        figures["learning_rate"] = learning_rate
        for name, value in figures.items():
            self._writer.add_scalar(f"{self._of}/{name}", value, step)
        with self._lines.open("a") as lines:
            lines.write(json.dumps({"step": step, **{n: round(v, 6) for n, v in figures.items()}, "time": time.time()}) + "\n")


def _progress(steps: range, total: int, of: str) -> Iterator[int]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task(f"train {of}", total=total, completed=steps.start)
        for step in steps:
            yield step
            bar.advance(task)
