"""The Gymnasium part of every environment, written once over an episode (a stepper in some world) and a schema.

What does not live here: what a system's knobs and features are (its schema), its worlds, and the reward's formula.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from runtime.errors import SettingError, UncoveredError
from runtime.session import Step, Stepper, StepRecord
from synera_env.metrics import episode_metrics
from synera_env.radio import Radio
from synera_env.reward import Preference, PreferenceRange, reward_terms
from synera_env.schema import Schema
from traces.links.trace import LinkTrace

Observation = NDArray[np.float32]
Transition = tuple[Observation, float, bool, bool, dict[str, Any]]
"""What a step returns: observation, reward, terminated, truncated, info."""
RESET_OPTIONS = ("prompt", "link", "link_offset_seconds", "preference")


class Episode(Protocol):
    """One answer in some world."""

    @property
    def session(self) -> Stepper[Any, Any, Any]:
        """What answers; nothing is begun yet."""
        ...

    @property
    def prompt_tokens(self) -> Sequence[int]:
        """What it answers."""
        ...

    @property
    def prompt(self) -> str:
        """The same as text."""
        ...

    @property
    def kind(self) -> str:
        """Kind of task, for the info."""
        ...

    def score(self) -> float:
        """Task score of the finished answer."""
        ...


@dataclass(frozen=True)
class Start:
    """What is drawn when an episode starts."""

    prompt: int
    radio: Radio
    rng: np.random.Generator
    """For whatever else the world draws."""


@dataclass(frozen=True)
class Deployment:
    """What a controller that was trained in an environment needs wherever it is deployed."""

    fingerprints: Mapping[str, str] = field(default_factory=dict)
    """Of the models, tokenizers and tables that its observations depend on, by what they are."""
    max_new_tokens: int | None = None
    """Where the answers that it was trained on were cut."""
    tensors: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Tables that the device must carry."""


class DecisionEnv(gym.Env[Observation, NDArray[np.float32]], ABC):
    """One answer is one episode, one step is one decision; systems and worlds add the episode.

    ## Action and observation space

    Those of the schema: `Box(-1, 1)`, one entry a knob, values outside are clipped; `Box(float32)`, one or more entries a
    feature. Nothing that a device cannot know is in an observation.

    ## Reward

    `w_quality * d_quality - w_latency * seconds - w_cost * cloud_seconds - w_energy * joules - w_traffic * megabytes`;
    quality is the task's score and is paid at the last step. Each term is in `info["reward_terms"]`. The weights
    (`synera_env.reward.Preference`) are sampled for each episode unless given, and observed.

    ## Episode

    Terminates when the answer is complete; `info["episode_metrics"]` then has the metrics of `synera_env.metrics`. It is
    truncated, with `info["uncovered"]`, when a replayed step leaves what was recorded; what had been settled by then
    is paid for.

    ## Reset options

    `prompt` (index), `link` (index), `link_offset_seconds`, `preference` (a `Preference`); what is not given is drawn.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012 - the base class declares it so

    def __init__(
        self,
        schema: Schema,
        prompts: int,
        links: Sequence[LinkTrace],
        preference: Preference | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Set up spaces and draws.

        Args:
            schema: of the system.
            prompts: how many prompts the world has.
            links: link traces to draw from.
            preference: fixed weights; None samples them for each episode.
            render_mode: None or `ansi`.

        Raises:
            SettingError: there are no prompts or no links, or the render mode is unknown.
        """
        if prompts < 1:
            raise SettingError("the environment has no prompts; give at least one")
        if not links:
            raise SettingError("no link traces given; give at least one")
        if render_mode not in (None, "ansi"):
            raise SettingError(f"render_mode={render_mode!r} is not supported; use None or 'ansi'")
        self.schema, self.links, self.render_mode = schema, tuple(links), render_mode
        self.observation_space, self.action_space = schema.observation_space, schema.action_space  # type: ignore[assignment]
        self.prompt_count, self._fixed_preference = prompts, preference
        self._episode: Episode | None = None
        self._point: Any = None
        self._preference = preference or Preference()

    @property
    def preferences(self) -> PreferenceRange:
        """Those that episodes are drawn from, unless an option of `reset` names another."""
        return PreferenceRange.of(self._fixed_preference)

    # ------------------------------------------------------------ what a world adds

    @abstractmethod
    def _begin(self, start: Start) -> Episode:
        """Make an episode."""

    def _end(self, episode: Episode) -> None:
        """Release an episode; worlds that hold more than its session extend this."""
        episode.session.close()

    def _line(self, record: Any) -> str:
        """Render one record."""
        return f"{list(record.committed)} at {record.committed_at:.3f} s"

    def deployment(self) -> Deployment:
        """What a controller trained here needs where it is deployed; nothing, unless a world says so."""
        return Deployment()

    def provenance(self) -> dict[str, Any]:
        """What this world is made of, as plain data: written into the run of a training."""
        return {"prompts": self.prompt_count, "links": sorted({x.family for x in self.links}), "traces": len(self.links)}

    # ------------------------------------------------------------ Gymnasium

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Start an answer; see the class docstring for `options`.

        Raises:
            SettingError: an option is unknown or out of range.
            UncoveredError: in replay, not even what comes before the first decision was recorded.
        """
        episode, info = self._draw(seed, options)
        self._point = episode.session.begin(episode.prompt_tokens, self.schema.first_knobs)
        return self._observe(), info

    def step(self, action: NDArray[np.float32]) -> Transition:
        """Decide by an action; see :meth:`advance`."""
        return self.advance(self.schema.knobs(action))

    def advance(self, knobs: Any) -> Transition:
        """Decide by knobs: settle what is in hand, and prepare the next decision.

        Raises:
            RuntimeError: no answer is under way.
        """
        if self._episode is None or self._point is None:
            raise RuntimeError("no answer is under way: call reset() first, and again after an episode has ended")
        settled_before = len(self._episode.session.records)
        try:
            step: Step[Any, Any] = self._episode.session.advance(knobs)
        except UncoveredError as uncovered:
            return self._uncovered(uncovered, knobs, settled_before)
        self._point = step.point
        quality = self._episode.score() if step.done else 0.0
        terms = reward_terms(step.record.cost, quality, self._preference)
        info = self._info(knobs, terms, offloaded=step.record.offloaded)
        if step.done:
            info["episode_metrics"] = asdict(episode_metrics(self._episode.session.records, quality, self._preference))
        return self._observe(), sum(terms.values()), step.done, False, info

    def render(self) -> str | None:  # type: ignore[override]
        """Return the answer so far, one line a step."""
        if self.render_mode != "ansi" or self._episode is None:
            return None
        return "\n".join(f"{i:3d} {self._line(r)}" for i, r in enumerate(self._episode.session.records, 1))

    def close(self) -> None:
        """Release the episode."""
        self._release()

    # ------------------------------------------------------------ for who drives without actions

    def episode(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Episode:
        """Draw an answer as `reset` does, for who drives its session alone; nothing of it is begun.

        The environment stays its owner: the next `reset`, `episode` or `close` releases it.

        Raises:
            SettingError: an option is unknown or out of range.
        """
        return self._draw(seed, options)[0]

    @property
    def session(self) -> Stepper[Any, Any, Any]:
        """The session of the episode under way.

        Raises:
            RuntimeError: there is none.
        """
        if self._episode is None:
            raise RuntimeError("no answer is under way: call reset() first")
        return self._episode.session

    # ------------------------------------------------------------ pieces

    def _release(self) -> None:
        episode, self._episode, self._point = self._episode, None, None
        if episode is not None:
            self._end(episode)

    def _draw(self, seed: int | None, options: dict[str, Any] | None) -> tuple[Episode, dict[str, Any]]:
        """Draw what `options` do not give, and make the episode in place of the one before; return it and its info."""
        super().reset(seed=seed)
        chosen = options or {}
        if unknown := set(chosen) - set(RESET_OPTIONS):
            raise SettingError(f"unknown reset options {sorted(unknown)}; known are {', '.join(RESET_OPTIONS)}")
        prompt = self._index(chosen, "prompt", self.prompt_count)
        link = self.links[self._index(chosen, "link", len(self.links))]
        offset = float(chosen.get("link_offset_seconds", self.np_random.uniform(0, link.seconds)))
        drawn = self._fixed_preference or Preference.sample(self.np_random)
        self._preference = chosen.get("preference") or drawn
        self._release()
        self._episode = episode = self._begin(Start(prompt, Radio(link, offset), self.np_random))
        return episode, {"prompt": episode.prompt, "kind": episode.kind, "link": link.name, "link_offset_seconds": offset}

    def _index(self, chosen: dict[str, Any], name: str, count: int) -> int:
        """Return a reset option that counts something, or a draw; draws whether given or not, so later draws stay the same."""
        drawn = self.np_random.integers(count)
        index = int(chosen.get(name, drawn))
        if not 0 <= index < count:
            raise SettingError(f"reset option {name}={index} is outside 0..{count - 1}")
        return index

    def _observe(self) -> Observation:
        if self._episode is None or self._point is None:  # the answer is complete: nothing is in hand any more
            return np.clip(np.zeros(len(self.schema.low), np.float32), self.schema.low, self.schema.high)
        return self.schema.encode(self._point, self._episode.session.records, self._preference)

    def _uncovered(self, uncovered: UncoveredError, knobs: Any, settled_before: int) -> Transition:
        observation, records = self._observe(), self.session.records
        self._point = None
        settled: StepRecord | None = records[-1] if len(records) > settled_before else None
        terms = reward_terms(settled.cost, 0.0, self._preference) if settled else {}
        info = self._info(knobs, terms, offloaded=settled is not None and settled.offloaded)
        return observation, sum(terms.values()), False, True, info | {"uncovered": True, "reason": str(uncovered)}

    @staticmethod
    def _info(knobs: Any, terms: dict[str, float], *, offloaded: bool) -> dict[str, Any]:
        return {"reward_terms": terms, "knobs": asdict(knobs), "offloaded": offloaded, "uncovered": False}
