"""What a device has loaded, and the live sessions that it opens with a cloud.

What does not live here: the decode loop (synera/session.py) and where defaults come from (nothing bundled is known here).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from tokenizers import Tokenizer

from runtime.agreement import Agreement
from runtime.client import CloudClient, Deadlines, new_key
from runtime.clock import Clock, PacedClock, RealClock
from runtime.deadline import CHECK_DEADLINE
from runtime.errors import CheckpointError, CloudUnavailableError, SyneraError
from runtime.link import Link, LinkEmulator
from runtime.model.decoder import Decoder
from runtime.model.frame import Frame
from runtime.model.loading import fingerprint, load_decoder
from runtime.model.placement import Placement
from runtime.model.tokenizer import load_tokenizer, tokenizer_hash
from runtime.sampling import Sampling
from runtime.session import Limits
from runtime.synera.caution import CloudState
from runtime.synera.drafter import DraftCosts, ModelDrafter
from runtime.synera.lens import Lens
from runtime.synera.replicas import Replica, Replicas
from runtime.synera.session import EnergyModel, Session
from runtime.synera.verifier import CloudVerifier


class Profile(DraftCosts, EnergyModel, Protocol):
    """Times and energy of a device."""

    @property
    def name(self) -> str:
        """What it describes."""
        ...


@dataclass(frozen=True)
class Device:
    """What a device has loaded; sessions share it, as nothing in it changes."""

    slm: Decoder
    tokenizer: Tokenizer
    tokenizer_hash: str
    slm_fingerprint: str
    lens: Lens
    profile: Profile
    max_new_tokens: int
    """Where answers are cut."""
    paced: bool
    """Sleep up to the profile's times (emulation of a slower device)."""
    frame: Frame = Frame()
    """How prompts become tokens; it must be that of the graphs that a controller was trained on."""

    @classmethod
    def load(
        cls,
        slm: Path,
        profile: Profile,
        *,
        max_new_tokens: int,
        lens: Lens | None = None,
        paced: bool = False,
        placement: Placement = Placement(),
        frame: Frame = Frame(),
    ) -> Self:
        """Load a device.

        Args:
            slm: Hugging Face folder.
            profile: times and energy.
            max_new_tokens: see the class.
            lens: the lens that the controller was trained with; None shows nothing, which is enough for rules.
            paced: see the class.
            placement: where the SLM runs, and in which type.
            frame: see the class.

        Raises:
            CheckpointError: something is missing or damaged.
        """
        decoder = load_decoder(slm, placement)
        return cls(
            slm=decoder,
            tokenizer=load_tokenizer(slm),
            tokenizer_hash=tokenizer_hash(slm),
            slm_fingerprint=fingerprint(slm),
            lens=lens or Lens.neutral(len(decoder.config.exit_layers), decoder.config.hidden),
            profile=profile,
            max_new_tokens=max_new_tokens,
            paced=paced,
            frame=frame,
        )

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end an answer, by the SLM and by the frame."""
        return frozenset(self.slm.config.eos_ids) | frozenset(self.frame.ends)

    def require(self, slm_fingerprint: str, what: str) -> None:
        """Refuse evidence that was recorded with another SLM.

        Raises:
            CheckpointError: the fingerprints differ.
        """
        if slm_fingerprint != self.slm_fingerprint:
            raise CheckpointError(
                f"{what} was made with the SLM {slm_fingerprint}, the device runs {self.slm_fingerprint}; record and train with this SLM"
            )

    def text(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Decode token ids; `special` shows special tokens too."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=not special))


@dataclass(frozen=True)
class Alone:
    """Leave to begin though no cloud answers, and what is then expected of it."""

    llm_fingerprint: str | None = None
    """The model that it must serve; None takes any that fits the device."""


class Connection:
    """A device and the cloud that it works with: they fit, and what both can take is known.

    Owns the threads of its sessions, and what they learn of the cloud: how long to wait for it, and when to leave it alone.

    Where it may begin alone and no cloud answers, answers begin within the SLM's own limits, and nothing is asked but whether the cloud
    is there now. Once it is, what it serves is looked at before any check is sent. If it does not fit, all checks are lost. If it
    ends answers elsewhere than the SLM alone (another context, other end tokens), those sessions that were opened before
    go on alone, and later ones are checked.
    """

    def __init__(
        self,
        device: Device,
        cloud: CloudClient | Sequence[CloudClient],
        *,
        alone: Alone | None = None,
        check_deadline: float = CHECK_DEADLINE,
        key: str | None = None,
    ) -> None:
        """Ask the cloud what it serves.

        Args:
            device: what is loaded here.
            cloud: the channels to a verifier, or to each of its replicas; they stay their owner's, who closes them after this.
            alone: begin also where no cloud answers; None does not.
            check_deadline: a check is abandoned, and its draft kept, after so many times what it should take at most, 1..1000;
                see :class:`runtime.deadline.Patience`.
            key: of several replicas this one decides which is turned to first; None draws one, so that devices spread evenly.

        Raises:
            CloudUnavailableError: no verifier answers.
            TokenizerMismatchError: it reads other tokens than the device.
            CloudError: what it says makes no sense, or it takes no drafts as long as the device makes them.
            SettingError: `check_deadline` is outside its range, or there are no or too many replicas.
        """
        clients = tuple(cloud) if isinstance(cloud, Sequence) else (cloud,)
        self.device, self._deadlines = device, clients[0].deadlines if clients else Deadlines()
        several = len(clients) > 1
        self._agreement = Agreement(device, alone.llm_fingerprint if alone is not None else None, several=several)
        each = [Replica(client, CloudState(check_deadline)) for client in clients]
        self._replicas = Replicas(each, key if key is not None else new_key(), self._agreement.join)
        self._lock = threading.Lock()
        # Below: under the lock.
        self._sessions: dict[LiveSession, ThreadPoolExecutor] = {}
        self._retired: deque[tuple[ThreadPoolExecutor, Future[None]]] = deque()
        self._closed = False
        missing = self._meet_several() if several else self._meet_one(each[0])
        if missing is not None and (alone is None or not isinstance(missing, CloudUnavailableError)):
            raise missing

    def _meet_one(self, replica: Replica) -> CloudUnavailableError | None:
        """Agree with the cloud, or leave it alone and return why it does not answer."""
        try:
            self._agreement.agree(replica.client.target, replica.client.model_info())
        except CloudUnavailableError as error:
            replica.state.breaker.failed(RealClock().now(), str(error))
            return error
        return None

    def _meet_several(self) -> SyneraError | None:
        """Agree with those that fit; where none does return why, a mistake rather than a silence."""
        failed = self._replicas.meet(RealClock())
        if self._agreement.terms is not None:
            return None
        whys = [failed[replica] for replica in self._replicas.given]
        return next((why for why in whys if not isinstance(why, CloudUnavailableError)), whys[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # Who is interrupted does not sit out the deadlines of a cloud that hangs: closing the channel ends its calls.
        interrupted = kind is not None and not issubclass(kind, Exception)
        self._end(self._deadlines.close_seconds if interrupted else None)

    def close(self) -> None:
        """Shut down all sessions and wait until they are released, each call within its deadline."""
        self._end(None)

    @property
    def llm_fingerprint(self) -> str | None:
        """Of the cloud's model; None as long as there was no cloud."""
        terms = self._agreement.terms
        return terms.llm_fingerprint if terms is not None else None

    @property
    def limits(self) -> Limits:
        """Those of sessions that are opened now."""
        return self._agreement.limits

    def encode(self, prompt: str) -> tuple[int, ...]:
        """Turn a prompt into token ids.

        Raises:
            ContextOverflowError: it does not fit.
        """
        return self.device.frame.encode_within(self.device.tokenizer, prompt, self.limits.context)

    def open(self, link: Link | None = None, sampling: Sampling | None = None) -> LiveSession:
        """Put a live session together; its owner shuts it down.

        Args:
            link: a link to emulate; None uses the network as it is.
            sampling: how tokens are drawn; None decodes greedily. Give each answer a seed of its own: `Sampling.of_answer`.

        Raises:
            CheckpointError: the device's lens is for another SLM.
            RuntimeError: the connection is closed.
        """
        device = self.device
        clock = PacedClock() if device.paced else RealClock()
        emulator = LinkEmulator(link) if link is not None else None
        drafter = ModelDrafter(device.slm, device.lens, clock, device.profile)
        with self._lock:
            if self._closed:
                raise RuntimeError("this connection is closed; make a new one")
            worker = self._retired.popleft()[0] if self._retired else ThreadPoolExecutor(1, thread_name_prefix="verifier")
            limits = self.limits
            terms = self._agreement.terms or partial(self._agreement.meet, limits)
            verifier = CloudVerifier(self._replicas, terms, emulator=emulator, clock=clock, worker=worker)
            session = LiveSession(drafter, verifier, clock, device.profile, device.lens, limits, self._take_back, sampling)
            self._sessions[session] = worker
        return session

    def _take_back(self, session: LiveSession, released: Future[None]) -> None:
        """Keep a session's thread for another, whose work then comes after the release."""
        with self._lock:
            if (worker := self._sessions.pop(session, None)) is not None:
                self._retired.append((worker, released))

    def _end(self, wait_seconds: float | None) -> None:
        with self._lock:
            self._closed, sessions = True, list(self._sessions)
        for session in sessions:
            session.shutdown()
        with self._lock:
            retired, self._retired = self._retired, deque()
        done, _ = wait([released for _, released in retired], wait_seconds)
        for worker, released in retired:
            worker.shutdown(wait=released in done)
        for released in done:
            released.result()
        if wait_seconds is None:
            self._replicas.settle(self._deadlines.close_seconds)


class LiveSession(Session):
    """A session over a device's SLM and a cloud's LLM, on a thread lent by its connection."""

    _verifier: CloudVerifier

    def __init__(
        self,
        drafter: ModelDrafter,
        verifier: CloudVerifier,
        clock: Clock,
        energy: EnergyModel,
        lens: Lens,
        limits: Limits,
        retired: Callable[[LiveSession, Future[None]], None],
        sampling: Sampling | None = None,
    ) -> None:
        super().__init__(drafter, verifier, clock, energy, lens, limits, sampling=sampling)
        self._retired = retired

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shutdown()

    def shutdown(self) -> None:
        """Give thread and cloud session up, waiting for neither: the connection sees to what is left to do."""
        self._retired(self, self._verifier.retire())
