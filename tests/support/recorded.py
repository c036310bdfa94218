"""A pair whose models often agree, the graphs of a few prompts, and a controller trained on them; each made once."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from agents.learning.recipe import Recipe
from agents.learning.run import train
from agents.learning.settings import PPOSettings
from agents.learning.settings_file import write_settings
from runtime.device import Device
from runtime.synera.lens import Lens
from synera_env.radio import Outages
from synera_env.reward import Preference
from synera_env.synera.live import LivePrompt
from synera_env.synera.replay import SyneraReplayEnv
from traces.links.generators import constant_link, markov_link
from traces.links.trace import LinkTrace
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet
from traces.tasks import tinyworld
from traces.tasks.splits import Prompt

MAX_NEW_TOKENS = 10
PHONE = DeviceProfile("test phone", "made up", call_ms=1, layer_ms=2, position_ms=0.1, head_ms=1, busy_watts=3, wait_watts=1)
GPU = CloudProfile("test cloud", "made up", forward_ms=5, token_ms=0.1, queue_ms_quantiles=(0.0, 4.0))
FREE_CLOUD = CloudProfile("no time at all", "made up", forward_ms=0, token_ms=0)
LINKS = (constant_link(rtt_ms=20.0), markov_link(7, seconds=20.0))
# With this seed the weights that are kept are trained ones: some others do best on these few prompts before any training.
TINY_PPO = PPOSettings(
    learning_rate=1e-3, hidden=8, rollout=64, gae_lambda=0.95, entropy=0.0, actions="box", minibatch=32, epochs=2
)
TINY_RUN = Recipe.of("ppo", TINY_PPO, steps=384, envs=2, validation_answers=6, validate_every=128, seed=2)


class Scorer:
    """Agreement with the LLM's own answer: the share of its characters before the first difference."""

    def __init__(self, wanted: dict[str, str]) -> None:
        self.wanted = wanted

    def __call__(self, prompt: str, answer: str) -> float:
        wanted = self.wanted[prompt]
        same = next((i for i, (a, b) in enumerate(zip(wanted, answer, strict=False)) if a != b), min(len(wanted), len(answer)))
        return same / max(1, len(wanted))


@dataclass(frozen=True)
class Recorded:
    """A pair and its graphs."""

    slm: Path
    llm: Path
    graphs: GraphSet
    score: Scorer

    @property
    def prompts(self) -> list[LivePrompt]:
        """In the order of the graphs."""
        return [LivePrompt(text, kind) for text, kind in zip(self.graphs.meta.prompts, self.graphs.meta.kinds, strict=True)]

    def env(
        self,
        links: tuple[LinkTrace, ...] = LINKS,
        preference: Preference | None = None,
        outages: Outages = Outages.never(),  # noqa: B008 - frozen
    ) -> SyneraReplayEnv:
        """A replay of the graphs; no check is lost unless outages are given."""
        return SyneraReplayEnv(self.graphs, links, PHONE, GPU, preference, outages)

    def device(self, *, paced: bool = False, profile: DeviceProfile = PHONE) -> Device:
        """The live counterpart of the recorded SLM."""
        lens = Lens.from_tensors(self.graphs.lens_tensors)
        return Device.load(self.slm, profile, max_new_tokens=self.graphs.meta.max_new_tokens, lens=lens, paced=paced)


def similar_slm(llm: Path, folder: Path, noise: float = 0.03) -> Path:
    """Write a disturbed copy of an LLM, to be left after its second and third layer."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(llm, folder)
    weights = load_file(folder / "model.safetensors")
    rng = torch.Generator().manual_seed(5)
    for weight in weights.values():
        weight += noise * weight.std().nan_to_num(0.0) * torch.randn(weight.shape, generator=rng)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"exit_layers": [2, 3]}))
    return folder


def foreign_copy(folder: Path, target: Path) -> Path:
    """Copy a model, two words of its tokenizer exchanged."""
    shutil.copytree(folder, target)
    path = target / "tokenizer.json"
    stated = json.loads(path.read_text())
    vocabulary = stated["model"]["vocab"]
    one, other = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    path.write_text(json.dumps(stated))
    return target


@cache
def recorded(llm: Path) -> Recorded:
    """Record the complete graphs of six prompts with a similar SLM."""
    from traces.synera.record import Recorder
    from traces.synera.record_models import Models, greedy_answers

    models = Models.load(similar_slm(llm, llm.parent / "similar"), llm)
    tasks = [t for kind in tinyworld.KINDS for t in tinyworld.tasks(kind, "test", 2)][:6]
    score = Scorer(greedy_answers(models.llm, models.tokenizer, [t.prompt for t in tasks], MAX_NEW_TOKENS))
    recorder = Recorder(models, score, MAX_NEW_TOKENS)
    *_, graphs = recorder.record([Prompt(t.prompt, t.kind) for t in tasks], "test")
    assert isinstance(graphs, GraphSet)
    return Recorded(llm.parent / "similar", llm, graphs, score)


@cache
def trained(llm: Path) -> Path:
    """Train a very small controller on those graphs; return the run's folder, with `bundle` in it."""
    pair, folder = recorded(llm), llm.parent / "run"
    train(lambda preference: pair.env(preference=preference), pair.env(), TINY_RUN, folder)
    return folder


def split_files(pair: Recorded, folder: Path) -> None:
    """Write a pair's graphs as those of every split, and the profiles of device and cloud."""
    for split in ("train", "validation", "test"):
        pair.graphs.save(folder / "graphs" / f"{split}.safetensors")
    PHONE.save(folder / "phone.json")
    GPU.save(folder / "gpu.json")


def tiny_training(folder: Path) -> dict[str, Any]:
    """Options of `synera train` that train as :data:`TINY_RUN` says; its own settings are written into a folder."""
    write_settings(folder / "tiny.yaml", TINY_RUN.settings, "")
    shared = ("steps", "envs", "validation_answers", "validate_every", "seed")
    return {"settings": folder / "tiny.yaml"} | {name: getattr(TINY_RUN, name) for name in shared}
