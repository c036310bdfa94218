"""The environment: one answer is one episode. What does not live here: the session (runtime), worlds, spaces, reward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from runtime.errors import UncoveredError
from runtime.synera.lens import Lens
from runtime.synera.session import DecisionPoint, Session
from synera_env.metrics import episode_metrics
from synera_env.reward import Preference, reward_terms
from synera_env.synera.replay import Radio, ReplayEpisode
from synera_env.synera.schema import FIRST_KNOBS, Encoder
from traces import bundled
from traces.links.trace import LinkTrace
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet

Observation = NDArray[np.float32]


class Episode(Protocol):
    """One answer in some world."""

    session: Session
    prompt_tokens: tuple[int, ...]
    prompt: str
    kind: str

    def score(self) -> float:
        """Task score of the finished answer."""
        ...


class SyneraEnv(gym.Env[Observation, NDArray[np.float32]], ABC):
    """Offloading decisions of device-cloud LLM inference, one chunk of draft tokens a step.

    ## Description

    A phone's small model (SLM) answers a prompt chunk by chunk. At every step a chunk of draft tokens is in hand, and
    the action decides whether it is kept or sent to the cloud's large model (LLM), which keeps the longest correct
    prefix and adds one token of its own; and how the next chunk is drafted. The loop itself is `runtime.synera.session.Session`
    in every world.

    ## Action space

    `Box(-1, 1, (6,), float32)`, values outside are clipped. Thresholds and budget apply to the chunk in hand, exit and
    draft length to the next one. A chunk is offloaded when it is uncertain and important and the budget allows it.

    | # | knob | maps to | meaning |
    |---|---|---|---|
    | 0 | `confidence_threshold` | 0..1 | uncertain: the least confident token is below it; 1: always |
    | 1 | `importance_threshold` | 0..1 | important: the chunk's importance quantile is at least this |
    | 2 | `exit_layer` | one of the exits | deepest exit run for a draft token |
    | 3 | `exit_margin` | 0..1 | leave at the first exit whose margin reaches it; 1: never early |
    | 4 | `draft_length` | 1..8 | most tokens in a chunk |
    | 5 | `offload_budget` | 0..1 | chunk t may be offloaded while offloaded + 1 <= ceil(budget * t) |

    ## Observation space

    `Box(float32)`; each entry's name, unit and bounds are in `synera_env.synera.schema.FEATURES` (the draft in hand token by
    token, a sketch of the hidden state, the last chunks, acceptance, progress, link and cloud estimates, preference
    weights). Nothing that a device cannot know is in it.

    ## Reward

    `w_quality * d_quality - w_latency * seconds - w_cost * cloud_seconds - w_energy * joules - w_traffic * megabytes`;
    quality is the task's score and is paid at the last step. Each term is in `info["reward_terms"]`. The weights
    (`synera_env.reward.Preference`) are sampled for each episode unless given, and observed.

    ## Episode

    Starts with the first chunk drafted (full depth, four tokens). Terminates when the answer is complete. In replay it
    is truncated, with `info["uncovered"]`, when a step leaves the recorded graph. At the end `info["episode_metrics"]`
    has the metrics of `synera_env.metrics`.

    ## Reset options

    `prompt` (index), `link` (index), `link_offset_seconds`, `preference` (a `Preference`); what is not given is drawn.

    ## Versions

    v0: first.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012 - the base class declares it so

    def __init__(
        self, encoder: Encoder, prompts: int, links: Sequence[LinkTrace], preference: Preference | None, render_mode: str | None
    ) -> None:
        """Set up spaces and draws; worlds add the episode.

        Args:
            encoder: observation and knob map.
            prompts: how many prompts the world has.
            links: link traces to draw from.
            preference: fixed weights; None samples them for each episode.
            render_mode: None or `ansi`.
        """
        if not links:
            raise ValueError("no link traces given; give at least one")
        if render_mode not in (None, "ansi"):
            raise ValueError(f"render_mode={render_mode!r} is not supported; use None or 'ansi'")
        self.encoder, self.links, self.render_mode = encoder, tuple(links), render_mode
        self.observation_space, self.action_space = encoder.observation_space, encoder.action_space  # type: ignore[assignment]
        self.prompt_count, self._fixed_preference = prompts, preference
        self._episode: Episode | None = None
        self._point: DecisionPoint | None = None
        self._preference = preference or Preference()
        self._reward = 0.0

    @abstractmethod
    def _begin(self, prompt: int, radio: Radio) -> Episode:
        """Make the episode of a world."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Start an answer; see the class docstring for `options`.

        Raises:
            ValueError: an option is unknown or out of range.
            UncoveredError: in replay, not even the first chunk was recorded.
        """
        super().reset(seed=seed)
        chosen = options or {}
        unknown = set(chosen) - {"prompt", "link", "link_offset_seconds", "preference"}
        if unknown:
            raise ValueError(
                f"unknown reset options {sorted(unknown)}; known are prompt, link, link_offset_seconds, preference"
            )
        prompt = self._index(chosen, "prompt", self.prompt_count)
        link = self.links[self._index(chosen, "link", len(self.links))]
        offset = float(chosen.get("link_offset_seconds", self.np_random.uniform(0, link.seconds)))
        drawn = self._fixed_preference or Preference.sample(self.np_random)
        self._preference = chosen.get("preference") or drawn
        if self._episode is not None:
            self._episode.session.close()
        self._point, self._reward = None, 0.0
        self._episode = self._begin(prompt, Radio(link, offset))
        self._point = self._episode.session.begin(self._episode.prompt_tokens, FIRST_KNOBS)
        info = {"prompt": self._episode.prompt, "kind": self._episode.kind, "link": link.name, "link_offset_seconds": offset}
        return self._observe(), info

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Settle the chunk in hand by the action and draft the next one."""
        if self._episode is None or self._point is None:
            raise RuntimeError("no answer is under way: call reset() first, and again after an episode has ended")
        session = self._episode.session
        before = session.records[-1].committed_at if session.records else 0.0
        knobs = self.encoder.knobs(action)
        try:
            step = session.advance(knobs)
        except UncoveredError as uncovered:
            observation = self._observe()
            self._point = None
            return observation, 0.0, False, True, {"uncovered": True, "reason": str(uncovered), "knobs": asdict(knobs)}
        self._point = step.point
        quality = self._episode.score() if step.done else 0.0
        terms = reward_terms(step.record, step.record.committed_at - before, quality, self._preference)
        reward = sum(terms.values())
        self._reward += reward
        info: dict[str, Any] = {
            "reward_terms": terms,
            "knobs": asdict(knobs),
            "offloaded": step.record.offloaded,
            "uncovered": False,
        }
        if step.done:
            info["episode_metrics"] = asdict(episode_metrics(session.records, quality, self._reward))
        return self._observe(), reward, step.done, False, info

    def render(self) -> str | None:  # type: ignore[override]
        """Return the answer so far, one line a chunk: what was drafted, decided and committed (token ids)."""
        if self.render_mode != "ansi" or self._episode is None:
            return None
        return "\n".join(
            f"{i:3d} {'offload' if r.offloaded else 'keep   '} confidence {r.draft.confidence:.3f} "
            f"draft {list(r.draft.ids)} -> {list(r.committed)} at {r.committed_at:.3f} s"
            for i, r in enumerate(self._episode.session.records, 1)
        )

    def close(self) -> None:
        """Release the episode."""
        if self._episode is not None:
            self._episode.session.close()
            self._episode = None

    @property
    def session(self) -> Session:
        """The session of the episode under way; for inspection."""
        if self._episode is None:
            raise RuntimeError("no answer is under way: call reset() first")
        return self._episode.session

    def _index(self, chosen: dict[str, Any], name: str, count: int) -> int:
        """Return a reset option that counts something, or a draw; draws whether given or not, so later draws stay the same."""
        drawn = self.np_random.integers(count)
        index = int(chosen.get(name, drawn))
        if not 0 <= index < count:
            raise ValueError(f"reset option {name}={index} is outside 0..{count - 1}")
        return index

    def _observe(self) -> Observation:
        if self._point is None:  # the answer is complete: nothing is in hand any more
            return np.clip(np.zeros(self.observation_space.shape or (0,), np.float32), self.encoder.low, self.encoder.high)
        return self.encoder.encode(self._point, self.session.records, self._preference)


class SyneraReplayEnv(SyneraEnv):
    """`SyneraReplay-v0`: the environment over recorded token graphs, link traces and timing profiles.

    Deterministic by seed; needs no model. Actions, observations and reward: see :class:`SyneraEnv`.
    """

    def __init__(
        self,
        graphs: GraphSet | str | Path | None = None,
        links: Sequence[LinkTrace] | None = None,
        device: DeviceProfile | None = None,
        cloud: CloudProfile | None = None,
        preference: Preference | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Open the world.

        Args:
            graphs: graphs or their file; None takes the bundled training graphs.
            links: link traces; None takes the bundled training links.
            device: device profile; None takes the bundled phone.
            cloud: cloud profile; None takes the bundled GPU.
            preference: fixed weights; None samples them for each episode.
            render_mode: None or `ansi`.

        Raises:
            TraceError: a file is missing or damaged.
        """
        self.graphs = graphs if isinstance(graphs, GraphSet) else GraphSet.load(graphs or bundled.graphs("train"))
        self.lens = Lens.from_tensors(self.graphs.lens_tensors)
        self.device = device or DeviceProfile.load(bundled.profile("phone"))
        self.cloud = cloud or CloudProfile.load(bundled.profile("gpu"))
        encoder = Encoder(len(self.graphs.meta.exit_layers))
        super().__init__(encoder, len(self.graphs), links or bundled.links("train"), preference, render_mode)

    def _begin(self, prompt: int, radio: Radio) -> Episode:
        return ReplayEpisode(self.graphs, prompt, radio, self.device, self.cloud, self.lens, self.np_random)
