"""The whole system, device and verifier as two processes over gRPC on loopback: answers against transformers, what a check costs
beside its forward, what a decision costs.

What does not live here: the model core alone (device.py), the verifier under many sessions (cloud.py).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig

from agents.base import Controller
from agents.bundle import Bundle
from agents.learned import PPOConfig, train_ppo
from agents.policy import ControllerPolicy
from agents.rules import FixedRule
from cloud.engine.embedded.forward import TorchForward, Work
from runtime.client import CloudClient
from runtime.device import Connection
from runtime.errors import SyneraError
from runtime.model.loading import load_decoder
from runtime.model.tokenizer import tokenizer_hash
from runtime.policy import drive
from runtime.synera.knobs import Knobs
from runtime.wire import synera_pb2 as pb
from scripts._verifier import verifier_process
from scripts.benchmarks.harness import Figure, Setting, speedup
from synera_env import Preference, SyneraReplayEnv, synera_schema
from synera_env.radio import Radio
from synera_env.synera.live import load_device
from synera_env.synera.replay import ReplayEpisode
from synera_env.synera.schema import THRESHOLD
from traces import bundled
from traces.tasks import tinyworld

Tokens = tuple[int, ...]
_Choice = TypeVar("_Choice")
_ANSWERS = 3  # of a kind, in one timing
_TRIALS = 3  # timings of each candidate by which either side's best setting is chosen
_OURS = ((4, 1.0), (4, 0.9), (8, 1.0), (8, 0.9))
"""Draft lengths, and margins at which a draft token leaves the SLM early."""
_PEERS = (None, 6, 12)
"""`num_assistant_tokens` of a constant schedule; None leaves everything to transformers."""
_MOST_TOKENS = bundled.MAX_NEW_TOKENS  # of an answer
_DRAFT = 4  # tokens of a check
_PROMPT = 160  # tokens before it: as the bundled tasks' longest answers
_CHECKS_A_REPETITION = 10  # as a 99th percentile needs many
_TINY_RUN = PPOConfig(steps=384, envs=2, rollout=64, minibatch=64, epochs=1, validation_answers=2, validate_every=256)
"""A policy of the default size; how well it decides costs nothing."""


def figures(setting: Setting) -> list[Figure]:
    """Measure every figure of this module.

    Raises:
        SyneraError: the pair cannot be used, or two sides that should answer alike do not.
    """
    torch.set_num_threads(setting.threads)
    served = verifier_process(model=setting.pair / "llm", pace=None, threads=setting.threads)
    with _quiet(), served as verifier, CloudClient(verifier.target) as client:
        return [*_answers(client, setting), *_check_overhead(client, setting), *_decisions(setting)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from what it says of its own calls, and from progress bars."""
    told = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(told)


# ---------------------------------------------------------------- whole answers


class _Ours:
    """The device's answers, every chunk checked."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._schema = synera_schema(len(connection.device.slm.config.exit_layers))

    def __call__(self, prompts: Sequence[Tokens], draft_length: int, exit_margin: float) -> list[Tokens]:
        always = Knobs(confidence_threshold=1.0, offload_budget=1.0, draft_length=draft_length, exit_margin=exit_margin)
        policy = ControllerPolicy(FixedRule(always, self._schema), self._schema)
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
            length, margin = _fastest([(each, partial(ours, trial, *each)) for each in _OURS], trials)
            drafted = _fastest([(each, partial(peer.assisted, trial, each)) for each in _PEERS], trials)
            _require_alike(peer.plain(prompts), ours(prompts, length, margin), peer.assisted(prompts, drafted))
            stated = f"ours drafts {length}" + (f", leaves early at margin {margin:g}" if margin < 1 else "")
            by_default = "its default" if drafted is None else f"constant {drafted}"
            name, mine = f"{_ANSWERS} answers of kind {kind}, every chunk checked", partial(ours, prompts, length, margin)
            assistant = f"transformers {transformers.__version__}, assistant drafts by {by_default}; {stated}"
            yield speedup(f"{name}, over assisted", mine, partial(peer.assisted, prompts, drafted), assistant, turns, 1.5)
            alone = f"transformers {transformers.__version__}, the LLM alone; {stated}"
            yield speedup(f"{name}, over the LLM", mine, partial(peer.plain, prompts), alone, turns, 1.0)


def _fastest(candidates: Sequence[tuple[_Choice, Callable[[], object]]], trials: int) -> _Choice:
    """The setting whose work took least, all in turn; on prompts of their own, so that nobody is chosen by the measurement."""
    taken: list[list[float]] = [[] for _ in candidates]
    for _ in range(trials):
        for place, (_, work) in enumerate(candidates):
            taken[place].append(_clocked(work)[0])
    return candidates[int(np.argmin([median(times) for times in taken]))][0]


def _require_alike(wanted: Sequence[Tokens], *others: Sequence[Tokens]) -> None:
    for other in others:
        for one, another in zip(wanted, other, strict=True):
            if one != another:
                raise SyneraError(
                    f"two sides that should answer alike do not, so their times say nothing: {one[:20]} and {another[:20]}"
                )


# ---------------------------------------------------------------- a check


@dataclass(frozen=True)
class _Checks:
    """Timings of checks, ms, one an entry."""

    trip: list[float]
    """Round trip on the device's side."""
    compute: list[float]
    """Of it, the forward, by the server's own clock."""
    bare: list[float]
    """The same forward in this process."""
    empty: list[float]
    """A call that asks for nothing that must be computed."""

    @property
    def overhead(self) -> list[float]:
        """Beside the forward of the very same check: another process at another moment would add the machine's noise."""
        return [trip - compute for trip, compute in zip(self.trip, self.compute, strict=True)]


def _check_overhead(client: CloudClient, setting: Setting) -> list[Figure]:
    found = _timed_checks(client, setting)
    peer = (
        f"round trip minus the server's own compute_ms; the forward in this process: {median(found.bare):.3f} ms, "
        f"ours {median(found.trip):.3f} ms of which compute {median(found.compute):.3f} ms; "
        f"an empty call of the same server {median(found.empty):.3f} ms, p99 {np.percentile(found.empty, 99):.3f} ms"
    )
    name = f"Verify of {_DRAFT} tokens on loopback beside its forward, {len(found.trip)} checks"
    return [
        Figure(f"{name}, {which}", float(np.percentile(found.overhead, share)), "ms", goal, "lower", peer)
        for which, share, goal in (("p50", 50, 0.6), ("p99", 99, 2.0))
    ]


def _timed_checks(client: CloudClient, setting: Setting) -> _Checks:
    """One chunk after a prompt, checked again and again, each time beside the bare forward and an empty call."""
    info, forward = client.model_info(), TorchForward(load_decoder(setting.pair / "llm"))
    length = min(_PROMPT, info.context_tokens - _DRAFT - 1)
    prompt, draft = [5 + i % 40 for i in range(length)], [7] * _DRAFT
    cache = forward.new_cache()
    forward.run([Work(cache, 0, prompt, 1)])
    session = client.open(tokenizer_hash(setting.pair / "llm")).session_id
    # The verifier, too, reads the history's last token again: its choice is what the draft begins with.
    bare = Work(cache, length - 1, [prompt[-1], *draft], _DRAFT + 1)
    first = pb.VerifyRequest(session_id=session, seq=1, prefix_length=0, context=prompt, draft=draft)
    client.verify(first)
    found = _Checks([], [], [], [])
    for seq in range(2, 2 + _CHECKS_A_REPETITION * setting.repetitions):
        request = pb.VerifyRequest(session_id=session, seq=seq, prefix_length=length, draft=draft)
        milliseconds, answer = _clocked(partial(client.verify, request))
        found.trip.append(milliseconds)
        found.compute.append(answer.compute_ms)
        found.bare.append(_clocked(lambda: forward.run([bare]))[0])
        found.empty.append(_clocked(client.model_info)[0])
    client.close_session(session)
    return found


def _clocked(work: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds, and what it returns."""
    began = perf_counter()
    result = work()
    return (perf_counter() - began) * 1e3, result


# ---------------------------------------------------------------- a decision


def _decisions(setting: Setting) -> Iterator[Figure]:
    """Encoding and policy at the decision points of bundled answers, replayed."""
    env = SyneraReplayEnv(bundled.graphs("test"), bundled.links("test"))
    schema, preference = env.schema, Preference()
    points = list(_points(env))
    encoded = _each(points, lambda point, records: schema.encode(point, records, preference), setting)
    with _tiny_bundle() as folder:
        controllers: dict[str, Controller] = {
            "an exported PPO policy": Bundle.load(folder).controller(schema),
            "a rule": FixedRule(THRESHOLD, schema),
        }
    for name, controller in controllers.items():
        decided = _each(points, ControllerPolicy(controller, schema, preference).decide, setting)
        peer = (
            f"of which the encoding: {encoded:.4f} ms, ours {decided:.4f} ms; mean over {len(points)} points, median of passes"
        )
        yield Figure(f"decision by {name}, encoding included", decided, "ms", 0.2, "lower", peer)


def _points(env: SyneraReplayEnv) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Decision points and the records before them, of an answer of each kind."""
    kinds = env.graphs.meta.kinds
    for prompt in sorted({kind: place for place, kind in enumerate(kinds)}.values()):
        rng = np.random.default_rng(prompt)
        episode = ReplayEpisode(env.graphs, prompt, Radio(env.links[0]), env.device, env.cloud, env.lens, rng)
        point: Any = episode.session.begin(episode.prompt_tokens, env.schema.first_knobs)
        while point is not None:
            yield point, tuple(episode.session.records)
            point = episode.session.advance(THRESHOLD).point


def _each(points: Sequence[tuple[Any, Any]], decide: Callable[[Any, Any], object], setting: Setting) -> float:
    """Milliseconds that one of them takes."""
    passes = []
    for _ in range(setting.repetitions + 1):
        began = perf_counter()
        for point, records in points:
            decide(point, records)
        passes.append((perf_counter() - began) * 1e3 / len(points))
    return median(passes[1:])


@contextmanager
def _tiny_bundle() -> Iterator[Path]:
    """Train a policy for a moment, and export it."""

    def env(preference: Preference | None = None) -> SyneraReplayEnv:
        return SyneraReplayEnv(bundled.graphs("test"), bundled.links("test"), preference=preference)

    with TemporaryDirectory() as folder:
        yield train_ppo(env, env(), _TINY_RUN, Path(folder) / "run")
