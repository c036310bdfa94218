"""What the system adds to its models: a check beside its forward, and a decision.

What does not live here: whole answers (system.py) and the verifier under many sessions (cloud.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np

from agents.base import Controller
from agents.bundle import Bundle
from agents.learning.recipe import Recipe
from agents.learning.run import train
from agents.learning.settings import PPOSettings
from agents.learning.settings_file import tuned
from agents.policy import ControllerPolicy
from agents.rules import FixedRule
from cloud.engine.embedded.forward import TorchForward, Work
from cloud.engine.embedded.kv_pool import blocks_for
from runtime.client import CloudClient
from runtime.model.loading import load_decoder
from runtime.model.tokenizer import tokenizer_hash
from runtime.wire import synera_pb2 as pb
from scripts.benchmarks.harness import Figure, Setting
from synera_env import Preference, SyneraReplayEnv
from synera_env.busy import busy_of
from synera_env.radio import Radio
from synera_env.synera.replay import ReplayEpisode
from synera_env.synera.schema import THRESHOLD
from traces import bundled
from traces.synera.graph import GraphSet
from traces.synera.growing import GrowingGraphs
from traces.synera.growing_runs import PairRuns
from traces.synera.record_models import Models
from traces.tasks import scorers

_DRAFT = 4  # tokens of a check
_PROMPT = 160  # tokens before it: as the bundled tasks' longest answers
_CHECKS_A_REPETITION = 10  # as a 99th percentile needs many
_OWN = replace(tuned("ppo", PPOSettings), actions="box", rollout=64, minibatch=64, epochs=1)
_TINY_RUN = Recipe.of("ppo", _OWN, steps=384, envs=2, validation_answers=2, validate_every=256)
"""A policy of the default size; how well it decides costs nothing."""


def clocked(work: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds, and what it returns."""
    began = perf_counter()
    result = work()
    return (perf_counter() - began) * 1e3, result


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


def check_overhead(client: CloudClient, setting: Setting) -> list[Figure]:
    """What a check takes beside its forward, over a client of a verifier in another process."""
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
    info, forward = client.model_info(), TorchForward(load_decoder(setting.pair / "llm"), blocks_for(_PROMPT + _DRAFT))
    length = min(_PROMPT, info.context_tokens - _DRAFT - 1)
    prompt, draft = [5 + i % 40 for i in range(length)], [7] * _DRAFT
    blocks = range(forward.blocks)
    forward.run([Work(blocks, 0, prompt, 1)])
    session = client.open(tokenizer_hash(setting.pair / "llm")).session_id
    # The verifier, too, reads the history's last token again: its choice is what the draft begins with.
    bare = Work(blocks, length - 1, [prompt[-1], *draft], _DRAFT + 1)
    first = pb.VerifyRequest(session_id=session, seq=1, prefix_length=0, context=prompt, draft=draft)
    client.verify(first)
    found = _Checks([], [], [], [])
    for seq in range(2, 2 + _CHECKS_A_REPETITION * setting.repetitions):
        request = pb.VerifyRequest(session_id=session, seq=seq, prefix_length=length, draft=draft)
        milliseconds, answer = clocked(partial(client.verify, request))
        found.trip.append(milliseconds)
        found.compute.append(answer.compute_ms)
        found.bare.append(clocked(lambda: forward.run([bare]))[0])
        found.empty.append(clocked(client.model_info)[0])
    client.close_session(session)
    return found


# ---------------------------------------------------------------- a decision


def decisions(setting: Setting) -> Iterator[Figure]:
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
        episode = ReplayEpisode(env.graphs, prompt, Radio(env.links[0]), env.device, busy_of(env.cloud, None, 0), env.lens)
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
    recorded = GraphSet.load(bundled.graphs("test"))
    runs = PairRuns(Models.load(bundled.PAIR / "slm", bundled.PAIR / "llm"))

    def env(preference: Preference | None = None) -> SyneraReplayEnv:
        return SyneraReplayEnv(recorded, bundled.links("test"), preference=preference)

    validation = SyneraReplayEnv(GrowingGraphs(recorded, runs, scorers.score), bundled.links("test"))
    with TemporaryDirectory() as folder:
        yield train(env, validation, _TINY_RUN, Path(folder) / "run")
