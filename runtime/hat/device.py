"""What a HAT device has loaded, and the live sessions that it opens with the cloud that has the middle of its model.

What does not live here: the loop (session.py), the ends' arithmetic (ends.py), and where defaults come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from tokenizers import Tokenizer

from runtime.answers import ModelInfo
from runtime.client import CloudClient
from runtime.clock import Clock, PacedClock, RealClock
from runtime.errors import CloudError, ModelChangedError, TokenizerMismatchError
from runtime.hat.drafters import Drafter, ends_over, load_drafter, stated_first
from runtime.hat.knobs import MOST_DOUBLINGS
from runtime.hat.middle import RemoteMiddle
from runtime.hat.opening import Terms
from runtime.hat.parts import Ends, EnergyModel
from runtime.hat.patience import PATIENCE, Patience
from runtime.hat.session import Session
from runtime.hat.split_ends import EndCosts
from runtime.leftovers import Leftovers
from runtime.link import Link, LinkEmulator
from runtime.model.decoder import Decoder
from runtime.model.frame import Frame
from runtime.model.loading import fingerprint, load_ends
from runtime.model.placement import Placement
from runtime.model.split import Split
from runtime.model.tokenizer import load_tokenizer, tokenizer_hash
from runtime.session import Limits
from runtime.settings import shown

LONGEST_UPLOAD = round(2**MOST_DOUBLINGS)
"""Positions: the longest chunk that a knob can name."""


class Profile(EndCosts, EnergyModel, Protocol):
    """Times and energy of a device."""

    @property
    def name(self) -> str:
        """What it describes."""
        ...


@dataclass(frozen=True)
class HatDevice:
    """What a device has loaded; sessions share it, as nothing in it changes."""

    ends: Decoder
    split: Split
    adapter: Drafter
    """What drafts: an adapter, or Medusa heads."""
    tokenizer: Tokenizer
    tokenizer_hash: str
    model_fingerprint: str
    """Of the whole model, whose middle the cloud must have."""
    profile: Profile
    max_new_tokens: int
    """Where answers are cut."""
    paced: bool
    """Sleep up to the profile's times (emulation of a slower device)."""
    frame: Frame = Frame()
    """How prompts become tokens; it must be that of the graphs that a controller was trained on."""
    returns_all: bool = False
    """Have the states of whole prompts come back, as a plain U shape does: a baseline, and of no use else."""

    @classmethod
    def load(
        cls,
        model: Path,
        adapter: Path,
        profile: Profile,
        *,
        max_new_tokens: int,
        split: Split | None = None,
        paced: bool = False,
        placement: Placement = Placement(),
        frame: Frame = Frame(),
    ) -> Self:
        """Load a device: of the model only embeddings, first and last layers, final norm and head.

        Args:
            model: Hugging Face folder.
            adapter: file or folder of its adapter, or of Medusa heads.
            profile: times and energy.
            max_new_tokens: see the class.
            split: where the model is cut; None is where what drafts was trained, and no last layers.
            paced: see the class.
            placement: where it runs, and in which type.
            frame: see the class.

        Raises:
            CheckpointError: something is missing or damaged, or what drafts is of another model or split.
            SettingError: the split leaves the cloud no layer.
        """
        mark = fingerprint(model)
        split = split or Split(stated_first(adapter))
        ends = load_ends(model, split, placement)
        return cls(
            ends=ends,
            split=split,
            adapter=load_drafter(adapter, ends, mark),
            tokenizer=load_tokenizer(model),
            tokenizer_hash=tokenizer_hash(model),
            model_fingerprint=mark,
            profile=profile,
            max_new_tokens=max_new_tokens,
            paced=paced,
            frame=frame,
        )

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end an answer, by the model and by the frame."""
        return frozenset(self.ends.config.eos_ids) | frozenset(self.frame.ends)

    @property
    def limits(self) -> Limits:
        """When answers end."""
        return Limits(self.max_new_tokens, self.eos_ids, self.ends.config.context)

    def text(self, tokens: list[int] | tuple[int, ...], *, special: bool = False) -> str:
        """Decode token ids; `special` shows special tokens too."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=not special))

    def encode(self, prompt: str) -> tuple[int, ...]:
        """Turn a prompt into token ids.

        Raises:
            ContextOverflowError: it does not fit.
        """
        return self.frame.encode_within(self.tokenizer, prompt, self.ends.config.context)

    def agree(self, target: str, info: ModelInfo) -> Terms:
        """Agree with the cloud at an address.

        Raises:
            TokenizerMismatchError: it reads other tokens than the device.
            ModelChangedError: it has another model, or another part of it.
            CloudError: it has a whole model.
        """
        if info.tokenizer_hash != self.tokenizer_hash:
            raise TokenizerMismatchError(
                f"the cloud {target} reads tokens of tokenizer {info.tokenizer_hash}, the device of {self.tokenizer_hash}; serve the same model"
            )
        if info.fingerprint != self.model_fingerprint:
            raise ModelChangedError(
                f"the cloud {target} serves the model {shown(info.fingerprint)}, the device has the ends of {self.model_fingerprint}; serve the same model"
            )
        middle = info.middle
        if middle is None:
            raise CloudError(
                f"the cloud {target} serves a whole model; have it serve the middle: synera serve --split {self.split}"
            )
        there = Split(middle.first_layers, middle.last_layers)
        if there != self.split or middle.hidden != self.ends.config.hidden:
            raise ModelChangedError(
                f"the cloud {target} has the middle of a split at {there}, the device the ends of one at {self.split}; serve --split {self.split}"
            )
        if middle.max_rows < LONGEST_UPLOAD:
            raise CloudError(
                f"the cloud {target} takes chunks of at most {middle.max_rows} positions, the device sends up to {LONGEST_UPLOAD}; "
                f"have it configured for {LONGEST_UPLOAD} (max_chunk_rows)"
            )
        return Terms(self.tokenizer_hash, self.model_fingerprint, middle.hidden, middle.max_rows)


class HatConnection:
    """A device and the cloud that has its middle: they fit. Owns nothing; its sessions are their callers'."""

    def __init__(self, device: HatDevice, client: CloudClient, patience: Patience = PATIENCE) -> None:
        """Ask the cloud what it serves; see :meth:`HatDevice.agree` for what is raised.

        Args:
            device: what is loaded.
            client: of the cloud; not closed here.
            patience: how long what is tried.

        Raises:
            CloudUnavailableError: no verifier answers.
        """
        self.device, self._client, self._patience = device, client, patience
        self._leftovers = Leftovers()
        self._terms = device.agree(client.target, client.model_info())

    def open(self, link: Link | None = None) -> LiveSession:
        """Put a live session together; its owner shuts it down.

        Args:
            link: a link to emulate; None uses the network as it is.
        """
        device = self.device
        clock = PacedClock() if device.paced else RealClock()
        ends = ends_over(device.ends, device.split, device.adapter, clock, device.profile, device.eos_ids)
        emulator = LinkEmulator(link) if link is not None else None
        middle = RemoteMiddle(
            self._client, self._terms, emulator=emulator, clock=clock, patience=self._patience, leftovers=self._leftovers
        )
        return LiveSession(ends, middle, clock, device)


class LiveSession(Session):
    """A session over a device's ends and a cloud's middle."""

    def __init__(self, ends: Ends, middle: RemoteMiddle, clock: Clock, device: HatDevice) -> None:
        super().__init__(ends, middle, clock, device.profile, device.limits, device.split.last, device.returns_all)
        self._remote = middle

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shutdown()

    @property
    def sessions(self) -> int:
        """How many sessions of the cloud this answer took."""
        return self._remote.sessions

    def shutdown(self) -> None:
        """Release the session in the cloud, and end the thread that talks to it."""
        self.close()
        self._remote.shutdown()
