"""Training the bundled pair: a tiny LLM and an early-exit SLM of Hugging Face Llama architecture.

What lives here: the recipe and its resumable checkpoint. What does not: the tasks (traces/tasks/tinyworld.py), the scores that
the model card states (card.py) and the inference runtime, which only meets the exported folders.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from runtime.errors import SettingError
from runtime.model.placement import Placement
from runtime.settings import shown, within
from traces.errors import TraceError
from traces.files import make_folder, replacing, replacing_folder
from traces.tasks import tinyworld, vocabulary

_CONTEXT_TOKENS = 512


@dataclass(frozen=True)
class ModelRecipe:
    """Shape, training length and material of one of the two models."""

    hidden: int
    layers: int
    heads: int
    mlp: int
    steps: int
    form_weights: dict[str, float]
    """How often a prompt of each form is drawn, in proportion."""
    freedom: float = 1.0
    """Of the wording that is learned, 0..1: see `traces.tasks.answers.worded`."""
    exit_layers: tuple[int, ...] = ()
    """Layers after which an exit head is trained besides the last; they share the final norm and head."""
    offered_exits: tuple[int, ...] = ()
    """The exits that the exported config names (`exit_layers`), ending with the last layer."""
    exit_loss_weight: float = 0.3
    restart_steps: int = 0
    """Further steps after `steps`, from half the learning rate falling to 2 %."""
    rows: int = 32
    row_tokens: int = 192
    learning_rate: float = 3e-3
    seed: int = 0

    @property
    def total_steps(self) -> int:
        """Optimiser steps in all."""
        return self.steps + self.restart_steps

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise SettingError(f"hidden={self.hidden} must be a multiple of heads={self.heads}")
        within("freedom", self.freedom, 0, 1)
        if self.steps < 1:
            raise SettingError(f"steps={self.steps} must be at least 1")
        if self.restart_steps < 0:
            raise SettingError(f"restart_steps={self.restart_steps} must not be negative")


LLM = ModelRecipe(
    hidden=192,
    layers=8,
    heads=6,
    mlp=512,
    steps=1700,
    restart_steps=300,
    form_weights={"description": 1.0, "bill": 2.0, "problem": 2.5, "fact": 3.0, "sketch": 0.7, "expansion": 0.5},
)
SLM = ModelRecipe(
    hidden=128,
    layers=4,
    heads=4,
    mlp=352,
    steps=800,
    form_weights={"description": 1.0, "bill": 1.2, "problem": 1.5, "fact": 1.0, "sketch": 0.7, "expansion": 4.0},
    exit_layers=(1, 2, 3),
    offered_exits=(2, 4),
    seed=1,
)


# ---------------------------------------------------------------- data


@dataclass
class _Batch:
    ids: Tensor  # int64 [rows, row_tokens]
    labels: Tensor  # int64 [rows, row_tokens]; -100 where the next token is not part of an answer


def _pack(tokenizer: Tokenizer, recipe: ModelRecipe, step: int) -> _Batch:
    """Fill the rows of one step with whole documents, first fit; the step number seeds it, so a resume is exact."""
    rng = np.random.default_rng([recipe.seed, step])
    ids = np.zeros((recipe.rows, recipe.row_tokens), dtype=np.int64)
    labels = np.full_like(ids, -100)
    used, misses = np.zeros(recipe.rows, dtype=int), 0
    eos = int(tokenizer.token_to_id("<eos>") or 0)
    for task in tinyworld.stream(rng, recipe.form_weights, freedom=recipe.freedom):
        prompt = tokenizer.encode(task.prompt).ids
        document = [*prompt, *tokenizer.encode(task.answer, add_special_tokens=False).ids, eos]
        fits = np.flatnonzero(used + len(document) <= recipe.row_tokens)
        if not fits.size:
            misses += 1
            if misses == 4:
                break
            continue
        row, start = fits[0], used[fits[0]]
        stop = start + len(document)
        ids[row, start:stop] = document
        labels[row, start + len(prompt) - 1 : stop - 1] = document[len(prompt) :]
        used[row] = stop
    return _Batch(torch.from_numpy(ids), torch.from_numpy(labels))


# ---------------------------------------------------------------- training


def _build(recipe: ModelRecipe, vocab: int) -> LlamaForCausalLM:
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.mlp,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=_CONTEXT_TOKENS,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    config.exit_layers = list(recipe.offered_exits or (recipe.layers,))
    config.wording_freedom, config.trained_steps = recipe.freedom, 0
    return LlamaForCausalLM(config)


def _optimizers(model: nn.Module, recipe: ModelRecipe) -> list[torch.optim.Optimizer]:
    named = list(model.named_parameters())
    matrices = [p for n, p in named if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    rest = [p for n, p in named if p.ndim != 2 or "embed" in n or "lm_head" in n]
    lr = recipe.learning_rate
    return [
        torch.optim.Muon(matrices, lr=lr, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _lr_scale(step: int, recipe: ModelRecipe) -> float:
    """60 steps of warm-up, constant for half the time, then linear to 2 %; a restart falls from half to 2 %."""
    if step >= recipe.steps:
        return 0.5 - 0.48 * (step - recipe.steps) / recipe.restart_steps
    warm = min(1.0, (step + 1) / 60)
    decay = max(0.0, (step - recipe.steps / 2) / (recipe.steps / 2))
    return warm * (1.0 - 0.98 * decay)


def _loss(model: LlamaForCausalLM, batch: _Batch, recipe: ModelRecipe) -> Tensor:
    """Cross-entropy on answer tokens at the last exit, plus the mean over early exits times its weight."""
    out = model.model(batch.ids, output_hidden_states=bool(recipe.exit_layers), use_cache=False)
    asked = batch.labels >= 0
    targets = batch.labels[asked]

    def cross_entropy(hidden: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model.lm_head(hidden[asked]).float(), targets)

    loss = cross_entropy(out.last_hidden_state)
    if recipe.exit_layers:
        early = [cross_entropy(model.model.norm(out.hidden_states[layer])) for layer in recipe.exit_layers]
        loss = loss + recipe.exit_loss_weight * torch.stack(early).mean()
    return loss


def _save_checkpoint(path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer]) -> None:
    taken, freedom = model.config.trained_steps, model.config.wording_freedom
    state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": taken, "freedom": freedom}
    with replacing(path) as part:
        torch.save(state, part)


def _resume(path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], where: torch.device) -> None:
    """Take up a checkpoint; the model's config says then how many steps it has taken."""
    try:
        state = torch.load(path, weights_only=True, map_location=where)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        model.config.trained_steps, freedom = int(state["step"]), float(state["freedom"])
    except Exception as error:  # torch raises whatever a damaged file leads it to
        raise TraceError(
            f"{path} cannot be taken up ({shown(str(error), 120)[1:-1]}); delete it to begin anew, or name another folder"
        ) from None
    if freedom != model.config.wording_freedom:
        raise TraceError(
            f"{path} was trained with freedom={freedom:g}, not {model.config.wording_freedom:g}; "
            "give that, delete it to begin anew, or name another folder"
        )


def train(name: str, recipe: ModelRecipe, out: Path, device: str = "cpu", checkpoint_every: int = 200) -> Path:
    """Train one model from nothing, or from its last checkpoint, and export it as a Hugging Face folder.

    Args:
        name: `llm` or `slm`; the exported folder is `out / name`.
        recipe: shape and length.
        out: folder for the export, the checkpoint (`name.ckpt`) and the loss log (`name.log.jsonl`).
        device: cpu, cuda, cuda:N, or auto.
        checkpoint_every: steps between checkpoints (and interim exports).

    Returns:
        The exported folder.

    Raises:
        SettingError, PlacementError: there is no such device.
        TraceError: nothing can be written there, or the checkpoint there is of another recipe or freedom, or damaged.
    """
    where = Placement.of(device).torch_device
    make_folder(out)
    tokenizer = vocabulary.build_tokenizer()
    model = _build(recipe, tokenizer.get_vocab_size()).to(where)
    optimizers = _optimizers(model, recipe)
    checkpoint = out / f"{name}.ckpt"
    if checkpoint.exists():
        _resume(checkpoint, model, optimizers, where)
    first = model.config.trained_steps
    for step in _progress(f"train {name}", range(first, recipe.total_steps), recipe.total_steps, first):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _lr_scale(step, recipe)
            optimizer.zero_grad()
        batch = _pack(tokenizer, recipe, step)
        batch = _Batch(batch.ids.to(where), batch.labels.to(where))
        with torch.autocast(where.type, torch.bfloat16):
            loss = _loss(model, batch, recipe)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if (step + 1) % 20 == 0:
            with (out / f"{name}.log.jsonl").open("a") as log:
                log.write(json.dumps({"step": step + 1, "loss": round(loss.item(), 4), "time": time.time()}) + "\n")
        model.config.trained_steps = step + 1
        if (step + 1) % checkpoint_every == 0 and step + 1 < recipe.total_steps:
            _save_checkpoint(checkpoint, model, optimizers)
            _export(model, tokenizer, out / name)
    _save_checkpoint(checkpoint, model, optimizers)
    _export(model, tokenizer, out / name)
    return out / name


def _progress(title: str, items: range, total: int, done: int) -> Iterator[int]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task(title, total=total, completed=done)
        for item in items:
            yield item
            bar.advance(task)


def _export(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write weights (bf16 safetensors), config and tokenizer, as `transformers` loads them; whole or not at all."""
    kept = {n: p.detach().clone() for n, p in model.state_dict().items()}
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
    )
    with replacing_folder(folder) as part:
        model.to(torch.bfloat16).save_pretrained(part)
        wrapped.save_pretrained(part)
    model.float().load_state_dict(kept)
