"""Two tiny pairs and their recorded graphs, and a live session without a network to hold the replay against.

The random pair shares nothing, so nearly every token branches; in the akin pair the LLM is the SLM with some noise, so
drafts are often accepted and answers are longer. Both graphs are closed.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from traces.profile import CloudProfile, DeviceProfile
from traces.tasks import tinyworld
from traces.tasks.splits import Prompt

if TYPE_CHECKING:
    from runtime.clock import SimulatedClock
    from runtime.model.decoder import Decoder
    from runtime.synera.chunk import Verdict
    from runtime.synera.session import Drafter, Session
    from synera_env.synera.walk import Walk
    from traces.synera.graph import GraphSet
    from traces.synera.record_models import Models

DEVICE = DeviceProfile("test phone", "made up", 1.0, 7.0, 0.6, 2.0, busy_watts=6.0, wait_watts=1.2, radio_joules_per_mb=5.0)
CLOUD = CloudProfile("test cloud", "made up", 30.0, 0.05, (0.0, 1.0, 4.0, 20.0))
RANDOM_NEW_TOKENS = 6
AKIN_NEW_TOKENS = 14


def text_score(prompt: str, answer: str) -> float:
    """A score in 0..1 that differs for nearly every answer."""
    return zlib.crc32(f"{prompt}|{answer}".encode()) / 2**32


def tiny_prompts() -> list[Prompt]:
    """Two prompts of each of three kinds."""
    return [Prompt(t.prompt, t.kind) for kind in tinyworld.KINDS[:3] for t in tinyworld.tasks(kind, "train", 2)]


def record_tiny(models: Models, max_new_tokens: int, node_budget: int = 20_000) -> GraphSet:
    """Record the tiny prompts."""
    from traces.synera.graph import GraphSet
    from traces.synera.record import Recorder

    *_, last = Recorder(models, text_score, max_new_tokens, node_budget).record(tiny_prompts(), "train", batch=4)
    assert isinstance(last, GraphSet)
    return last


@pytest.fixture(scope="session")
def tiny_models(tiny_slm: Path, tiny_llm: Path) -> Models:
    """The random pair, loaded."""
    from traces.synera.record_models import Models

    return Models.load(tiny_slm, tiny_llm)


@pytest.fixture(scope="session")
def tiny_graphs(tiny_models: Models) -> GraphSet:
    """Closed graphs of the random pair."""
    return record_tiny(tiny_models, RANDOM_NEW_TOKENS)


@pytest.fixture(scope="session")
def akin_pair(tiny_slm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pair whose LLM is the SLM with some noise; the SLM's second layer does little and EOS is not rare."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(tiny_slm / "model.safetensors")
    for name in weights:
        if name.startswith("model.layers.1.") and ("o_proj" in name or "down_proj" in name):
            weights[name] *= 0.2
    weights["model.embed_tokens.weight"][2] *= 1.5
    generator = torch.Generator().manual_seed(5)
    noise = {name: 0.012 * torch.randn(w.shape, generator=generator) * (w.dim() > 1) for name, w in weights.items()}
    folder = tmp_path_factory.mktemp("akin")
    for name, tensors in (("slm", weights), ("llm", {n: w + noise[n] for n, w in weights.items()})):
        shutil.copytree(tiny_slm, folder / name)
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def akin_models(akin_pair: Path) -> Models:
    """The akin pair, loaded."""
    from traces.synera.record_models import Models

    return Models.load(akin_pair / "slm", akin_pair / "llm")


@pytest.fixture(scope="session")
def akin_graphs(akin_models: Models) -> GraphSet:
    """Closed graphs of the akin pair."""
    return record_tiny(akin_models, AKIN_NEW_TOKENS)


def last_row(decoder: Decoder, tokens: Sequence[int], *, stop: int | None = None) -> np.ndarray:
    """Run one sequence afresh; return the probabilities [vocab] after its last token."""
    import torch

    hidden = decoder.run(decoder.embed(torch.tensor(tokens)), torch.arange(len(tokens)), decoder.new_cache(), 0, stop)
    return decoder.logits(hidden[-1:])[0].float().softmax(-1).cpu().numpy()


class InProcessVerifier:
    """Checks drafts with one fresh forward of the LLM; no link, and each takes so many seconds."""

    def __init__(self, llm: Decoder, clock: SimulatedClock, seconds: float = 0.0) -> None:
        self._llm, self._clock, self._seconds = llm, clock, seconds
        self._checking: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        self._known_at = 0.0

    def open(self, prompt_tokens: int) -> None:
        self._checking = None

    def probe_seconds(self) -> float | None:
        return None

    def shut(self) -> bool:
        return False

    def submit(self, history: Sequence[int], draft: Sequence[int], sampled: object) -> None:
        self._checking, self._known_at = (tuple(history), tuple(draft)), self._clock.now() + self._seconds

    def ready(self) -> bool:
        return self._clock.now() >= self._known_at

    def known_at(self) -> float:
        return self._known_at

    def result(self) -> Verdict:
        import torch

        from runtime.synera.chunk import Verdict

        assert self._checking is not None
        self._clock.charge(self._seconds, since=self._known_at - self._seconds)
        history, draft = self._checking
        tokens = [*history, *draft]
        hidden = self._llm.run(self._llm.embed(torch.tensor(tokens)), torch.arange(len(tokens)), self._llm.new_cache())
        choices = self._llm.logits(hidden[len(history) - 1 :]).argmax(-1).tolist()
        accepted = next((i for i, token in enumerate(draft) if token != choices[i]), len(draft))
        return Verdict(accepted, choices[accepted], 0.0, 0.0, 0.0, 0.0, len(tokens), uplink_bytes=0, downlink_bytes=0, load=0.0)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class LiveAnswer:
    """A live session over the models, in simulated time."""

    session: Session
    clock: SimulatedClock


def live_answer(
    models: Models, graphs: GraphSet, device: DeviceProfile = DEVICE, walk: Walk | None = None, check_seconds: float = 0.0
) -> LiveAnswer:
    """A session of an in-process verifier, and of a model drafter or, given its walk, a replayed one; with the limits and the lens
    of graphs."""
    from runtime.clock import SimulatedClock
    from runtime.session import Limits
    from runtime.synera.drafter import ModelDrafter
    from runtime.synera.lens import Lens
    from runtime.synera.session import Session
    from synera_env.synera.walk import ReplayDrafter

    clock, lens, meta = SimulatedClock(), Lens.from_tensors(graphs.lens_tensors), graphs.meta
    limits = Limits(meta.max_new_tokens, frozenset(meta.eos_ids), meta.context)
    drafter: Drafter = ModelDrafter(models.slm, lens, clock, device)
    if walk is not None:
        drafter = ReplayDrafter(walk, meta.exit_layers, clock, device)
    verifier = InProcessVerifier(models.llm, clock, check_seconds)
    return LiveAnswer(Session(drafter, verifier, clock, device, lens, limits), clock)
