"""The live world of HAT: a device, a link that may be emulated, and a real gRPC server of the model's middle, behind the same environment.

What does not live here: the environment's step (synera_env/base.py) and the live session (runtime/hat/device.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from runtime.client import CloudClient
from runtime.errors import SettingError
from runtime.hat.device import HatConnection, HatDevice, LiveSession
from runtime.model.frame import Frame
from runtime.model.placement import Placement
from runtime.model.split import Split
from runtime.settings import shown
from synera_env.arguments import Links, Source, read
from synera_env.base import Deployment
from synera_env.episode import Episode, Start
from synera_env.hat.env import HatEnv
from synera_env.radio import Outages
from synera_env.reward import Preference
from synera_env.synera.live import LivePrompt, read_prompts
from traces import bundled
from traces.hat.graph import HatGraphs
from traces.links.generators import constant_link
from traces.profile import DeviceProfile
from traces.tasks.scoring import Scorer, asked


def load_hat_device(
    model: Path = bundled.PAIR / "llm",
    adapter: Path = bundled.ADAPTER,
    profile: DeviceProfile | None = None,
    max_new_tokens: int = bundled.MAX_NEW_TOKENS,
    paced: bool = True,
    split: Split | None = None,
    placement: Placement = Placement(),
    frame: Frame = Frame(),
) -> HatDevice:
    """Load a device; what is not given is bundled. See :meth:`runtime.hat.device.HatDevice.load`.

    Raises:
        CheckpointError, TraceError: something is missing or damaged.
    """
    profile = profile or DeviceProfile.load(bundled.profile("edge"))
    return HatDevice.load(
        model, adapter, profile, max_new_tokens=max_new_tokens, split=split, paced=paced, placement=placement, frame=frame
    )


def hat_deployment_of(device: HatDevice) -> Deployment:
    """What a loaded device offers a controller; its cloud has the same model's middle, or is refused."""
    fingerprints = {
        "model": device.model_fingerprint,
        "adapter": device.adapter.fingerprint,
        "tokenizer": device.tokenizer_hash,
        "split": str(device.split),
    }
    return Deployment(fingerprints, device.max_new_tokens, {}, device.frame)


class LiveEpisode:
    """One live answer."""

    def __init__(
        self,
        prompt: LivePrompt,
        question: str,
        tokens: tuple[int, ...],
        session: LiveSession,
        device: HatDevice,
        scorer: Scorer | None,
    ) -> None:
        """Put the answer together; without a scorer nobody can tell its quality."""
        self.prompt, self.kind, self.prompt_tokens, self.session = prompt.text, prompt.kind, tokens, session
        self._question, self._device, self._scorer = question, device, scorer

    def text(self, tokens: Sequence[int]) -> str:
        """What tokens say."""
        return self._device.text(list(tokens))

    def score(self) -> float:
        """Task score of the finished answer; NaN without a scorer, 0 where the cloud was lost before its end.

        Raises:
            SettingError: the scorer fails, or returns something else than a number in 0..1.
        """
        if self._scorer is None:
            return math.nan
        return 0.0 if self.session.lost else asked(self._scorer, self._question, self.text(self.session.answer))


class HatLiveEnv(HatEnv):
    """`HatLive-v0`: the environment over the live runtime and a real gRPC server of the model's middle.

    Not deterministic, as times are real. Actions, observations and reward: see :class:`synera_env.hat.env.HatEnv`.
    """

    def __init__(
        self,
        cloud: str | CloudClient,
        device: HatDevice | Source | None = None,
        prompts: Sequence[LivePrompt | str] | None = None,
        scorer: Scorer | None = None,
        links: Links | None = None,
        emulate_link: bool = True,
        preference: Preference | Mapping[str, float] | None = None,
        outages: Outages | Mapping[str, float] | None = None,
        render_mode: str | None = None,
        first_token_weight: float = 1.0,
    ) -> None:
        """Connect. A preference or outages may be given as a mapping of their fields.

        Args:
            cloud: `host:port` of a server of the middle (`synera serve --split 2`), or a client, which stays its owner's.
            device: what the device has loaded, or the folder of a model whose adapter, or Medusa heads, are in its folder `adapter`, paced to the
                testbed's device; None is the bundled model's ends.
            prompts: what to answer; None takes the prompts of the bundled test graphs, with their scores.
            scorer: (prompt, answer) to task score, 0..1; None scores bundled prompts, and leaves the quality of others unknown.
            links: links to emulate, or their file; None takes the bundled test links.
            emulate_link: False uses the network as it is; links are then only drawn, and named in the info.
            preference: fixed weights; None samples them for each episode.
            outages: how often the emulated link is cut off; None takes the default, `Outages.never()` switches it off.
            render_mode: None, `ansi` or `rgb_array`.
            first_token_weight: how many times a second before the first token counts, 0..1000.

        Raises:
            SettingError: an argument is of a wrong type or out of range, or a field of it is unknown or wrong.
            CheckpointError, TraceError: a file is missing or damaged.
            CloudUnavailableError: no server answers.
            CloudError: it serves something else than the middle of this device's model.
            ContextOverflowError: a prompt does not fit.
        """
        if not isinstance(cloud, str | CloudClient):
            raise SettingError(f"cloud={shown(cloud)} must be the HOST:PORT of a server, or a client")
        if not isinstance(emulate_link, bool):
            raise SettingError(f"emulate_link={shown(emulate_link)} must be True or False")
        if scorer is not None and not callable(scorer):
            raise SettingError(f"scorer={shown(scorer)} must be a function of prompt and answer")
        questions: Sequence[str] | None = None
        if prompts is None:
            from traces.tasks import scorers

            meta = HatGraphs.load(bundled.hat_graphs("test")).meta
            prompts = [LivePrompt(text, kind) for text, kind in zip(meta.prompts, meta.kinds, strict=True)]
            questions, scorer = meta.questions, scorer or scorers.score
        self._prompts, self._scorer, self._emulate = read_prompts(prompts), scorer, emulate_link
        self._questions = questions or [prompt.text for prompt in self._prompts]
        self.device = (
            load_hat_device()
            if device is None
            else read("device", device, HatDevice, lambda folder: load_hat_device(Path(folder), Path(folder) / "adapter"))
        )
        traces = links if links is not None else bundled.links("test") if emulate_link else [constant_link()]
        super().__init__(len(self._prompts), traces, preference, outages, render_mode, first_token_weight=first_token_weight)
        client = CloudClient(cloud) if isinstance(cloud, str) else cloud
        self._at_close = ExitStack()
        if client is not cloud:
            self._at_close.callback(client.close)
        try:
            self._connection = HatConnection(self.device, client)
            self._encoded = [self.device.encode(prompt.text) for prompt in self._prompts]
        except BaseException:
            self._at_close.close()
            raise

    def _begin(self, start: Start) -> Episode:
        if not self._emulate:
            self._radio = None  # it is drawn, and not what the answer meets
        session = self._connection.open(start.radio if self._emulate else None)
        number = start.prompt
        return LiveEpisode(
            self._prompts[number], self._questions[number], self._encoded[number], session, self.device, self._scorer
        )

    def _end(self, episode: LiveEpisode) -> None:  # type: ignore[override]  # it is always this world's own
        episode.session.shutdown()

    def deployment(self) -> Deployment:
        """See :class:`synera_env.base.DecisionEnv`: the model, its tokenizer, and what drafts."""
        return hat_deployment_of(self.device)

    def close(self) -> None:
        """Release the episode, its thread and the channel that this environment opened."""
        super().close()
        self._at_close.close()
