"""Measuring the bundled pair on its tasks, and the model card that states it.

What does not live here: how the models are run (exits.py) and what they say by kind of position (positions.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from transformers import LlamaConfig, PreTrainedTokenizerFast

from runtime.errors import CheckpointError
from runtime.model.loading import load_decoder
from runtime.model.tokenizer import load_tokenizer
from traces.files import write_text
from traces.pair.exits import Exit, exit_layers
from traces.pair.picture import draw_positions
from traces.pair.positions import Positions, confidence_bins, measure_positions, token_accuracy
from traces.tasks import answers, scorers, tinyworld
from traces.tasks.scorers import PARTS

_TRIED_SHARE = 0.2  # of the prompts: wrong tokens stand in the answers to these, one at a time
_PICTURE = "positions.png"


@dataclass(frozen=True)
class Measured:
    """What one model does at one exit on test prompts, greedy."""

    exit_layer: int
    scores: dict[str, float] = field(default_factory=dict)
    """Mean task score by kind."""
    token_accuracy: dict[str, float] = field(default_factory=dict)
    """By kind of position, share of the tokens of reference answers that are the argmax, teacher-forced, pooled over the
    scored kinds."""
    relative_cost: float = 0.0
    """Parameters read for one token at this exit (layers run + head), relative to the last exit."""

    @property
    def mean_score(self) -> float:
        """Mean over the four scored kinds."""
        return float(np.mean([self.scores[k] for k in tinyworld.KINDS]))


def measure(
    folder: Path, prompts_per_kind: int = 200, split: str = "test", forms: tuple[str, ...] = tinyworld.KINDS
) -> list[Measured]:
    """Score an exported model at each of its exits, greedily, in fp32.

    Reference answers are worded with the freedom that the model was trained with.

    Args:
        folder: an exported Hugging Face folder.
        prompts_per_kind: distinct prompts of the split, for each form.
        split: `train`, `validation` or `test`.
        forms: the kinds to score (with `sketch` and `expansion` where wanted).

    Returns:
        One :class:`Measured` an exit, shallow to deep.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tasks = {form: tinyworld.tasks(form, split, prompts_per_kind, seed=1) for form in forms}
    rng, freedom = np.random.default_rng(0), LlamaConfig.from_pretrained(folder).wording_freedom
    reference = [
        (t.prompt, answers.worded(t.prompt, rng, freedom)) for form in forms if form in tinyworld.KINDS for t in tasks[form]
    ]
    results = []
    for layer in exit_layers(folder):
        model = Exit(folder, layer)
        scores = {form: _mean_score(model, tokenizer, [t.prompt for t in tasks[form]]) for form in forms}
        results.append(Measured(layer, scores, token_accuracy(model, tokenizer, reference), model.relative_cost))
    return results


def _mean_score(model: Exit, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> float:
    said = model.finish([tokenizer(prompt)["input_ids"] for prompt in prompts], [[] for _ in prompts])
    texts = tokenizer.batch_decode(said, skip_special_tokens=True)
    return float(np.mean([scorers.score(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]))


def write_card(out: Path, prompts_per_kind: int = 200, more: Sequence[str] = ()) -> Path:
    """Measure both models of a pair on test prompts; write the model card `out / README.md` and its picture.

    Args:
        out: folder of `slm` and `llm`, as they were exported.
        prompts_per_kind: distinct test prompts.
        more: lines to state beside what is measured here.

    Raises:
        CheckpointError: a model folder is missing or damaged, or was not exported by :func:`traces.pair.train.train`.
    """
    for name in ("slm", "llm"):
        if not (out / name / "config.json").is_file():
            raise CheckpointError(f"no model at {out / name}; train it with: synera train-pair")
        # They say what is wrong with a damaged one; transformers would raise anything.
        load_decoder(out / name)
        load_tokenizer(out / name)
        if not hasattr(LlamaConfig.from_pretrained(out / name), "wording_freedom"):
            raise CheckpointError(f"{out / name} does not say how it was trained; export it anew with: synera train-pair")
    measured = {name: measure(out / name, prompts_per_kind, forms=tinyworld.FORMS) for name in ("llm", "slm")}
    few = max(1, round(_TRIED_SHARE * prompts_per_kind))
    tasks = {kind: tinyworld.tasks(kind, "test", prompts_per_kind, seed=1) for kind in tinyworld.KINDS}
    prompts = [t.prompt for told in tasks.values() for t in told]
    positions = measure_positions(out, prompts, [t.prompt for told in tasks.values() for t in told[:few]])
    draw_positions(positions.exits[-1], out / _PICTURE)
    card = out / "README.md"
    write_text(card, "\n".join([*_scores(out, measured, prompts_per_kind), *_positions(positions), *more, *_sizes(out)]))
    return card


def _trained(folder: Path) -> str:
    config = LlamaConfig.from_pretrained(folder)
    return f"{folder.name.upper()} {config.trained_steps} steps with freedom of wording {config.wording_freedom:g}"


def _scores(out: Path, measured: dict[str, list[Measured]], prompts_per_kind: int) -> list[str]:
    lines = [
        "# The bundled pair",
        "",
        "A tiny LLM and an early-exit SLM (Hugging Face Llama, bf16 safetensors) that answer the prompts of the generated",
        "world in `traces/tasks`. Trained from nothing on generated text by `synera train-pair`",
        f"({_trained(out / 'slm')}, {_trained(out / 'llm')}). They know nothing else.",
        "",
        f"Measured by `synera train-pair --only-measure --out FOLDER` on this folder: {prompts_per_kind} test prompts of each kind that training never saw,",
        "greedy, fp32. Score: by content, however worded: exact value (fact), final number (problem, bill), token F1 over facts",
        "(description), the fact in any form (expansion), exact text (sketch). Mean: over the first four. Token accuracy: teacher-forced, same four, by kind of",
        "position (wording as free as in training, so nobody can know all of it). Cost: parameters read for a token.",
        "",
        *_head(
            ["model", "exit layer", *tinyworld.FORMS, "mean of kinds", *(f"tokens: {part}" for part in PARTS), "relative cost"]
        ),
    ]
    for name, exits in measured.items():
        for m in exits:
            figures = [*(m.scores[form] for form in tinyworld.FORMS), m.mean_score, *(m.token_accuracy[part] for part in PARTS)]
            lines.append(_row([name, m.exit_layer, *(f"{figure:.3f}" for figure in figures), f"{m.relative_cost:.2f}"]))
    return lines


def _positions(found: Positions) -> list[str]:
    every = len(found.exits[0].places)
    lines = [
        "",
        "## By kind of position",
        "",
        f"Along the LLM's own answers to the same prompts ({found.answers} answers, {every} positions; {found.unread} answers that are no text of the world left out). A position is of the kind of the LLM's token",
        "there: a value of the world (fact), a digit of a sum, or anything else (wording). Agreement: the SLM says the LLM's token. Confidence of the SLM: shares of the kind's positions.",
        "",
        *_head(["position", "share", "exit layer", "agreement", *confidence_bins()]),
    ]
    for part in PARTS:
        for each in found.exits:
            shares = [len(each.of(part)) / every, each.agreement(part), *each.histogram(part)]
            share, agreement, *histogram = (f"{figure:.3f}" for figure in shares)
            lines.append(_row([part, share, each.exit_layer, agreement, *histogram]))
    lines += [
        "",
        f"What a wrong token does to the score: where the SLM says another token than the LLM, it is let stand (one at a time, in {found.tried} of the answers), and the LLM, or the SLM at that exit,",
        "finishes greedily. Loss: mean score against the LLM's token there, finished by the same model. Harmless: share without loss.",
        "",
        *_head(["position", "exit layer", "wrong tokens", "loss, LLM goes on", "harmless", "loss, SLM goes on", "harmless"]),
    ]
    for part in PARTS:
        for each in found.exits:
            if effect := each.effect(part):
                figures = (effect.loss, effect.harmless, effect.slm_loss, effect.slm_harmless)
                lines.append(_row([part, each.exit_layer, effect.places, *(f"{figure:.3f}" for figure in figures)]))
    return [*lines, "", f"![Confidence of the SLM by kind of position]({_PICTURE})"]


def _sizes(out: Path) -> list[str]:
    llm, slm = (sum(f.stat().st_size for f in (out / name).glob("*.safetensors")) / 1e6 for name in ("llm", "slm"))
    return ["", f"Size: LLM {llm:.1f} MB, SLM {slm:.1f} MB. Licence: Apache-2.0.", ""]


def _head(cells: Sequence[str]) -> list[str]:
    return [_row(cells), "|" + "---|" * len(cells)]


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
