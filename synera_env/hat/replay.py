"""The replayed world of HAT: an answer over a recorded path on a simulated clock, and the environment over it.

What does not live here: the device's and the cloud's part of it (walk.py, middle.py), the session that they serve
(runtime/hat/session.py) and the live world (live.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gymnasium.utils import EzPickle

from runtime.clock import SimulatedClock
from runtime.hat.knobs import Knobs
from runtime.hat.session import Session
from runtime.hat.values import DecisionPoint, HatRecord
from runtime.model.frame import Frame
from runtime.session import Limits, Step
from synera_env.arguments import Links, Source, made, read
from synera_env.base import Deployment
from synera_env.busy import Busy, CloudLoad, busy_of, read_cloud_load
from synera_env.episode import Episode, Start
from synera_env.hat.env import HatEnv
from synera_env.hat.middle import ReplayMiddle
from synera_env.hat.walk import ReplayEnds, ReplayMedusaEnds
from synera_env.radio import Outages
from synera_env.reward import Preference
from traces import bundled
from traces.hat.graph import HatGraphs
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import spoken


class ReplaySession(Session):
    """A session over the graphs of a prompt: the first decision says in which precision its answer is."""

    def __init__(
        self,
        graphs: HatGraphs,
        prompt: int,
        ends: ReplayEnds,
        middle: ReplayMiddle,
        clock: SimulatedClock,
        device: DeviceProfile,
        returns_all: bool = False,
    ) -> None:
        meta = graphs.meta
        limits = Limits(meta.max_new_tokens, frozenset(meta.eos_ids), meta.context)
        super().__init__(ends, middle, clock, device, limits, meta.last_layers, returns_all)
        self._graphs, self._number, self._walk = graphs, prompt, ends

    def advance(self, knobs: Knobs) -> Step[DecisionPoint, HatRecord]:
        """See :class:`runtime.hat.session.Session`."""
        if self._precision is None:
            self._walk.graph = self._graphs.graph(self._number, knobs.precision)
        return super().advance(knobs)

    @property
    def score(self) -> float:
        """Of the finished answer; one that was cut short is worth nothing."""
        return 0.0 if self.lost else self._walk.graph.score


class ReplayEpisode:
    """One replayed answer."""

    def __init__(
        self,
        graphs: HatGraphs,
        start: Start,
        device: DeviceProfile,
        cloud: CloudProfile,
        busy: Busy,
        returns_all: bool = False,
    ) -> None:
        """Put the answer together."""
        meta, clock = graphs.meta, SimulatedClock()
        path, eos_ids = graphs.graph(start.prompt, 0), frozenset(meta.eos_ids)
        of_ends = (path, meta.first_layers, meta.last_layers, clock, device, eos_ids)
        ends = ReplayMedusaEnds(*of_ends, meta.medusa_heads) if meta.medusa_heads else ReplayEnds(*of_ends)
        fit = cloud.forward_ms / 1e3, cloud.token_ms / 1e3
        middle = ReplayMiddle(meta.hidden, clock, start.radio, busy, *fit, start.lost)
        self.session = ReplaySession(graphs, start.prompt, ends, middle, clock, device, returns_all)
        self.prompt_tokens = tuple(graphs.prompt_tokens(start.prompt).tolist())
        self.prompt, self.kind = meta.prompts[start.prompt], meta.kinds[start.prompt]
        self._meta = meta

    def text(self, tokens: Sequence[int]) -> str:
        """What tokens say; one whose text was not recorded is shown by its id."""
        return spoken(tokens, self._meta)

    def score(self) -> float:
        """Task score of the finished answer; 0 where the cloud was lost before its end."""
        return self.session.score


class HatReplayEnv(HatEnv, EzPickle):
    """`HatReplay-v0`: the environment over recorded paths, link traces and timing profiles.

    Deterministic by seed; needs no model. Actions, observations and reward: see :class:`synera_env.hat.env.HatEnv`.
    """

    def __init__(
        self,
        graphs: HatGraphs | Source | None = None,
        links: Links | None = None,
        device: DeviceProfile | Mapping[str, Any] | Source | None = None,
        cloud: CloudProfile | Mapping[str, Any] | Source | None = None,
        preference: Preference | Mapping[str, float] | None = None,
        outages: Outages | Mapping[str, float] | None = None,
        render_mode: str | None = None,
        cloud_load: CloudLoad | None = None,
        first_token_weight: float = 1.0,
        returns_all: bool = False,
    ) -> None:
        """Open the world. A profile, a preference or outages may be given as a mapping of their fields.

        Args:
            graphs: graphs or their file; None takes the bundled training graphs.
            links: link traces or their file; None takes the bundled training links.
            device: device profile or its file; None takes that of the paper's testbed.
            cloud: cloud profile or its file; None takes that of the paper's testbed.
            preference: fixed weights; None samples them for each episode.
            outages: how often the link is cut off; None takes the default, `Outages.never()` switches it off.
            render_mode: None, `ansi` or `rgb_array`.
            cloud_load: as of `SyneraReplay-v0`.
            first_token_weight: how many times a second before the first token counts, 0..1000.
            returns_all: have the states of whole prompts come back, as a plain U shape does.

        Raises:
            SettingError: an argument is of a wrong type or out of range, or a field of it is unknown or wrong.
            TraceError: a file is missing or damaged.
        """
        of_env = (graphs, links, device, cloud, preference, outages, render_mode, cloud_load, first_token_weight, returns_all)
        EzPickle.__init__(self, *of_env)
        self.returns_all = returns_all
        self.graphs = read("graphs", bundled.hat_graphs("train") if graphs is None else graphs, HatGraphs, HatGraphs.load)
        edge, middle = bundled.profile("edge"), bundled.profile("middle")
        self.device = made("device", edge if device is None else device, DeviceProfile, DeviceProfile.load)
        self.cloud = made("cloud", middle if cloud is None else cloud, CloudProfile, CloudProfile.load)
        self.cloud_load = read_cloud_load(cloud_load, self.cloud)
        traces = bundled.links("train") if links is None else links
        super().__init__(len(self.graphs), traces, preference, outages, render_mode, first_token_weight=first_token_weight)

    def _begin(self, start: Start) -> Episode:
        busy = busy_of(self.cloud, self.cloud_load, start.seed)
        return ReplayEpisode(self.graphs, start, self.device, self.cloud, busy, self.returns_all)

    def deployment(self) -> Deployment:
        """See :class:`synera_env.base.DecisionEnv`: the model, its tokenizer, and what drafts."""
        meta = self.graphs.meta
        fingerprints = {
            "model": meta.model_fingerprint,
            "adapter": meta.adapter_fingerprint,
            "tokenizer": meta.tokenizer_hash,
            "split": f"{meta.first_layers}:{meta.last_layers}",
        }
        return Deployment(fingerprints, meta.max_new_tokens, {}, Frame.of(meta.frame))

    def provenance(self) -> dict[str, Any]:
        """See :class:`synera_env.base.DecisionEnv`."""
        return super().provenance() | {
            "split": self.graphs.meta.split,
            "device_profile": self.device.name,
            "cloud_profile": self.cloud.name,
            "cloud_load": None if self.cloud_load is None else self.cloud_load.workload,
            "first_token_weight": self.first_token_weight,
            "model_fingerprint": self.graphs.meta.model_fingerprint,
        }
