"""Progressive early exit: time a drafted token by exit depth and margin against full depth, and what the answers are then worth.

Time is that of the real drafter over whole answers, what it runs later for the tokens that left early included. Quality is
the mean task score of the answers that the SLM writes alone at the same setting, read off the bundled test graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.clock import RealClock
from runtime.model.decoder import Decoder
from runtime.model.loading import fingerprint, load_decoder
from runtime.model.tokenizer import encode, load_tokenizer
from runtime.synera.drafter import ModelDrafter
from runtime.synera.knobs import Knobs
from runtime.synera.lens import Lens
from scripts.benchmarks.harness import Figure, Setting, compare
from synera_env.busy import busy_of
from synera_env.metrics import bootstrap_interval
from synera_env.radio import Radio
from synera_env.synera.replay import ReplayEpisode
from traces import bundled
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet
from traces.tasks.splits import bundled_prompts

_MARGINS = (0.3, 0.5, 0.7, 0.9, 0.98)
_FULL = Knobs()
_GOAL = 1.0
"""An early exit should not be slower than full depth."""
_LOSS = 0.05
"""Quality that it may cost."""


def measure(setting: Setting) -> list[Figure]:
    """Measure every figure of the area; none for an SLM that has its last exit alone.

    Quality is left out for a pair that the bundled graphs were not recorded with.

    Raises:
        CheckpointError: the pair's folder has no usable slm/.
    """
    torch.set_num_threads(setting.threads)
    slm, tokenizer = load_decoder(setting.pair / "slm"), load_tokenizer(setting.pair / "slm")
    prompts = [encode(tokenizer, prompt.text) for prompt in bundled_prompts("test", per_kind=1)]
    graphs = GraphSet.load(bundled.graphs("test"))
    known = graphs if graphs.meta.slm_fingerprint == fingerprint(setting.pair / "slm") else None
    layers = slm.config.exit_layers
    settings = [(f"exit after layer {at} of {layers[-1]}", Knobs(exit_index=i)) for i, at in enumerate(layers[:-1])]
    settings += [(f"margin {m:g}", Knobs(exit_margin=m)) for m in _MARGINS if len(layers) > 1]
    figures = []
    for name, knobs in settings:
        figures.append(_time(name, slm, prompts, knobs, setting))
        if known is not None:
            figures.append(_quality(name, known, knobs))
    return figures


@dataclass
class _Answers:
    """Answers to some prompts at one setting, drafted again and again; the prompts are read once, before the timing."""

    slm: Decoder
    prompts: Sequence[Sequence[int]]
    knobs: Knobs

    def __post_init__(self) -> None:
        costs = DeviceProfile.load(bundled.profile("phone"))
        lens = Lens.neutral(len(self.slm.config.exit_layers), self.slm.config.hidden)
        self._drafters = [ModelDrafter(self.slm, lens, RealClock(), costs) for _ in self.prompts]
        for drafter, prompt in zip(self._drafters, self.prompts, strict=True):
            drafter.begin(prompt)
        self.exits: list[int] = []
        """At which each token of the last run left."""

    def __call__(self) -> None:
        self.exits = []
        for drafter, prompt in zip(self._drafters, self.prompts, strict=True):
            drafter.rollback(len(prompt))
            room = min(bundled.MAX_NEW_TOKENS, self.slm.config.context - len(prompt))
            for _ in range(room):
                drafted = drafter.next(self.knobs.exit_index, self.knobs.exit_margin)
                self.exits.append(drafted.exit_index)
                if drafted.token in self.slm.config.eos_ids:
                    break

    @property
    def early(self) -> float:
        """Share of the tokens that left before the last exit."""
        return float(np.mean(np.array(self.exits) < len(self.slm.config.exit_layers) - 1))


def _time(name: str, slm: Decoder, prompts: Sequence[Sequence[int]], knobs: Knobs, setting: Setting) -> Figure:
    """Answers differ in length, so times are by token."""
    ours, full = _Answers(slm, prompts, knobs), _Answers(slm, prompts, _FULL)
    found = compare(ours, full, setting.repetitions).per_unit(len(ours.exits), len(full.exits))
    peer = f"full depth, {ours.early:.0%} of our tokens left early, a token"
    return Figure(f"{name}: draft a token", found.speedup, "x as fast", _GOAL, "higher", found.describe(peer))


def _quality(name: str, graphs: GraphSet, knobs: Knobs) -> Figure:
    ours, full = _scores(graphs, knobs), _scores(graphs, _FULL)
    low, high = bootstrap_interval(ours - full)
    peer = f"full depth: {full.mean():.3f}, ours minus it {ours.mean() - full.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
    return Figure(
        f"{name}: answers of the SLM alone", float(ours.mean()), "quality", float(full.mean()) - _LOSS, "higher", peer
    )


def _scores(graphs: GraphSet, knobs: Knobs) -> NDArray[np.float64]:
    """Task score of each prompt's answer when nothing is offloaded, [prompts]."""
    device, cloud = DeviceProfile.load(bundled.profile("phone")), CloudProfile.load(bundled.profile("gpu"))
    radio, lens = Radio(bundled.links("test")[0]), Lens.from_tensors(graphs.lens_tensors)
    scores = list[float]()
    for index in range(len(graphs)):
        episode = ReplayEpisode(graphs, index, radio, device, busy_of(cloud, None, 0), lens)
        episode.session.begin(episode.prompt_tokens, knobs)
        while not episode.session.advance(knobs).done:
            pass
        scores.append(episode.score())
    return np.array(scores)
