"""The clairvoyant bound where the link moves: the best plan that a beam search finds in the full replay, and what no plan can exceed.

A search knows all that is drawn for an answer (its link's course, outages, the cloud's waits) and plans with it. From below the bound is
what the plan that was found earns, replayed. From above it is the exact best of a process that is kinder than any replay: every
check, at any time, meets the shortest round trip of the time that a plan as good as the one found can take, at an endless rate, at
the idlest cloud, which knows the answer so far; nothing is owed for what was left out before; and nothing gets lost, as what is lost
is kept, and that can be had without asking. Both are of the process's actions (:class:`synera_env.synera.decisions.process.Actions`).

What does not live here: the bound on constant links (bound.py), and the passes (passes.py).
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from typing import NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from agents.counterfactual.batch import Batch
from agents.counterfactual.choices import END, UNKNOWN, next_of
from agents.evaluation import PlannedAnswer
from runtime.errors import SettingError
from runtime.settings import whole
from synera_env import SyneraReplayEnv, UncoveredError
from synera_env.reward import TERMS
from synera_env.synera.decisions.prices import Prices
from synera_env.synera.decisions.scenarios import Scenarios
from synera_env.synera.decisions.sight import sight_of
from synera_env.synera.vector import SyneraReplayVectorEnv

WIDTH = 8
_GUESSED_SECONDS = 4.0
"""Over which a link's state is averaged for a guess of what is still to come; ours."""


@dataclass(frozen=True)
class Bracket:
    """What an answer's best plan is worth: at least `lower`, at most `upper`."""

    lower: float
    """Earned by `plan`, in the full replay."""
    upper: float
    """No plan of the process's actions earns more."""
    plan: tuple[int, ...]
    """Actions, from the first decision on."""

    @property
    def gap(self) -> float:
        """What is left open."""
        return self.upper - self.lower


class _Beam(NamedTuple):
    """Plans under way, the most promising first."""

    rows: NDArray[np.intp]
    """[plans]: of the vector environment."""
    places: NDArray[np.int64]
    """[plans]: their states in the process."""
    earned: NDArray[np.float64]
    plans: list[tuple[int, ...]]


class Planner:
    """Plans answers in the world of a replay environment."""

    def __init__(self, env: SyneraReplayEnv, width: int = WIDTH) -> None:
        """See the class.

        Args:
            env: over recorded graphs.
            width: plans that are held at a time, 1..256.

        Raises:
            SettingError: the graphs grow, the cloud serves a workload, or the width is out of range.
        """
        whole("width", width, 1, 256)
        if env.cloud_load is not None:
            raise SettingError("a shared cloud may serve a check in a batch at less than its own cost; plan without a workload")
        self._env, self._width, self._work = env, width, sight_of(env).work
        actions = self._work.process.actions
        self._knobs, self._ways = actions.matrix(env.schema), actions.ways
        self._rows = SyneraReplayVectorEnv.of(env, width * len(self._knobs), AutoresetMode.NEXT_STEP)

    def bracket(self, planned: PlannedAnswer) -> Bracket:
        """Plan an answer.

        Raises:
            UncoveredError: no plan that was tried stays inside the recorded graphs.
        """
        if self._work.process.states.root[planned.prompt] < 0:
            raise UncoveredError(f"prompt {planned.prompt} has no states: its first chunk, or any end, was not recorded")
        lower, plan = self._search(planned)
        return Bracket(lower, self._most(planned, lower), plan)

    # ------------------------------------------------------------ from below

    def _search(self, planned: PlannedAnswer) -> tuple[float, tuple[int, ...]]:
        batch, worth = self._guess(planned)
        count = len(self._knobs)
        options = {name: getattr(planned, name) for name in ("prompt", "link", "link_offset_seconds", "preference")}
        self._rows.reset(seed=[planned.seed] * self._rows.num_envs, options=options)
        root = batch.work.process.states.root[batch.prompts] - batch.work.process.states.first[batch.prompts]
        beam = _Beam(np.zeros(1, np.intp), root, np.zeros(1), [()])
        best: tuple[float, tuple[int, ...]] = -np.inf, ()
        while len(beam.rows):
            self._rows.branch(np.resize(np.repeat(beam.rows, count), self._rows.num_envs))
            tried = len(beam.rows) * count
            _, reward, ended, left, _ = self._rows.step(np.resize(self._knobs, (self._rows.num_envs, self._knobs.shape[1])))
            earned = np.repeat(beam.earned, count) + reward[:tried]
            parent, action = np.divmod(np.arange(tried), count)
            done = np.flatnonzero(ended[:tried])
            if len(done) and earned[done].max() > best[0]:
                row = done[earned[done].argmax()]
                best = float(earned[row]), (*beam.plans[parent[row]], int(action[row]))
            led = next_of(batch, beam.places)[parent, action % self._ways + self._ways * self._rows.answered[:tried]]
            on = np.flatnonzero(~(ended | left)[:tried] & (led != END) & (led != UNKNOWN))
            promise = earned[on] + worth[led[on]]
            on = on[np.argsort(-promise, kind="stable")]
            _, first = np.unique(led[on], return_index=True)
            on = on[np.sort(first)][: self._width]
            plans = [(*beam.plans[parent[row]], int(action[row])) for row in on]
            beam = _Beam(on, led[on], earned[on], plans)
        if not best[1]:
            raise UncoveredError(f"no plan of prompt {planned.prompt} stays inside the recorded graphs")
        return best

    def _guess(self, planned: PlannedAnswer) -> tuple[Batch, NDArray[np.float64]]:
        """The answer's batch on its link's mean state, and what is still to be had at each state, its draft unpaid as in the replay."""
        rtt, uplink, downlink = self._window(planned, _GUESSED_SECONDS)
        link = np.array([[rtt.mean(), max(uplink.mean(), 1.0), max(downlink.mean(), 1.0)]])
        weights = np.array([astuple(planned.preference)])
        scenario = Scenarios(link, link, np.ones(1), np.full(1, 0.5), weights)
        batch = Batch.of(self._work, [planned.prompt], scenario)
        states, part = self._work.process.states, self._part(planned.prompt)
        drafting = self._work.drafting[states.node[part], states.way[part]]
        return batch, batch.planned() - batch.prices.per_second[0] * drafting

    # ------------------------------------------------------------ from above

    def _most(self, planned: PlannedAnswer, lower: float) -> float:
        """The best of the kinder process; see the module. A plan that takes longer than its window pays more for its seconds alone than
        the difference to the one that was found.
        """
        weight = dict(zip(TERMS, astuple(planned.preference), strict=True))
        seconds = (weight["quality"] - lower) / weight["latency"] if weight["latency"] > 0 else np.inf
        rtt, *_ = self._window(planned, seconds)
        d, c, work, part = self._env.device, self._env.cloud, self._work, self._part(planned.prompt)
        states = work.process.states
        busy = weight["latency"] + weight["energy"] * d.busy_watts
        waiting = weight["latency"] + weight["energy"] * d.wait_watts
        drafted = work.process.drafts.drafted[states.node[part], states.way[part].astype(np.int64)]
        forward = (c.forward_ms + (drafted + 1) * c.token_ms) / 1e3
        prices = Prices(
            quality=np.array([weight["quality"]]),
            start=np.array([busy * work.start[planned.prompt]]),
            per_second=np.array([busy]),
            keeping=np.zeros(len(drafted)),
            asking=waiting * (rtt.min() + min(c.queue_ms_quantiles) / 1e3) + (waiting + weight["cost"]) * forward,
            drafting=work.drafting,
        )
        return float(replace(self._guess(planned)[0], prices=prices).clairvoyant()[0][0])

    def _part(self, prompt: int) -> slice:
        """A prompt's states."""
        first = self._work.process.states.first
        return slice(int(first[prompt]), int(first[prompt + 1]))

    def _window(self, planned: PlannedAnswer, seconds: float) -> tuple[NDArray[np.float64], ...]:
        """Round trips in seconds, and rates up and down in bit/s, from an answer's start on; a link that ends begins again."""
        link, begin = self._env.links[planned.link], planned.link_offset_seconds
        first, count = int(begin / link.step_seconds), len(link.rtt_ms)
        last = first + count - 1 if seconds >= link.seconds else int((begin + seconds) / link.step_seconds)
        at = np.arange(first, last + 1) % count
        return link.rtt_ms[at] / 1e3, link.uplink_mbps[at] * 1e6, link.downlink_mbps[at] * 1e6
