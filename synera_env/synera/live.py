"""The live world: a device, a link that may be emulated, and a real gRPC verifier, behind the same environment.

What does not live here: the environment's step (synera_env/base.py) and the live session (runtime/device.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from runtime.client import CloudClient
from runtime.device import Connection, Device, LiveSession
from runtime.model.loading import fingerprint
from runtime.model.placement import Placement
from runtime.synera.lens import Lens
from synera_env.base import Deployment, Episode, Start
from synera_env.reward import Preference
from synera_env.synera.env import SyneraEnv
from synera_env.synera.schema import synera_schema
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


def load_device(
    slm: Path = bundled.PAIR / "slm",
    lens: Lens | None = None,
    profile: DeviceProfile | None = None,
    max_new_tokens: int = bundled.MAX_NEW_TOKENS,
    paced: bool = True,
    placement: Placement = Placement(),
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

    Raises:
        CheckpointError, TraceError: something is missing or damaged.
    """
    profile = profile or DeviceProfile.load(bundled.profile("phone"))
    lens = lens or _bundled_lens(slm)
    return Device.load(slm, profile, max_new_tokens=max_new_tokens, lens=lens, paced=paced, placement=placement)


def deployment_of(device: Device) -> Deployment:
    """What a loaded device offers a controller: the SLM, its tokenizer, and the lens."""
    fingerprints = {"slm": device.slm_fingerprint, "tokenizer": device.tokenizer_hash, "lens": device.lens.fingerprint}
    return Deployment(fingerprints, device.max_new_tokens, device.lens.tensors())


def _bundled_lens(slm: Path) -> Lens | None:
    path = bundled.graphs("train")
    if not (path.is_file() and (slm / "config.json").is_file()):
        return None
    graphs = GraphSet.load(path)
    return Lens.from_tensors(graphs.lens_tensors) if graphs.meta.slm_fingerprint == fingerprint(slm) else None


class LiveEpisode:
    """One live answer."""

    def __init__(
        self, prompt: LivePrompt, tokens: tuple[int, ...], session: LiveSession, device: Device, scorer: Scorer
    ) -> None:
        self.prompt, self.kind, self.prompt_tokens, self.session = prompt.text, prompt.kind, tokens, session
        self._device, self._scorer = device, scorer

    def score(self) -> float:
        """Task score of the finished answer."""
        return self._scorer(self.prompt, self._device.text(self.session.answer))


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
            from traces.tasks import scorers

            meta = GraphSet.load(bundled.graphs("test")).meta
            prompts = [LivePrompt(text, kind) for text, kind in zip(meta.prompts, meta.kinds, strict=True)]
            scorer = scorer or scorers.score
        self.device = device or load_device()
        client = cloud if isinstance(cloud, CloudClient) else CloudClient(cloud)
        self._at_close = ExitStack()
        if client is not cloud:
            self._at_close.callback(client.close)
        try:
            self._connection = self._at_close.enter_context(Connection(self.device, client))
            self._encoded = [self._connection.encode(p.text) for p in prompts]
        except BaseException:
            self._at_close.close()
            raise
        self._prompts, self._emulate = tuple(prompts), emulate_link
        self._scorer = scorer or (lambda prompt, text: 0.0)
        chosen = tuple(links or (bundled.links("test") if emulate_link else [constant_link()]))
        schema = synera_schema(len(self.device.slm.config.exit_layers))
        super().__init__(schema, len(prompts), chosen, preference, render_mode)

    def _begin(self, start: Start) -> Episode:
        session = self._connection.open(start.radio if self._emulate else None)
        return LiveEpisode(self._prompts[start.prompt], self._encoded[start.prompt], session, self.device, self._scorer)

    def _end(self, episode: LiveEpisode) -> None:  # type: ignore[override]  # it is always this world's own
        episode.session.shutdown()

    def deployment(self) -> Deployment:
        """See :class:`synera_env.base.DecisionEnv`: the SLM, its tokenizer, and the lens."""
        return deployment_of(self.device)

    def close(self) -> None:
        """Release the episode, its thread and the channel that this environment opened."""
        super().close()
        self._at_close.close()
