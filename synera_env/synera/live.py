"""The live world: a device, a link that may be emulated, and a real gRPC verifier, behind the same environment.

What does not live here: the environment's step (synera_env/base.py) and the live session (runtime/device.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from runtime.client import CloudClient
from runtime.deadline import CHECK_DEADLINE, check_factor
from runtime.device import Connection, Device, LiveSession
from runtime.errors import SettingError
from runtime.model.frame import Frame
from runtime.model.loading import fingerprint
from runtime.model.placement import Placement
from runtime.sampling import Sampling
from runtime.settings import shown
from runtime.synera.lens import Lens
from synera_env.arguments import Links, Source, made, read
from synera_env.base import Deployment
from synera_env.episode import Episode, Start
from synera_env.radio import Outages
from synera_env.reward import Preference
from synera_env.synera.env import SyneraEnv, warn_without_energy
from synera_env.synera.schema import synera_schema
from traces import bundled
from traces.links.generators import constant_link
from traces.profile import DeviceProfile
from traces.synera.graph import GraphSet
from traces.tasks.scoring import Scorer, asked


@dataclass(frozen=True)
class LivePrompt:
    """A prompt to answer; `kind` is only carried along."""

    text: str
    kind: str = "free"

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not isinstance(self.kind, str):
            raise SettingError(f"a prompt of text {shown(self.text)} and kind {shown(self.kind)}: both must be strings")


def load_device(
    slm: Path = bundled.PAIR / "slm",
    lens: Lens | None = None,
    profile: DeviceProfile | None = None,
    max_new_tokens: int = bundled.MAX_NEW_TOKENS,
    paced: bool = True,
    placement: Placement = Placement(),
    frame: Frame = Frame(),
) -> Device:
    """Load a device; what is not given is bundled.

    Args:
        slm: model folder.
        lens: the lens that the controller was trained with; None takes that of the bundled graphs if they were recorded
            with this SLM, else one that shows nothing (enough for rules).
        profile: times and energy; None is the bundled phone.
        max_new_tokens: where answers are cut.
        paced: sleep up to the profile's times.
        placement: where the SLM runs, and in which type.
        frame: how prompts become tokens; that of the controller's bundle, or of the graphs.

    Raises:
        CheckpointError, TraceError: something is missing or damaged.
    """
    profile = profile or DeviceProfile.load(bundled.profile("phone"))
    lens = lens or _bundled_lens(slm)
    return Device.load(slm, profile, max_new_tokens=max_new_tokens, lens=lens, paced=paced, placement=placement, frame=frame)


def deployment_of(device: Device, llm_fingerprint: str | None = None) -> Deployment:
    """What a loaded device offers a controller, and the cloud that it works with.

    Args:
        device: the SLM, its tokenizer, and the lens.
        llm_fingerprint: of the cloud's model; None where no cloud has been asked yet, and it is then not compared.
    """
    fingerprints = {"slm": device.slm_fingerprint, "tokenizer": device.tokenizer_hash, "lens": device.lens.fingerprint}
    if llm_fingerprint is not None:
        fingerprints["llm"] = llm_fingerprint
    return Deployment(fingerprints, device.max_new_tokens, device.lens.tensors(), device.frame)


def _bundled_lens(slm: Path) -> Lens | None:
    path = bundled.graphs("train")
    if not (path.is_file() and (slm / "config.json").is_file()):
        return None
    graphs = GraphSet.load(path)
    return Lens.from_tensors(graphs.lens_tensors) if graphs.meta.slm_fingerprint == fingerprint(slm) else None


def read_prompts(prompts: Sequence[LivePrompt | str]) -> tuple[LivePrompt, ...]:
    """Return prompts, given as such or as texts.

    Raises:
        SettingError: they are no list of either.
    """
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        raise SettingError(f"prompts={shown(prompts)} must be a list of texts")
    if wrong := [each for each in prompts if not isinstance(each, LivePrompt | str)]:
        raise SettingError(f"prompts holds {shown(wrong[0])}, which is no text")
    return tuple(LivePrompt(each) if isinstance(each, str) else each for each in prompts)


class LiveEpisode:
    """One live answer."""

    def __init__(
        self, prompt: LivePrompt, tokens: tuple[int, ...], session: LiveSession, device: Device, scorer: Scorer | None
    ) -> None:
        """Put the answer together; without a scorer nobody can tell its quality."""
        self.prompt, self.kind, self.prompt_tokens, self.session = prompt.text, prompt.kind, tokens, session
        self._device, self._scorer = device, scorer

    def text(self, tokens: Sequence[int]) -> str:
        """What tokens say."""
        return self._device.text(tokens)

    def score(self) -> float:
        """Task score of the finished answer; NaN without a scorer.

        Raises:
            SettingError: the scorer fails, or returns something else than a number in 0..1.
        """
        return math.nan if self._scorer is None else asked(self._scorer, self.prompt, self.text(self.session.answer))


class SyneraLiveEnv(SyneraEnv):
    """`SyneraLive-v0`: the environment over the live runtime and a real gRPC verifier.

    Not deterministic, as times are real. Actions, observations and reward: see :class:`SyneraEnv`.
    """

    def __init__(
        self,
        cloud: str | CloudClient,
        device: Device | Source | None = None,
        prompts: Sequence[LivePrompt | str] | None = None,
        scorer: Scorer | None = None,
        links: Links | None = None,
        emulate_link: bool = True,
        preference: Preference | Mapping[str, float] | None = None,
        outages: Outages | Mapping[str, float] | None = None,
        render_mode: str | None = None,
        sampling: Sampling | Mapping[str, float] | None = None,
        check_deadline: float = CHECK_DEADLINE,
    ) -> None:
        """Connect. A preference, outages or sampling may be given as a mapping of their fields.

        Args:
            cloud: `host:port` of a verifier (scripts/serve.py starts one), or a client, which stays its owner's.
            device: what the device has loaded, or the folder of an SLM to load, paced to the bundled phone; None is the
                bundled SLM.
            prompts: what to answer; None takes the prompts of the bundled test graphs, with their scores.
            scorer: (prompt, answer) to task score, 0..1; None scores bundled prompts, and leaves the quality of others unknown.
            links: links to emulate, or their file; None takes the bundled test links.
            emulate_link: False uses the network as it is; links are then only drawn, and named in the info.
            preference: fixed weights; None samples them for each episode.
            outages: how often the emulated link is cut off; None takes the default, `Outages.never()` switches it off.
            render_mode: None, `ansi` or `rgb_array`.
            sampling: how tokens are drawn; each answer has a seed of its own, made of this one's and a number that comes of the
                seed of `reset`. None decodes greedily, as replays always do.
            check_deadline: a check is abandoned, and its draft kept, after so many times what it should take at most,
                1..1000; see :class:`runtime.deadline.Patience`.

        Raises:
            SettingError: an argument is of a wrong type or out of range, or a field of it is unknown or wrong.
            CheckpointError, TraceError: a file is missing or damaged.
            CloudUnavailableError: no verifier answers.
            TokenizerMismatchError: it reads other tokens than the device.
            ContextOverflowError: a prompt does not fit.
        """
        if not isinstance(cloud, str | CloudClient):
            raise SettingError(f"cloud={shown(cloud)} must be the HOST:PORT of a verifier, or a client")
        if not isinstance(emulate_link, bool):
            raise SettingError(f"emulate_link={shown(emulate_link)} must be True or False")
        if scorer is not None and not callable(scorer):
            raise SettingError(f"scorer={shown(scorer)} must be a function of prompt and answer")
        check_factor(check_deadline)
        if prompts is None:
            from traces.tasks import scorers

            meta = GraphSet.load(bundled.graphs("test")).meta
            prompts = [LivePrompt(text, kind) for text, kind in zip(meta.prompts, meta.kinds, strict=True)]
            scorer = scorer or scorers.score
        self._sampling = None if sampling is None else made("sampling", sampling, Sampling)
        self._prompts, self._scorer, self._emulate = read_prompts(prompts), scorer, emulate_link
        slm = bundled.PAIR / "slm" if device is None else device
        self.device = read("device", slm, Device, lambda folder: load_device(Path(folder)))
        traces = links if links is not None else bundled.links("test") if emulate_link else [constant_link()]
        schema = synera_schema(len(self.device.slm.config.exit_layers))
        super().__init__(schema, len(self._prompts), traces, preference, outages, render_mode)
        warn_without_energy(self.device.profile.name, self.device.profile, self._fixed_preference)
        client = CloudClient(cloud) if isinstance(cloud, str) else cloud
        self._at_close = ExitStack()
        if client is not cloud:
            self._at_close.callback(client.close)
        try:
            self._connection = self._at_close.enter_context(Connection(self.device, client, check_deadline=check_deadline))
            self._encoded = [self._connection.encode(p.text) for p in self._prompts]
        except BaseException:
            self._at_close.close()
            raise

    def _begin(self, start: Start) -> Episode:
        sampling = None if self._sampling is None else self._sampling.of_answer(start.seed)
        if not self._emulate:
            self._radio = None  # it is drawn, and not what the answer meets
        session = self._connection.open(start.radio if self._emulate else None, sampling)
        return LiveEpisode(self._prompts[start.prompt], self._encoded[start.prompt], session, self.device, self._scorer)

    def _end(self, episode: LiveEpisode) -> None:  # type: ignore[override]  # it is always this world's own
        episode.session.shutdown()

    def deployment(self) -> Deployment:
        """See :class:`synera_env.base.DecisionEnv`: the SLM, the cloud's LLM, their tokenizer, and the lens."""
        return deployment_of(self.device, self._connection.llm_fingerprint)

    def close(self) -> None:
        """Release the episode, its thread and the channel that this environment opened."""
        super().close()
        self._at_close.close()
