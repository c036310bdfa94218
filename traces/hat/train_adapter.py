"""Training an adapter on one frozen model: the recipe, its resumable checkpoint, and the file that the device loads.

What lives here: the loss (HAT, arXiv 2503.18989) and the run. What does not: the texts (adapter_texts.py), what drafts are worth
(adapter_drafts.py), and the adapter as it drafts (runtime/hat/adapter.py).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.hat.adapter import FILE, Stated
from runtime.model.decoder import Decoder
from runtime.model.kv import RaggedKV
from runtime.model.layer import Turns
from runtime.settings import above, shown, whole
from traces.errors import TraceError
from traces.files import make_folder, replacing
from traces.hat.adapter_texts import Text, Texts

Notes = dict[str, str | int | float]
CHECKPOINT = "adapter.ckpt"
"""Its name in a run's folder."""
_LOG_EVERY = 20  # steps


@dataclass(frozen=True)
class AdapterRecipe:
    """How an adapter is trained; AdamW, warm-up, then a cosine to nothing.

    Raises:
        SettingError: a value is outside its range.
    """

    first: int
    """Layers before the adapter."""
    steps: int = 800
    rows: int = 16
    """Texts of a step."""
    learning_rate: float = 6e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    clip: float = 1.0
    """Longest gradient; longer ones are cut to it."""
    cross_entropy: float = 0.1
    """Its weight beside the distance of states, as in the paper."""
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


class AdapterModule(nn.Module):
    """The adapter as torch trains it, in float32; its state has the names of the file.

    It begins as the identity: drafts are then those of an exit after the first layers.
    """

    def __init__(self, stated: Stated, seed: int = 0) -> None:
        super().__init__()
        inner, hidden = stated.heads * stated.head_dim, stated.hidden
        self.stated = stated
        self._heads, self._dim = stated.heads, stated.head_dim
        self.norm = nn.RMSNorm(hidden, stated.norm_eps)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(hidden, inner, bias=False) for _ in "qkv")
        self.o_proj = nn.Linear(inner, hidden, bias=False)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for projection in (self.q_proj, self.k_proj, self.v_proj):
                projection.weight.normal_(std=hidden**-0.5, generator=generator)
            self.o_proj.weight.zero_()

    def forward(self, states: Tensor, turns: Turns, lengths: Sequence[int]) -> Tensor:
        """States of texts, laid end to end [rows, hidden], to such [rows, hidden]; texts have so many rows each."""
        normed = self.norm(states)
        q, k, v = (each(normed).view(len(states), self._heads, self._dim) for each in (self.q_proj, self.k_proj, self.v_proj))
        columns = (each.split(list(lengths)) for each in (_turned(q, turns), _turned(k, turns), v))
        seen = [_attended(*(t.transpose(0, 1)[None] for t in part)) for part in zip(*columns, strict=True)]
        out = torch.cat([each[0].transpose(0, 1).flatten(1) for each in seen])
        return states + self.o_proj(out)


def _attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _turned(heads: Tensor, turns: Turns) -> Tensor:
    """Turns.apply_, not in place."""
    halves = heads.view(*heads.shape[:2], 2, -1)
    return (halves * turns.cos + halves.flip(2) * turns.sin).flatten(2)


# ---------------------------------------------------------------- what is learned


class Features(NamedTuple):
    """What the frozen model computes of texts, laid end to end."""

    states: Tensor
    """After the first layers, float32 [rows, hidden]."""
    turns: Turns
    lengths: list[int]
    learned: Tensor
    """Which rows are drafted after, bool [rows]."""
    wanted: Tensor
    """The whole model's states before the final norm, of the learned rows, float32 [learned, hidden]."""
    probabilities: Tensor
    """The whole model's distribution there, float32 [learned, vocab]."""


def features(decoder: Decoder, texts: Sequence[Text], first: int) -> Features:
    """Run the frozen model over texts."""
    lengths = [len(text.ids) for text in texts]
    places = torch.cat([torch.arange(length) for length in lengths])
    learned = torch.tensor([each for text in texts for each in text.learned], device=decoder.device)
    kv = RaggedKV([decoder.new_cache() for _ in texts], lengths)
    with torch.inference_mode():
        ids = torch.tensor([token for text in texts for token in text.ids])
        states = decoder.run(decoder.embed(ids), places, kv, 0, first)
        wanted = decoder.run(states, places, kv, first)[learned]
        probabilities = decoder.logits(wanted).float().softmax(-1)
    # Clones: what was made in inference mode cannot be part of what is differentiated.
    states, wanted, probabilities = (t.float().clone() for t in (states, wanted, probabilities))
    turns = decoder.turns(places)
    return Features(states, Turns(turns.cos.float(), turns.sin.float()), lengths, learned, wanted, probabilities)


class Losses(NamedTuple):
    """The paper's loss and its two parts."""

    whole: Tensor
    states: Tensor
    """SmoothL1 between the adapter's states and the whole model's, in units of the latter's root mean square."""
    tokens: Tensor
    """Cross-entropy between the two distributions of tokens, in nats."""


def losses(module: AdapterModule, decoder: Decoder, found: Features, weight: float) -> Losses:
    """SmoothL1 of states plus `weight` times the cross-entropy of the draft's tokens, means over the learned rows.

    States are divided by the root mean square of the whole model's (ours): how large they are differs by model, and where they
    are large, as the bundled LLM's are (17), their distance would drown the tokens.
    """
    out = module(found.states, found.turns, found.lengths)[found.learned]
    norm, head = decoder.ends.norm.weight.float(), decoder.ends.head.float()
    logits = F.linear(F.rms_norm(out, norm.shape, norm, decoder.config.norm_eps), head)[:, : decoder.config.vocab]
    unit = found.wanted.square().mean().sqrt()
    states, tokens = F.smooth_l1_loss(out / unit, found.wanted / unit), F.cross_entropy(logits, found.probabilities)
    return Losses(states + weight * tokens, states, tokens)


# ---------------------------------------------------------------- the run


def train(
    decoder: Decoder, texts: Texts, recipe: AdapterRecipe, model: str, out: Path, notes: Notes, *, resume: bool = False
) -> Path:
    """Train an adapter, from the identity or from the run's last checkpoint.

    Args:
        decoder: the whole model, frozen.
        texts: what it is trained on.
        recipe: shape and length.
        model: fingerprint of the model's folder.
        out: the run's folder: gets the adapter, the checkpoint, `log.jsonl` and TensorBoard's `tb`.
        notes: what the file states of its training beside the recipe.
        resume: go on from the checkpoint that is there.

    Returns:
        The adapter's file.

    Raises:
        TraceError: nothing can be written there, there is a checkpoint though none is to be resumed, or none, or it is damaged
            or of another model or recipe.
    """
    stated = Stated.of(decoder.config, model, recipe.first, asdict(recipe) | notes)
    run = _Run(AdapterModule(stated, recipe.seed).to(decoder.device), recipe, out / CHECKPOINT)
    if resume:
        run.resume()
    elif run.checkpoint.exists():
        raise TraceError(
            f"{run.checkpoint} is of an earlier run; go on with it with --resume, delete it, or name another folder"
        )
    make_folder(out)
    with _Log(out, run.step) as log:
        for step in _progress(range(run.step, recipe.steps), recipe.steps):
            found = features(decoder, texts.draw(np.random.default_rng([recipe.seed, step]), recipe.rows), recipe.first)
            met = run.take(losses(run.module, decoder, found, recipe.cross_entropy))
            log.add(step + 1, met, recipe.learning_rate_at(step))
            if (step + 1) % recipe.checkpoint_every == 0:
                run.save()
    run.save()
    save_adapter(run.module, stated, out / FILE)
    return out / FILE


def save_adapter(module: AdapterModule, stated: Stated, file: Path) -> None:
    """Write what :meth:`runtime.hat.adapter.Adapter.load` reads, whole or not at all."""
    tensors = {name: t.detach().float().cpu().contiguous() for name, t in module.state_dict().items()}
    with replacing(file) as part:
        save_file(tensors, part, metadata=stated.metadata())


class _Run:
    """A training under way: the module, its optimiser, and how many steps were taken."""

    def __init__(self, module: AdapterModule, recipe: AdapterRecipe, checkpoint: Path) -> None:
        self.module, self.checkpoint, self.step = module, checkpoint, 0
        self._recipe = recipe
        self._optimizer = torch.optim.AdamW(module.parameters(), betas=(0.9, 0.95), weight_decay=recipe.weight_decay)

    def take(self, met: Losses) -> dict[str, float]:
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
            torch.save(state | {"of": self._of()}, part)

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
        if differing := [name for name, value in self._of().items() if of.get(name) != value]:
            name = differing[0]
            raise TraceError(
                f"{self.checkpoint} is of another run: {name}={shown(of.get(name))}, not {shown(self._of()[name])}; "
                "give that, delete it to begin anew, or name another folder"
            )
        self.module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _of(self) -> dict[str, str | int | float]:
        """What a run must have in common with the one that it goes on with."""
        stated = self.module.stated
        return {"model": stated.model, **stated.training}


class _Log:
    """Lines of JSON every few steps, and the same figures for TensorBoard."""

    def __init__(self, out: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to load, and only a training needs it

        self._lines = out / "log.jsonl"
        self._writer = SummaryWriter(str(out / "tb"), purge_step=step + 1)

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
            self._writer.add_scalar(f"adapter/{name}", value, step)
        with self._lines.open("a") as lines:
            lines.write(json.dumps({"step": step, **{n: round(v, 6) for n, v in figures.items()}, "time": time.time()}) + "\n")


def _progress(steps: range, total: int) -> Iterator[int]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("train adapter", total=total, completed=steps.start)
        for step in steps:
            yield step
            bar.advance(task)
