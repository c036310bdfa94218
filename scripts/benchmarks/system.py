"""The whole system, device and verifier as two processes over gRPC on loopback, against transformers in one.

What does not live here: what a check and a decision cost beside the models (overheads.py), the model core alone (device.py).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig

from agents.policy import ControllerPolicy
from agents.rules import FixedRule
from runtime.client import CloudClient
from runtime.device import Connection
from runtime.errors import SyneraError
from runtime.policy import drive
from runtime.synera.knobs import Knobs
from scripts._verifier import verifier_process
from scripts.benchmarks.harness import Figure, Setting, speedup
from scripts.benchmarks.overheads import check_overhead, clocked, decisions
from synera_env import synera_schema
from synera_env.synera.live import load_device
from traces import bundled
from traces.tasks import tinyworld

Tokens = tuple[int, ...]
_Choice = TypeVar("_Choice")
_ANSWERS = 3  # of a kind, in one timing
_TRIALS = 3  # timings of each candidate, on prompts of their own, by which either side's best setting is chosen
_OURS = tuple(
    Knobs(1.0, 0.0, -1, margin, length, ahead, 1.0) for length in (4, 8) for margin in (1.0, 0.9) for ahead in (1.0, 0.0)
)
"""Every chunk checked: draft lengths, margins at which a draft token leaves the SLM early, drafting on meanwhile or not."""
_PEERS = (None, 6, 12)
"""`num_assistant_tokens` of a constant schedule; None leaves everything to transformers."""
_MOST_TOKENS = bundled.MAX_NEW_TOKENS  # of an answer


def figures(setting: Setting) -> list[Figure]:
    """Measure every figure of this module.

    Raises:
        SyneraError: the pair cannot be used, or two sides that should answer alike do not.
    """
    torch.set_num_threads(setting.threads)
    served = verifier_process(model=setting.pair / "llm", pace=None, threads=setting.threads)
    with _quiet(), served as verifier, CloudClient(verifier.target) as client:
        return [*_answers(client, setting), *check_overhead(client, setting), *decisions(setting)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers and the ONNX exporter from what they say of calls that are not the user's."""
    exporter, told = logging.getLogger("torch.onnx"), transformers.utils.logging.get_verbosity()
    level = exporter.level
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    exporter.setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(told)
        exporter.setLevel(level)


# ---------------------------------------------------------------- whole answers


class _Ours:
    """The device's answers, every chunk checked."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._schema = synera_schema(len(connection.device.slm.config.exit_layers))

    def __call__(self, prompts: Sequence[Tokens], knobs: Knobs) -> list[Tokens]:
        policy = ControllerPolicy(FixedRule(knobs, self._schema), self._schema)
        return [self._answer(prompt, policy) for prompt in prompts]

    def _answer(self, prompt: Tokens, policy: ControllerPolicy) -> Tokens:
        with self._connection.open() as session:
            for step in drive(session, prompt, policy):
                if step.record.error is not None:
                    raise SyneraError(f"a check was lost during the benchmark: {step.record.error}")
            return session.answer


class _Peer:
    """The answers of transformers, greedy, by the LLM alone or with the SLM as its assistant."""

    def __init__(self, connection: Connection, setting: Setting) -> None:
        load = AutoModelForCausalLM.from_pretrained
        self._llm, self._slm = (load(setting.pair / name, dtype=torch.float32).eval() for name in ("llm", "slm"))
        self._stated, self._limits = self._slm.generation_config, connection.limits

    def plain(self, prompts: Sequence[Tokens]) -> list[Tokens]:
        """Without an assistant."""
        return [self._generate(prompt) for prompt in prompts]

    def assisted(self, prompts: Sequence[Tokens], draft_length: int | None) -> list[Tokens]:
        """With one that drafts so many tokens; None leaves it to transformers."""
        answers = []
        for prompt in prompts:
            config: GenerationConfig = copy.deepcopy(self._stated)  # as it is written to while an answer is made
            if draft_length is not None:
                config.num_assistant_tokens, config.num_assistant_tokens_schedule = draft_length, "constant"
            self._slm.generation_config = config
            answers.append(self._generate(prompt, assistant_model=self._slm))
        return answers

    @torch.inference_mode()
    def _generate(self, prompt: Tokens, **assistant: Any) -> Tokens:
        ids = torch.tensor([prompt])
        out = self._llm.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=self._limits.room(len(prompt)),
            eos_token_id=sorted(self._limits.eos_ids) or None,
            pad_token_id=0,
            **assistant,
        )
        return tuple(out[0, len(prompt) :].tolist())


def _answers(client: CloudClient, setting: Setting) -> Iterator[Figure]:
    device = load_device(setting.pair / "slm", max_new_tokens=_MOST_TOKENS, paced=False)
    with Connection(device, client) as connection:
        ours, peer = _Ours(connection), _Peer(connection, setting)
        turns = Setting(setting.pair, max(1, setting.repetitions // 3), setting.threads)
        for kind in tinyworld.KINDS:
            trial, prompts = (
                [connection.encode(task.prompt) for task in tinyworld.tasks(kind, split, count)]
                for split, count in (("validation", 2), ("test", _ANSWERS))
            )
            trials = min(_TRIALS, setting.repetitions)
            knobs = _fastest([(each, partial(ours, trial, each)) for each in _OURS], trials)
            drafted = _fastest([(each, partial(peer.assisted, trial, each)) for each in _PEERS], trials)
            _require_alike(peer.plain(prompts), ours(prompts, knobs), peer.assisted(prompts, drafted))
            stated = f"ours drafts {knobs.draft_length}"
            stated += f", leaves early at margin {knobs.exit_margin:g}" if knobs.exit_margin < 1 else ""
            stated += ", drafts on meanwhile" if knobs.draft_ahead < 1 else ""
            by_default = "its default" if drafted is None else f"constant {drafted}"
            name, mine = f"{_ANSWERS} answers of kind {kind}, every chunk checked", partial(ours, prompts, knobs)
            assistant = f"transformers {transformers.__version__}, assistant drafts by {by_default}; {stated}"
            yield speedup(f"{name}, over assisted", mine, partial(peer.assisted, prompts, drafted), assistant, turns, 1.5)
            alone = f"transformers {transformers.__version__}, the LLM alone; {stated}"
            yield speedup(f"{name}, over the LLM", mine, partial(peer.plain, prompts), alone, turns, 1.0)


def _fastest(candidates: Sequence[tuple[_Choice, Callable[[], object]]], trials: int) -> _Choice:
    """The setting whose quickest work took least, as a busy machine only ever adds; all in turn, after one of each to warm up."""
    taken: list[list[float]] = [[] for _ in candidates]
    for trial in range(trials + 1):
        for place, (_, work) in enumerate(candidates):
            milliseconds = clocked(work)[0]
            if trial:
                taken[place].append(milliseconds)
    return candidates[int(np.argmin([min(times) for times in taken]))][0]


def _require_alike(wanted: Sequence[Tokens], *others: Sequence[Tokens]) -> None:
    for other in others:
        for one, another in zip(wanted, other, strict=True):
            if one != another:
                raise SyneraError(
                    f"two sides that should answer alike do not, so their times say nothing: {one[:20]} and {another[:20]}"
                )
