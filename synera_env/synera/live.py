"""The live world: the SLM of a device, a link that may be emulated, and a real gRPC verifier, behind the same environment.

What does not live here: the environment's step (env.py) and the runtime's parts, which are only put together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from runtime.client import CloudClient
from runtime.clock import PacedClock, RealClock
from runtime.errors import CheckpointError, ContextOverflowError, TokenizerMismatchError
from runtime.link import LinkEmulator
from runtime.model.decoder import Decoder
from runtime.model.loading import fingerprint, load_decoder
from runtime.model.tokenizer import load_tokenizer, tokenizer_hash
from runtime.synera.drafter import ModelDrafter
from runtime.synera.lens import Lens
from runtime.synera.session import Limits, Session
from runtime.synera.verifier import CloudVerifier
from synera_env.reward import Preference
from synera_env.synera.env import Episode, SyneraEnv
from synera_env.synera.replay import Radio
from synera_env.synera.schema import Encoder
from traces import bundled
from traces.links.generators import constant_link
from traces.links.trace import LinkTrace
from traces.profile import DeviceProfile
from traces.synera.graph import GraphSet

Scorer = Callable[[str, str], float]


@dataclass(frozen=True)
class LivePrompt:
    """A prompt to answer; `kind` is only carried along."""

    text: str
    kind: str = "free"


@dataclass(frozen=True)
class Device:
    """What a device has loaded; many environments may share it, as nothing in it changes."""

    slm: Decoder
    tokenizer: Tokenizer
    tokenizer_hash: str
    slm_fingerprint: str
    lens: Lens
    profile: DeviceProfile
    max_new_tokens: int
    paced: bool
    """Sleep up to the profile's times (emulation of a slower device)."""

    @classmethod
    def load(
        cls,
        slm: Path | None = None,
        lens: Lens | None = None,
        profile: DeviceProfile | None = None,
        max_new_tokens: int = bundled.MAX_NEW_TOKENS,
        paced: bool = True,
    ) -> Device:
        """Load a device.

        Args:
            slm: model folder; None is the bundled one.
            lens: the lens that the controller was trained with; None takes that of the bundled graphs if they were
                recorded with this SLM, else one that shows nothing (enough for rules).
            profile: times and energy; None is the bundled phone.
            max_new_tokens: where answers are cut.
            paced: see the class.

        Raises:
            CheckpointError, TraceError: something is missing or damaged.
        """
        folder = slm or bundled.PAIR / "slm"
        decoder, print_of_slm = load_decoder(folder), fingerprint(folder)
        return cls(
            slm=decoder,
            tokenizer=load_tokenizer(folder),
            tokenizer_hash=tokenizer_hash(folder),
            slm_fingerprint=print_of_slm,
            lens=lens or _default_lens(decoder, print_of_slm),
            profile=profile or DeviceProfile.load(bundled.profile("phone")),
            max_new_tokens=max_new_tokens,
            paced=paced,
        )

    def require(self, slm_fingerprint: str, what: str) -> None:
        """Refuse evidence that was recorded with another SLM.

        Raises:
            CheckpointError: the fingerprints differ.
        """
        if slm_fingerprint != self.slm_fingerprint:
            raise CheckpointError(
                f"{what} was made with the SLM {slm_fingerprint}, the device runs {self.slm_fingerprint}; record and train with this SLM"
            )


def _default_lens(slm: Decoder, slm_fingerprint: str) -> Lens:
    path = bundled.graphs("train")
    if path.is_file() and (graphs := GraphSet.load(path)).meta.slm_fingerprint == slm_fingerprint:
        return Lens.from_tensors(graphs.lens_tensors)
    return Lens.neutral(len(slm.config.exit_layers), slm.config.hidden)


class LiveEpisode:
    """One live answer."""

    def __init__(
        self, prompt: LivePrompt, tokens: tuple[int, ...], session: Session, device: Device, scorer: Scorer | None
    ) -> None:
        self.prompt, self.kind, self.prompt_tokens, self.session = prompt.text, prompt.kind, tokens, session
        self._device, self._scorer = device, scorer

    def text(self) -> str:
        """The answer so far."""
        return str(self._device.tokenizer.decode(list(self.session.answer), skip_special_tokens=True))

    def score(self) -> float:
        """Task score of the finished answer; 0 where there is no scorer."""
        return self._scorer(self.prompt, self.text()) if self._scorer else 0.0


class SyneraLiveEnv(SyneraEnv):
    """`SyneraLive-v0`: the environment over the live runtime and a real gRPC verifier.

    Not deterministic, as times are real. Actions, observations and reward: see :class:`SyneraEnv`.
    """

    def __init__(
        self,
        cloud: str | CloudClient,
        device: Device | None = None,
        prompts: Sequence[LivePrompt] | None = None,
        scorer: Scorer | None = None,
        links: Sequence[LinkTrace] | None = None,
        emulate_link: bool = True,
        preference: Preference | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Connect.

        Args:
            cloud: `host:port` of a verifier (scripts/serve.py starts one), or a client, which stays its owner's.
            device: what the device has loaded; None is the bundled SLM paced to the bundled phone.
            prompts: what to answer; None takes the prompts of the bundled test graphs, with their scores.
            scorer: (prompt, answer) to task score; None scores bundled prompts, and others 0.
            links: links to emulate; None takes the bundled test links.
            emulate_link: False uses the network as it is; links are then only drawn, and named in the info.
            preference: fixed weights; None samples them for each episode.
            render_mode: None or `ansi`.

        Raises:
            CloudUnavailableError: no verifier answers.
            TokenizerMismatchError: it reads other tokens than the device.
            ContextOverflowError: a prompt does not fit.
        """
        if prompts is None:
            from traces.tasks import tinyworld

            meta = GraphSet.load(bundled.graphs("test")).meta
            prompts = [LivePrompt(text, kind) for text, kind in zip(meta.prompts, meta.kinds, strict=True)]
            scorer = scorer or tinyworld.score
        self.device = device or Device.load()
        self._owned = None if isinstance(cloud, CloudClient) else CloudClient(cloud)
        self._client = cloud if isinstance(cloud, CloudClient) else self._owned
        assert self._client is not None
        self._scorer, self._emulate = scorer, emulate_link
        try:
            self._context = self._handshake(self._client)
            self._encoded = [self._encode(p) for p in prompts]
        except BaseException:
            self._disconnect()
            raise
        self._prompts = tuple(prompts)
        chosen = tuple(links or (bundled.links("test") if emulate_link else [constant_link()]))
        super().__init__(Encoder(len(self.device.slm.config.exit_layers)), len(prompts), chosen, preference, render_mode)
        self._clock = PacedClock() if self.device.paced else RealClock()
        self._verifier: CloudVerifier | None = None

    def _handshake(self, client: CloudClient) -> int:
        """Check that device and cloud fit; return the context that both take."""
        info = client.model_info()
        if info.tokenizer_hash != self.device.tokenizer_hash:
            raise TokenizerMismatchError(
                f"the cloud {client.target} reads tokens of tokenizer {info.tokenizer_hash}, the device of {self.device.tokenizer_hash}; "
                "serve an LLM that shares the SLM's tokenizer"
            )
        self._eos_ids = frozenset(info.eos_ids) | frozenset(self.device.slm.config.eos_ids)
        return min(info.context_tokens, self.device.slm.config.context)

    def _encode(self, prompt: LivePrompt) -> tuple[int, ...]:
        ids = tuple(self.device.tokenizer.encode(prompt.text).ids)
        if not 0 < len(ids) < self._context:
            raise ContextOverflowError(
                f"the prompt {prompt.text[:60]!r} has {len(ids)} tokens; it must have between 1 and {self._context - 1} (the models' context is {self._context})"
            )
        return ids

    def _begin(self, prompt: int, radio: Radio) -> Episode:
        if self._verifier is not None:
            self._verifier.shutdown()
        emulator = LinkEmulator(radio) if self._emulate else None
        self._verifier = CloudVerifier(self._client, self.device.tokenizer_hash, emulator=emulator, clock=self._clock)  # type: ignore[arg-type]
        drafter = ModelDrafter(self.device.slm, self.device.lens, self._clock, self.device.profile)
        limits = Limits(self.device.max_new_tokens, self._eos_ids, self._context)
        session = Session(drafter, self._verifier, self._clock, self.device.profile, self.device.lens, limits)
        return LiveEpisode(self._prompts[prompt], self._encoded[prompt], session, self.device, self._scorer)

    def close(self) -> None:
        """Release the episode, its thread and the channel that this environment opened."""
        super().close()
        if self._verifier is not None:
            self._verifier.shutdown()
            self._verifier = None
        self._disconnect()

    def _disconnect(self) -> None:
        if self._owned is not None:
            self._owned.close()
            self._owned = None

    @property
    def answer_text(self) -> str:
        """The text of the answer under way."""
        episode: Any = self._episode
        return episode.text() if episode is not None else ""
