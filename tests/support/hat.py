"""A split model with a random adapter, its recorded graphs, and a middle within this process, for the tests of HAT."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file

from runtime.clock import RealClock
from runtime.hat.adapter import FILE, Stated
from runtime.hat.device import HatDevice
from runtime.hat.drafters import ends_over
from runtime.hat.medusa import FILE as HEADS_FILE
from runtime.hat.medusa import FORMAT as HEADS_FORMAT
from runtime.hat.medusa import MedusaStated
from runtime.hat.session import Session
from runtime.hat.values import Lost, Reply, Upload
from runtime.model.loading import fingerprint, load_decoder, load_middle
from runtime.model.split import Split
from runtime.wire.sizes import PRECISIONS, row_bytes
from runtime.wire.tensors import quantised
from traces.hat.dialogues import Dialogue
from traces.hat.graph import HatGraphs
from traces.hat.record import HatModels, HatRecorder
from traces.profile import DeviceProfile

MAX_NEW_TOKENS = 20


def save_adapter(folder: Path, model: Path, first: int, seed: int = 3) -> Path:
    """Write a random adapter of a model's split."""
    config = load_decoder(model).config
    stated = Stated.of(config, fingerprint(model), first, {})
    noise = torch.Generator().manual_seed(seed)
    weights = {
        name: 0.05 * torch.randn(shape, generator=noise) if len(shape) > 1 else torch.ones(shape)
        for name, shape in stated.shapes.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / FILE, stated.metadata())
    return folder


def save_heads(folder: Path, model: Path, first: int, heads: int = 3, seed: int = 3) -> Path:
    """Write random Medusa heads of a model, small, so that they say some of what the model says."""
    config, noise = load_decoder(model).config, torch.Generator().manual_seed(seed)
    stated = MedusaStated(HEADS_FORMAT, fingerprint(model), first, config.hidden, heads)
    weights = {name: 0.02 * torch.randn(shape, generator=noise) for name, shape in stated.shapes.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / HEADS_FILE, stated.metadata())
    return folder


class LocalMiddle:
    """Implements :class:`runtime.hat.parts.Middle` by the middle layers of a model in this process.

    An answer is there once it was asked for `polls` times in vain.
    """

    def __init__(self, model: Path, split: Split, polls: int = 0) -> None:
        self._polls = polls
        self._decoder, self._split = load_middle(model, split), split
        self._hidden = self._decoder.config.hidden
        self.uploads: list[Upload] = []
        self.open()

    @property
    def state_bytes(self) -> tuple[int, ...]:
        return tuple(row_bytes(self._hidden, precision) for precision in PRECISIONS)

    def open(self) -> None:
        self._kv, self._replies = self._decoder.new_cache(), deque[Reply]()
        self._left = 0

    def probe_seconds(self) -> float | None:
        return 0.01

    def send(self, upload: Upload) -> int:
        self.uploads.append(upload)
        self._left = self._polls
        first, cut = upload.prefix_length, self._decoder.config.layers - self._split.last
        self._kv.truncate(first)
        read = quantised(upload.states, upload.precision)
        states = self._decoder.run(read, torch.arange(first, first + upload.rows), self._kv, self._split.first, cut)
        back = quantised(states[len(states) - upload.returned :], upload.precision)
        size = upload.rows * row_bytes(self._hidden, upload.precision)
        self._replies.append(Reply(back, 0.001, 0.001, 0.001, upload.rows, 0.01, size, 100, 0.001, 0.0001, 1))
        return size

    def free(self) -> bool:
        return True

    def wait_free(self) -> None:
        pass

    def ready(self) -> bool:
        self._left -= 1
        return self._left < 0

    def wait_ready(self) -> None:
        pass

    def replies(self) -> list[Reply]:
        replies, self._replies = list(self._replies), deque()
        return replies

    def lost(self) -> Lost | None:
        return None

    def close(self) -> None:
        pass


class SplitWorld:
    """A model, cut in two, with all that is made of it."""

    def __init__(
        self, folder: Path, model: Path, split: Split, drafter: Callable[[Path, Path, int], Path] = save_adapter
    ) -> None:
        """Make one of a model folder with a tokenizer; `drafter` writes what drafts."""
        self.model, self.split = model, split
        self.adapter = drafter(folder, model, split.first)
        profile = DeviceProfile("quick", "for tests", 0.5, 0.3, 0.05, 0.2, 5.0, 1.0, 0.2)
        self.device = HatDevice.load(model, self.adapter, profile, max_new_tokens=MAX_NEW_TOKENS, split=split)
        self.models = HatModels.load(model, self.adapter, split)

    @property
    def recorder(self) -> HatRecorder:
        """Scores an answer by its length, so that scores differ."""
        return HatRecorder(self.models, lambda question, answer: min(1.0, len(answer) / 200), "tests:length", MAX_NEW_TOKENS)

    def session(self, middle: LocalMiddle | None = None, polls: int = 0) -> Session:
        """A live session whose cloud is in this process."""
        d = self.device
        ends = ends_over(d.ends, d.split, d.adapter, RealClock(), d.profile, d.eos_ids)
        return Session(
            ends, middle or LocalMiddle(self.model, self.split, polls), RealClock(), d.profile, d.limits, self.split.last
        )

    def greedy(self, prompt: Sequence[int], precision: str = "fp32") -> tuple[int, ...]:
        """The whole model's own answer."""
        return tuple(self.recorder.answer(prompt, precision))

    def graphs(self, texts: Sequence[str]) -> HatGraphs:
        """Record prompts."""
        return self.recorder.record([Dialogue(text, text, "free", 0) for text in texts], "test")


@cache
def prompts() -> tuple[str, ...]:
    """Short and long ones of the bundled tasks."""
    from traces.hat.dialogues import dialogues

    return tuple(each.text for each in dialogues("test", 2, longest_tokens=120))


@cache
def split_world(model: Path) -> SplitWorld:
    """A model with its first layer and an adapter of it on the device; made once."""
    return SplitWorld(model.parent / "adapter-1", model, Split(1))


@cache
def recorded_hat(model: Path) -> HatGraphs:
    """The graphs of the :func:`prompts`; recorded once."""
    return split_world(model).graphs(prompts())


def save_splits(model: Path, folder: Path) -> Path:
    """Write those graphs as the ones of every split."""
    for split in ("train", "validation", "test"):
        recorded_hat(model).save(folder / f"{split}.safetensors")
    return folder
