"""The replayed world: an answer over a token graph on a simulated clock, and the environment over it.

What does not live here: the device's and the cloud's part of it (walk.py, verifier.py), the session that they serve
(runtime/synera/session.py) and the live world (live.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gymnasium import logger
from gymnasium.utils import EzPickle
from gymnasium.vector import AutoresetMode

from runtime.clock import SimulatedClock
from runtime.deadline import CHECK_DEADLINE, check_factor
from runtime.model.frame import Frame
from runtime.session import Limits
from runtime.synera.knobs import Knobs
from runtime.synera.lens import Lens
from runtime.synera.session import Session
from synera_env.arguments import Links, Source, made, read
from synera_env.base import DecisionEnv, Deployment
from synera_env.busy import Busy, CloudLoad, busy_of, read_cloud_load
from synera_env.episode import Episode, Start
from synera_env.radio import Outages, Radio
from synera_env.reward import Preference
from synera_env.synera.env import SyneraEnv, warn_without_energy
from synera_env.synera.schema import synera_schema
from synera_env.synera.verifier import ReplayVerifier
from synera_env.synera.walk import ReplayDrafter, ReplayLens, Walk, covers_start
from traces import bundled
from traces.errors import TraceError
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet
from traces.synera.growing import GrowingGraphs

if TYPE_CHECKING:
    from synera_env.synera.vector import SyneraReplayVectorEnv


class ReplayEpisode:
    """One replayed answer: a session over a graph, and its score."""

    def __init__(
        self,
        graphs: GraphSet | GrowingGraphs,
        index: int,
        radio: Radio,
        device: DeviceProfile,
        cloud: Busy,
        lens: Lens,
        lost: frozenset[int] | None = None,
        check_deadline: float = CHECK_DEADLINE,
    ) -> None:
        """Put the answer together; see the collaborators for the arguments."""
        meta, graph = graphs.meta, graphs[index]
        self._graphs, self._walk = graphs, Walk(graph)
        clock = SimulatedClock()
        drafter = ReplayDrafter(self._walk, meta.exit_layers, clock, device)
        verifier = ReplayVerifier(self._walk, meta, clock, radio, cloud, lost, check_deadline)
        limits = Limits(meta.max_new_tokens, frozenset(meta.eos_ids), meta.context)
        self.session = Session(drafter, verifier, clock, device, lens, limits)
        self.prompt_tokens = tuple(graph.prompt_tokens.tolist())
        self.prompt, self.kind = graph.prompt, graph.kind

    def text(self, tokens: Sequence[int]) -> str:
        """What tokens say; one whose text was not recorded is shown by its id."""
        return self._graphs.text(tokens)

    def score(self) -> float:
        """Task score of the finished answer.

        Raises:
            UncoveredError: its last token leads out of the graph.
        """
        return float(self._walk.graph.score[self._walk.node])


class SyneraReplayEnv(SyneraEnv, EzPickle):
    """`SyneraReplay-v0`: the environment over recorded token graphs, link traces and timing profiles.

    Deterministic by seed; needs no model. Always greedy, as the graphs are: sampled answers are a live matter. Actions, observations, reward and what happens at the graphs' edge: see
    :class:`synera_env.synera.env.SyneraEnv`. A pickled one is made again of the same arguments, with no answer under way; give files,
    and only their names travel.
    """

    def __init__(
        self,
        graphs: GraphSet | GrowingGraphs | Source | None = None,
        links: Links | None = None,
        device: DeviceProfile | Mapping[str, Any] | Source | None = None,
        cloud: CloudProfile | Mapping[str, Any] | Source | None = None,
        preference: Preference | Mapping[str, float] | None = None,
        outages: Outages | Mapping[str, float] | None = None,
        render_mode: str | None = None,
        check_deadline: float = CHECK_DEADLINE,
        cloud_load: CloudLoad | None = None,
    ) -> None:
        """Open the world. A profile, a preference or outages may be given as a mapping of their fields.

        Args:
            graphs: graphs or their file; None takes the bundled training graphs. In graphs that grow every prompt can be
                begun and nothing is left.
            links: link traces or their file; None takes the bundled training links.
            device: device profile or its file; None takes the bundled phone.
            cloud: cloud profile or its file; None takes the bundled GPU.
            preference: fixed weights; None samples them for each episode.
            outages: how often the link is cut off; None takes the default, `Outages.never()` switches it off.
            render_mode: None, `ansi` or `rgb_array`.
            check_deadline: a check is abandoned, and its draft kept, after so many times what it should take at most,
                1..1000; see :class:`runtime.deadline.Patience`.
            cloud_load: a workload or its file, whose requests the cloud serves beside the device: then the wait, the load and the
                batch that checks meet change as they do live, related in time, from a time of the workload on that is drawn for each
                answer (:class:`traces.workload.shared_cloud.SharedCloud`). None draws the wait and the load of each check
                from the cloud's profile.

        Raises:
            SettingError: an argument is of a wrong type or out of range, or a field of it is unknown or wrong.
            TraceError: a file is missing or damaged, or no recorded prompt can be begun.
        """
        EzPickle.__init__(self, graphs, links, device, cloud, preference, outages, render_mode, check_deadline, cloud_load)
        check_factor(check_deadline)
        self.check_deadline = check_deadline
        self.graphs = graphs if isinstance(graphs, GrowingGraphs) else _read(graphs)
        lens = Lens if isinstance(self.graphs, GrowingGraphs) else ReplayLens
        self.lens, self.frame = lens.from_tensors(self.graphs.lens_tensors), Frame.of(self.graphs.meta.frame)
        phone, gpu = bundled.profile("phone"), bundled.profile("gpu")
        self.device = made("device", phone if device is None else device, DeviceProfile, DeviceProfile.load)
        self.cloud = made("cloud", gpu if cloud is None else cloud, CloudProfile, CloudProfile.load)
        self.cloud_load = read_cloud_load(cloud_load, self.cloud)
        meta = self.graphs.meta
        schema = synera_schema(len(meta.exit_layers))
        startable = _startable(self.graphs, schema.first_knobs)
        traces = bundled.links("train") if links is None else links
        super().__init__(schema, len(self.graphs), traces, preference, outages, render_mode, startable)
        warn_without_energy(self.device.name, self.device, self._fixed_preference)

    def _begin(self, start: Start) -> Episode:
        busy = busy_of(self.cloud, self.cloud_load, start.seed)
        parts = (start.radio, self.device, busy, self.lens, start.lost, self.check_deadline)
        return ReplayEpisode(self.graphs, start.prompt, *parts)

    def deployment(self) -> Deployment:
        """See :class:`synera_env.base.DecisionEnv`: both models, their tokenizer, and the lens."""
        meta = self.graphs.meta
        fingerprints = {
            "slm": meta.slm_fingerprint,
            "llm": meta.llm_fingerprint,
            "tokenizer": meta.tokenizer_hash,
            "lens": self.lens.fingerprint,
        }
        return Deployment(fingerprints, meta.max_new_tokens, self.lens.tensors(), self.frame)

    def siblings(self, count: int) -> Sequence[DecisionEnv]:
        """See :class:`synera_env.base.DecisionEnv`: of graphs that grow, as many as are asked for."""
        if not isinstance(self.graphs, GrowingGraphs):
            return [self]
        others = [object.__new__(type(self)) for _ in range(count - 1)]  # `copy` would read all files again
        for other in others:
            other.__dict__.update(self.__dict__)
            other._episode, other._point, other._paid, other._np_random = None, None, {}, None
        return [self, *others]

    def vector(self, rows: int, autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP) -> SyneraReplayVectorEnv:
        """See :class:`synera_env.base.DecisionEnv`."""
        from synera_env.synera.vector import SyneraReplayVectorEnv  # only who steps many loads numba

        return SyneraReplayVectorEnv.of(self, rows, autoreset_mode)

    def growth(self) -> Mapping[str, float]:
        """See :class:`synera_env.base.DecisionEnv` and :class:`traces.synera.growing.Growth`."""
        return asdict(self.graphs.growth) if isinstance(self.graphs, GrowingGraphs) else {}

    def provenance(self) -> dict[str, Any]:
        """See :class:`synera_env.base.DecisionEnv`."""
        return super().provenance() | {
            "split": self.graphs.meta.split,
            "grows": isinstance(self.graphs, GrowingGraphs),
            "device_profile": self.device.name,
            "cloud_profile": self.cloud.name,
            "cloud_load": None if self.cloud_load is None else self.cloud_load.workload,
            "check_deadline": self.check_deadline,
            "llm_fingerprint": self.graphs.meta.llm_fingerprint,
        }


def _read(graphs: GraphSet | Source | None) -> GraphSet:
    return read("graphs", bundled.graphs("train") if graphs is None else graphs, GraphSet, GraphSet.load)


def _startable(graphs: GraphSet | GrowingGraphs, first: Knobs) -> Sequence[int]:
    """The prompts that `reset` can begin; says how many it leaves out.

    Raises:
        TraceError: it would leave out all.
    """
    if isinstance(graphs, GrowingGraphs):
        return range(len(graphs))
    startable = [i for i, graph in enumerate(graphs) if covers_start(graph, graphs.meta, first)]
    left_out, where = len(graphs) - len(startable), graphs.path or "the graphs given"
    if not startable:
        raise TraceError(
            f"of none of the {left_out} prompts of {where} the first chunk was recorded; record with a larger node budget"
        )
    if left_out:
        logger.warn(
            "%s",
            f"of {left_out} of the {len(graphs)} prompts of {where} not even the first chunk was recorded: "
            "episodes leave them out; record with a larger node budget to have them",
        )
    return startable
