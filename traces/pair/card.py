"""Measuring the bundled pair on its tasks, and the model card that states it. Runs the models by `transformers`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from runtime.errors import CheckpointError
from runtime.model.loading import load_decoder
from runtime.model.tokenizer import load_tokenizer
from traces.files import write_text
from traces.pair.train import LLM, SLM
from traces.tasks import scorers, tinyworld


@dataclass(frozen=True)
class Measured:
    """What one model does at one exit on test prompts, greedy."""

    exit_layer: int
    scores: dict[str, float] = field(default_factory=dict)
    """Mean task score by kind."""
    token_accuracy: float = 0.0
    """Share of reference answer tokens that are the argmax, teacher-forced, pooled over the scored kinds."""
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

    Args:
        folder: an exported Hugging Face folder.
        prompts_per_kind: distinct prompts of the split, for each form.
        split: `train`, `validation` or `test`.
        forms: the kinds to score (with `sketch` and `expansion` where wanted).

    Returns:
        One :class:`Measured` an exit, shallow to deep.
    """
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    exits, layers = list(model.config.exit_layers), model.model.layers
    per_layer, head = sum(p.numel() for p in layers[0].parameters()), model.lm_head.weight.numel()
    results = []
    for exit_layer in exits:
        model.model.layers = layers[:exit_layer]
        model.config.num_hidden_layers = exit_layer
        scores, right, seen = {}, 0, 0
        for form in forms:
            tasks = tinyworld.tasks(form, split, prompts_per_kind, seed=1)
            scores[form] = float(
                np.mean([scorers.score(t.prompt, a) for t, a in zip(tasks, _answers(model, tokenizer, tasks), strict=True)])
            )
            if form in tinyworld.KINDS:
                r, s = _teacher_forced(model, tokenizer, tasks)
                right, seen = right + r, seen + s
        cost = (exit_layer * per_layer + head) / (exits[-1] * per_layer + head)
        results.append(Measured(exit_layer, scores, right / seen, cost))
    return results


@torch.inference_mode()
def _answers(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tasks: list[tinyworld.Task]) -> list[str]:
    inputs = tokenizer([t.prompt for t in tasks], return_tensors="pt", padding=True, return_token_type_ids=False)
    out = model.generate(**inputs, max_new_tokens=160, do_sample=False)
    return tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@torch.inference_mode()
def _teacher_forced(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tasks: list[tinyworld.Task]
) -> tuple[int, int]:
    right = seen = 0
    for task in tasks:
        prompt = tokenizer(task.prompt)["input_ids"]
        answer = [*tokenizer(task.answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        right += int((logits.argmax(-1) == torch.tensor(answer)).sum())
        seen += len(answer)
    return right, seen


def write_card(out: Path, prompts_per_kind: int = 200) -> Path:
    """Measure both models of a pair on test prompts and write the model card `out / README.md`.

    Raises:
        CheckpointError: a model folder is missing or damaged.
    """
    for name in ("slm", "llm"):
        if not (out / name / "config.json").is_file():
            raise CheckpointError(f"no model at {out / name}; train it with: synera train-pair")
        # They say what is wrong with a damaged one; transformers would raise anything.
        load_decoder(out / name)
        load_tokenizer(out / name)
    measured = {
        "llm": measure(out / "llm", prompts_per_kind, forms=tinyworld.FORMS),
        "slm": measure(out / "slm", prompts_per_kind, forms=tinyworld.FORMS),
    }
    lines = [
        "# The bundled pair",
        "",
        "A tiny LLM and an early-exit SLM (Hugging Face Llama, bf16 safetensors) that answer the prompts of the generated",
        "world in `traces/tasks/tinyworld.py`. Trained from nothing on generated text by `synera train-pair`",
        f"(SLM {SLM.total_steps} steps, LLM {LLM.total_steps} steps of {LLM.rows} x {LLM.row_tokens} tokens, seeds {SLM.seed} and {LLM.seed}). They know nothing else.",
        "",
        f"Measured by `synera train-pair --only-measure --out FOLDER` on this folder: {prompts_per_kind} test prompts of each kind that training never saw,",
        "greedy, fp32. Score: exact value (fact), final number (problem, bill), token F1 over facts (description), exact text",
        "(sketch, expansion). Mean: over the first four. Token accuracy: teacher-forced, same four. Cost: parameters read for a token.",
        "",
        "| model | exit layer | " + " | ".join(tinyworld.FORMS) + " | mean of kinds | token accuracy | relative cost |",
        "|---|---|" + "---|" * (len(tinyworld.FORMS) + 3),
    ]
    for name, exits in measured.items():
        for m in exits:
            scores = " | ".join(f"{m.scores[form]:.3f}" for form in tinyworld.FORMS)
            lines.append(
                f"| {name} | {m.exit_layer} | {scores} | {m.mean_score:.3f} | {m.token_accuracy:.3f} | {m.relative_cost:.2f} |"
            )
    sizes = {name: sum(f.stat().st_size for f in (out / name).glob("*.safetensors")) / 1e6 for name in measured}
    lines += ["", f"Size: LLM {sizes['llm']:.1f} MB, SLM {sizes['slm']:.1f} MB. Licence: Apache-2.0.", ""]
    card = out / "README.md"
    write_text(card, "\n".join(lines))
    return card
