"""The environment: what replaying recorded graphs saves over running the models, and what the environment itself adds."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import torch

from agents.evaluation import PlannedAnswer, answer
from agents.rules import FixedRule
from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.client import CloudClient
from scripts.benchmarks import vector, vector_growth
from scripts.benchmarks.harness import Figure, Setting, compare, speedup
from synera_env import DecisionEnv, SyneraReplayEnv
from synera_env.busy import busy_of
from synera_env.radio import Radio
from synera_env.synera.live import SyneraLiveEnv, load_device
from synera_env.synera.replay import ReplayEpisode
from synera_env.synera.schema import THRESHOLD
from traces import bundled

_ANSWERS = 4  # in one timing


def measure(setting: Setting) -> list[Figure]:
    """Measure every figure of the area, on the bundled test graphs.

    Raises:
        SyneraError, TraceError: the pair or its graphs cannot be used.
    """
    torch.set_num_threads(setting.threads)
    replay = SyneraReplayEnv(bundled.graphs("test"), bundled.links("test"))
    device = load_device(setting.pair / "slm", paced=False)
    with running_server(ServerConfig(setting.pair / "llm")) as port, CloudClient(f"127.0.0.1:{port}") as client:
        live = SyneraLiveEnv(client, device, emulate_link=False)
        try:
            against_models = speedup(
                f"{_ANSWERS} answers in replay",
                _answers(replay),
                _answers(live),
                "same answers by the models, unpaced, loopback gRPC",
                setting,
                5.0,
            )
        finally:
            live.close()
    own = [against_models, _overhead(replay, setting), _step_rate(replay, setting)]
    return [*own, *vector.measure(setting), *vector_growth.measure(setting)]


def _answers(env: DecisionEnv) -> Callable[[], object]:
    rule = FixedRule(THRESHOLD, env.schema)
    return lambda: [answer(env, rule, PlannedAnswer(i, 0, 0.0, i)) for i in range(_ANSWERS)]


def _overhead(replay: SyneraReplayEnv, setting: Setting) -> Figure:
    action = replay.schema.action(THRESHOLD)

    def stepped() -> None:
        for i in range(_ANSWERS):
            replay.reset(seed=i, options={"prompt": i, "link": 0, "link_offset_seconds": 0.0})
            while not replay.step(action)[2]:
                pass

    def bare() -> None:
        for i in range(_ANSWERS):
            radio = Radio(replay.links[0])
            episode = ReplayEpisode(replay.graphs, i, radio, replay.device, busy_of(replay.cloud, None, i), replay.lens)
            episode.session.begin(episode.prompt_tokens, replay.schema.first_knobs)
            while not episode.session.advance(THRESHOLD).done:
                pass

    found = compare(stepped, bare, setting.repetitions)
    return Figure(
        "environment over the bare session",
        1 / found.speedup,
        "x its time",
        2.5,
        "lower",
        found.describe("session without observations and rewards"),
    )


def _step_rate(replay: SyneraReplayEnv, setting: Setting) -> Figure:
    peer = gym.make("CartPole-v1")
    actions = [replay.action_space.sample() for _ in range(200)]

    def run(env: gym.Env, choose: Callable[[int], object]) -> None:
        env.reset(seed=0)
        for i in range(200):
            *_, terminated, truncated, _ = env.step(choose(i))
            if terminated or truncated:
                env.reset()

    found = compare(lambda: run(replay, lambda i: actions[i]), lambda: run(peer, lambda i: i % 2), setting.repetitions)
    return Figure(
        "step time", 1 / found.speedup, "x its time", 40.0, "lower", found.describe("Gymnasium CartPole-v1, 200 steps")
    )
