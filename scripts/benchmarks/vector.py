"""The vector environment: decisions a second beside Gymnasium's own, what a million nodes cost, and what training leaves of it.

Part of the area `env`. What does not live here: the scalar environment's figures (env.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from agents.learning.around import Around
from agents.learning.recipe import Recipe
from agents.learning.run import train
from agents.learning.settings import PPOSettings
from agents.learning.settings_file import tuned
from scripts.benchmarks.harness import Figure, Setting, compare
from synera_env import SyneraReplayEnv
from synera_env.synera.vector import SyneraReplayVectorEnv
from traces import bundled
from traces.synera.graph import GraphSet
from traces.synera.graph_check import NODE_ARRAYS

ROWS = 1024
_STEPS, _PEER_STEPS = 50, 200
_NODES = 1_000_000
_OWN = replace(tuned("ppo", PPOSettings), actions="box", rollout=32, minibatch=4096, epochs=4)
_PPO = Recipe.of("ppo", _OWN, steps=7 * 32 * ROWS, envs=ROWS, validation_answers=8, validate_every=1_000_000_000)


def measure(setting: Setting) -> list[Figure]:
    """Measure decisions a second, memory and start-up, and training from end to end."""
    return [*_rates(setting), *_million(), _training()]


def _rates(setting: Setting) -> list[Figure]:
    """Random actions, and every chunk checked and drafted on from, each in turn with CartPole's vector environment."""
    peer = gym.make_vec("CartPole-v1", num_envs=ROWS, vectorization_mode="vector_entry_point")
    pushes = np.random.default_rng(0).integers(0, 2, (_PEER_STEPS, ROWS))
    peer.reset(seed=0)
    ours = SyneraReplayVectorEnv(ROWS)
    ours.reset(seed=0)
    drawn = np.random.default_rng(1).uniform(-1, 1, (_STEPS, ROWS, *ours.single_action_space.shape)).astype(np.float32)  # type: ignore[misc]
    always = np.broadcast_to(ours.schema.action(ours.schema.presets["always"]), drawn.shape)
    figures = []
    for name, actions in (("random knobs", drawn), ("always offload", always)):
        found = compare(_stepping(ours, actions), _stepping(peer, pushes), setting.repetitions)
        each = found.per_unit(_STEPS * ROWS, _PEER_STEPS * ROWS)
        beside = f"Gymnasium's CartPole vector environment, {ROWS} copies too: {1 / median(each.peer):,.0f} a second"
        figures += [
            Figure(f"vector, {ROWS} copies, {name}", 1 / median(each.ours), "decisions/s", 1e6, "higher", beside),
            Figure(f"vector beside CartPole's, {name}", each.speedup, "x its rate", 0.1, "higher", beside),
        ]
    return figures


def _stepping(env: gym.vector.VectorEnv[Any, Any, Any], actions: np.ndarray) -> Callable[[], object]:
    return lambda: [env.step(each) for each in actions]


def _million() -> list[Figure]:
    """In a process of its own, as memory is a process's; over the bundled graphs again and again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "million.safetensors"
        nodes = _repeated(GraphSet.load(bundled.graphs("train")), _NODES, path)
        said = subprocess.run([sys.executable, "-m", __name__, str(path)], capture_output=True, text=True, check=True)
    found = json.loads(said.stdout.splitlines()[-1])
    peer = f"{nodes:,} nodes mapped, {ROWS} copies, {found['steps']} random steps; before, the bundled graphs were stepped"
    return [
        Figure("start of the vector environment, 1 million nodes", found["seconds"], "s", 1.0, "lower", peer),
        Figure("memory of 1 million nodes", found["resident_mb"] * _NODES / nodes, "MB resident", 150.0, "lower", peer),
    ]


def _repeated(graphs: GraphSet, nodes: int, path: Path) -> int:
    """Write graphs again and again until there are so many nodes; return how many there are."""
    times, arrays = -(-nodes // graphs.nodes), dict(graphs.arrays)
    for name in (*NODE_ARRAYS, "prompt_tokens"):
        arrays[name] = np.concatenate([arrays[name]] * times)
    for name in ("node_offsets", "prompt_offsets"):
        edges = arrays[name]
        arrays[name] = np.concatenate([[0], *(edges[1:] + turn * edges[-1] for turn in range(times))]).astype(np.int64)
    meta = graphs.meta
    meta = replace(meta, prompts=meta.prompts * times, kinds=meta.kinds * times, references=meta.references * times)
    GraphSet(meta, arrays).save(path)
    return graphs.nodes * times


def _stepped(path: str | None, steps: int) -> tuple[SyneraReplayVectorEnv, float]:
    began = perf_counter()
    env = SyneraReplayVectorEnv(ROWS, path)
    env.reset(seed=0)
    seconds, rng = perf_counter() - began, np.random.default_rng(0)
    for _ in range(steps):
        env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))  # type: ignore[arg-type]
    return env, seconds


def _resident_mb() -> float:
    """Of this process, pages of mapped files included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def _training() -> Figure:
    """Training as `agents.learning` has it, on the compiled rows; validation aside, which is as often as one asks for."""
    rate, share = _trained(_PPO)
    peer = (
        f"{_OWN.rollout} steps of {_PPO.envs} rows, {_OWN.epochs} epochs of minibatches of {_OWN.minibatch}, hidden {_OWN.hidden}, {torch.get_num_threads()} threads; "
        f"the environment's share of the time: {share:.1%}"
    )
    return Figure("PPO from end to end", rate, "decisions/s", 50_000.0, "higher", peer)


def _trained(recipe: Recipe) -> tuple[float, float]:
    """Return decisions a second, and which share of the time is the environment's."""
    watch = _Watch()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how little is validated: nobody takes the weights
        train(
            lambda preference: SyneraReplayEnv(preference=preference),
            SyneraReplayEnv(bundled.graphs("test")),
            recipe,
            Path(folder) / "run",
            Around(callback=watch),
        )
    return recipe.envs * _OWN.rollout / median(watch.seconds), median(watch.stepping) / median(watch.seconds)


class _Watch(BaseCallback):
    """How long each rollout with its update took, but the last, and what of it the environment took."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.stepping: list[float] = []
        self._began = self._stepped = 0.0

    def _on_training_start(self) -> None:
        step_wait = self.training_env.step_wait

        def timed() -> Any:
            began = perf_counter()
            found = step_wait()
            self._stepped += perf_counter() - began
            return found

        self.training_env.step_wait = timed  # type: ignore[method-assign]

    def _on_rollout_start(self) -> None:
        if self._began:
            self.seconds.append(perf_counter() - self._began)
            self.stepping.append(self._stepped)
        self._began, self._stepped = perf_counter(), 0.0

    def _on_step(self) -> bool:
        return True


if __name__ == "__main__":
    _stepped(None, 200)
    before = _resident_mb()
    env, took = _stepped(sys.argv[1], 1000)
    print(json.dumps({"seconds": took, "resident_mb": _resident_mb() - before, "steps": 1000}))
