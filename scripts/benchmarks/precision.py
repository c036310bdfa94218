"""What another arithmetic type or device changes: tokens, answers and threshold decisions, against float32 on the CPU.

Along the float32 answer (teacher-forced) each token is asked for after the same prefix, so the rate is one a token. By
itself a text goes its own way after its first difference, so shares of whole answers say less; both are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from runtime.model.decoder import Decoder
from runtime.model.loading import load_decoder
from runtime.model.placement import Placement
from runtime.model.tokenizer import encode, load_tokenizer
from runtime.synera.drafter import predict
from scripts.benchmarks.harness import Figure, Setting
from traces import bundled
from traces.synera.record_models import greedy_tokens
from traces.tasks import tinyworld
from traces.tasks.splits import bundled_prompts

_THRESHOLDS = torch.arange(1, 10) / 10
_GOALS = {"float32": 0.0, "bfloat16": 1.0, "float16": 0.2}  # percent of tokens or decisions
_ANSWER_GOALS = {"float32": 0.0, "bfloat16": 20.0, "float16": 5.0}  # percent of answers, or of their tokens


def measure(setting: Setting) -> list[Figure]:
    """Measure every figure of the area, on as many test prompts as there are repetitions, or up to three more.

    Raises:
        CheckpointError: the pair's folder has no usable slm/ or llm/.
    """
    torch.set_num_threads(setting.threads)
    prompts = [p.text for p in bundled_prompts("test", per_kind=-(-setting.repetitions // len(tinyworld.KINDS)))]
    exact = {name: _answers(setting.pair / name, prompts) for name in ("slm", "llm")}
    placements = [Placement(dtype="bfloat16"), Placement(dtype="float16")]
    if torch.cuda.is_available():
        placements += [Placement("cuda", "float32"), Placement("cuda", "bfloat16")]
    return [figure for placement in placements for figure in _against(exact, setting.pair, placement)]


@dataclass(frozen=True)
class _Said:
    """What a model says at each position of an answer, at each exit; [tokens, exits]."""

    token: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class _Answer:
    """A greedy answer in float32 on the CPU."""

    prompt: list[int]
    tokens: list[int]
    said: _Said


@dataclass
class _Count:
    """How many of how many differ."""

    different: int = 0
    of: int = 0

    def add(self, differs: Tensor) -> None:
        """Count the entries of a boolean tensor."""
        self.different += int(differs.sum())
        self.of += differs.numel()

    def figure(self, name: str, goal: float, peer: str = str(Placement())) -> Figure:
        """The share, in percent."""
        share = 100 * self.different / self.of
        return Figure(name, share, "%", goal, "lower", f"{peer}: {self.different} of {self.of} differ")


def _answers(folder: Path, prompts: Sequence[str]) -> list[_Answer]:
    model, tokenizer = load_decoder(folder), load_tokenizer(folder)
    found = []
    for prompt in prompts:
        ids = encode(tokenizer, prompt)
        tokens = greedy_tokens(model, ids, bundled.MAX_NEW_TOKENS)
        found.append(_Answer(ids, tokens, _along(model, ids, tokens)))
    return found


def _along(model: Decoder, prompt: Sequence[int], answer: Sequence[int], *, stepwise: bool = False) -> _Said:
    """Ask for each token of an answer after those before it, in one forward or one token at a time."""
    ids = torch.tensor([*prompt, *answer[:-1]])
    chunks = [len(prompt), *[1] * (len(answer) - 1)] if stepwise else [len(ids)]
    kv, first, rows = model.new_cache(), 0, []
    for chunk in chunks:
        hidden, start, exits = model.embed(ids[first : first + chunk]), 0, []
        for layer in model.config.exit_layers:
            hidden, start = model.run(hidden, torch.arange(first, first + chunk), kv, start, layer), layer
            exits.append(hidden)
        rows.append(torch.stack(exits, 1))
        first += chunk
    states = torch.cat(rows)[len(prompt) - 1 :]  # [tokens, exits, hidden]
    guess = predict(model.logits(states.flatten(0, 1)))
    shape = states.shape[:2]
    return _Said(guess.token.view(shape).cpu(), guess.confidence.view(shape).cpu())


def _against(exact: dict[str, list[_Answer]], pair: Path, placement: Placement) -> list[Figure]:
    tokens = {"slm": _Count(), "llm": _Count()}
    decisions, shapes, drifted, answers = _Count(), _Count(), _Count(), _Count()
    for name, known in exact.items():
        model = load_decoder(pair / name, placement)
        for answer in known:
            said = _along(model, answer.prompt, answer.tokens)
            tokens[name].add(said.token != answer.said.token)
            shapes.add(_along(model, answer.prompt, answer.tokens, stepwise=True).token != said.token)
            if name == "slm":
                decisions.add((said.confidence[..., None] < _THRESHOLDS) != (answer.said.confidence[..., None] < _THRESHOLDS))
            own = greedy_tokens(model, answer.prompt, bundled.MAX_NEW_TOKENS)
            drifted.add(_differing(own, answer.tokens))
            answers.add(torch.tensor([own != answer.tokens]))
    goal, answer_goal = _GOALS[placement.dtype], _ANSWER_GOALS[placement.dtype]
    return [
        tokens["llm"].figure(f"{placement}: LLM's tokens along the float32 answer", goal),
        tokens["slm"].figure(f"{placement}: SLM's tokens, every exit, along the float32 answer", goal),
        decisions.figure(f"{placement}: SLM's confidence on the other side of 0.1, 0.2 .. 0.9", goal),
        shapes.figure(f"{placement}: tokens of one forward, both models, every exit", goal, "the same, token by token"),
        drifted.figure(f"{placement}: tokens of the answers it writes itself, both models", answer_goal),
        answers.figure(f"{placement}: answers it writes itself, both models", answer_goal),
    ]


def _differing(one: Sequence[int], other: Sequence[int]) -> Tensor:
    """Place by place, [tokens of the longer]; where one has ended they differ."""
    length = max(len(one), len(other))
    padded = [[*tokens, *[-1] * (length - len(tokens))] for tokens in (one, other)]
    return torch.tensor(padded[0]) != torch.tensor(padded[1])
