"""The Gymnasium part of every environment, written once over an episode (a stepper in some world) and a schema.

What does not live here: what a system's knobs and features are (its schema), its worlds, how an episode starts
(episode.py), the reward's formula, and the picture of an answer (picture.py).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from runtime.errors import SettingError, UncoveredError
from runtime.model.frame import Frame
from runtime.session import Cost, Step, Stepper
from runtime.settings import shown
from synera_env.arguments import Links, read_links, read_outages, read_preference
from synera_env.episode import Episode, ResetOptions, Start, checked_seed, draw
from synera_env.metrics import EpisodeMetrics, episode_metrics
from synera_env.radio import Outages, Radio
from synera_env.reward import Preference, PreferenceRange, objectives, reward_terms
from synera_env.schema import Schema
from traces.links.filling import filled_by_family

Observation = NDArray[np.float32]
Transition = tuple[Observation, float, bool, bool, dict[str, Any]]
"""What a step returns: observation, reward, terminated, truncated, info."""
RENDER_MODES = ("ansi", "rgb_array")


@dataclass(frozen=True)
class Deployment:
    """What a controller that was trained in an environment needs wherever it is deployed."""

    fingerprints: Mapping[str, str] = field(default_factory=dict)
    """Of the models, tokenizers and tables that its observations depend on, by what they are."""
    max_new_tokens: int | None = None
    """Where the answers that it was trained on were cut."""
    tensors: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Tables that the device must carry."""
    frame: Frame | None = None
    """How prompts become tokens; None where that is not known."""


class DecisionEnv(gym.Env[Observation, NDArray[np.float32]], ABC):
    """One answer is one episode, one step is one decision; systems and worlds add the episode.

    ## Action and observation space

    Those of the schema: `Box(-1, 1)`, one entry a knob, values outside are clipped; `Box(float32)`, one or more entries a
    feature. Nothing that a device cannot know is in an observation.

    ## Reward

    `w_quality * d_quality - w_latency * seconds - w_cost * cloud_seconds - w_energy * joules - w_traffic * megabytes`;
    quality is the task's score and is paid at the last step. Each term is in `info["reward_terms"]`, what each is of in
    `info["vector_reward"]`, unweighted (`mo-SyneraReplay-v0` returns that as its reward). The weights
    (`synera_env.reward.Preference`) are sampled for each episode unless given, and observed.

    ## Episode

    Terminates when the answer is complete; `info["episode_metrics"]` then has the metrics of `synera_env.metrics`, and
    `info["quality_known"]` is False where nobody can tell the quality: it is NaN in the metrics, and no term of the
    reward.

    It is truncated, with `info["uncovered"]` and the reason in `info["reason"]`, when a replayed step needs what was not
    recorded. The step then counts as not taken: the observation is again that of the decision point before it, and the
    reward is 0. What is still to come from there is for the learner's value function to say, as of any truncated episode.
    An answer that left has no `episode_metrics`.

    ## Reset options

    `prompt` (index), `link` (index), `link_offset_seconds` (0 .. the link's length), `preference` (a `Preference` or a
    mapping of its weights); what is not given is drawn.
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 4}  # noqa: RUF012 - the base class declares it so

    def __init__(
        self,
        schema: Schema,
        prompts: int,
        links: Links,
        preference: Preference | Mapping[str, float] | None = None,
        outages: Outages | Mapping[str, float] | None = None,
        render_mode: str | None = None,
        startable: Sequence[int] | None = None,
    ) -> None:
        """Set up spaces and draws.

        Args:
            schema: of the system.
            prompts: how many prompts the world has.
            links: link traces to draw from, or their file or folder.
            preference: fixed weights; None samples them for each episode.
            outages: how often an episode's radio is cut off; None is the default, `Outages.never()` switches it off.
            render_mode: None, `ansi` or `rgb_array`.
            startable: the prompts that `reset` can begin, and draws from; None is all.

        Raises:
            SettingError: there are no prompts or no links, or an argument is of a wrong type or unknown.
            TraceError: a file is missing or damaged.
        """
        if prompts < 1:
            raise SettingError("the environment has no prompts; give at least one")
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise SettingError(f"render_mode={shown(render_mode)} is not supported; use None, 'ansi' or 'rgb_array'")
        self.schema, self.links, self.render_mode = schema, read_links(links), render_mode
        self.outages = read_outages(outages)
        self.observation_space, self.action_space = schema.observation_space, schema.action_space  # type: ignore[assignment]
        self.prompt_count = prompts
        self.startable: Sequence[int] = range(prompts) if startable is None else tuple(startable)
        """Prompts that `reset` can begin."""
        self._fixed_preference = None if preference is None else read_preference(preference)
        self._preference = self._fixed_preference or Preference()
        self._episode: Episode | None = None
        self._point: Any = None
        self._radio: Radio | None = None
        self._paid: dict[str, float] = {}

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

    def charged(self, record: Any) -> Cost:
        """What the reward charges for a step: what it cost, unless a system weighs times apart."""
        cost: Cost = record.cost
        return cost

    def metrics(self, records: Sequence[Any], quality: float, preference: Preference) -> EpisodeMetrics:
        """Return the metrics of a finished answer; see :func:`synera_env.metrics.episode_metrics`."""
        return episode_metrics(records, quality, preference, self.charged)

    def _line(self, record: Any) -> str:
        """Render one record as text."""
        return f"{self._said(record.committed)} at {record.committed_at:.3f} s"

    def _confidence(self, record: Any) -> float:
        """How sure the device was at a step, 0..1, for the picture; systems that know it say so."""
        return 1.0

    def deployment(self) -> Deployment:
        """What a controller trained here needs where it is deployed; nothing, unless a world says so."""
        return Deployment()

    def siblings(self, count: int) -> Sequence[DecisionEnv]:
        """Environments of this world that answer side by side, at most so many, this one first.

        Itself alone, unless answers of a world wait for something that it can fetch for several at once.
        """
        return [self]

    def vector(self, rows: int, autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP) -> VectorEnv[Any, Any, Any] | None:
        """So many environments of this world, stepped together by compiled code; None where there is no such code."""
        return None

    def growth(self) -> Mapping[str, float]:
        """What was added to this world's evidence since it was opened, and at what cost, by name; nothing where none grows."""
        return {}

    def provenance(self) -> dict[str, Any]:
        """What this world is made of, as plain data: written into the run of a training."""
        return {
            "prompts": self.prompt_count,
            "links": sorted({x.family for x in self.links}),
            "traces": len(self.links),
            "filled": filled_by_family(self.links),
            "outages": asdict(self.outages),
        }

    # ------------------------------------------------------------ Gymnasium

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Start an answer; see the class docstring for `options`.

        Raises:
            SettingError: the seed or an option is unknown, of a wrong type or out of range, or names a prompt of which not
                even what comes before the first decision was recorded; the answer under way goes on.
        """
        episode, info = self._draw(checked_seed(seed), self.reset_options(options))
        self._point = episode.session.begin(episode.prompt_tokens, self.schema.first_knobs)
        return self._observe(), info

    def reset_options(self, options: Mapping[str, Any] | None) -> ResetOptions:
        """Check the options of `reset`; see there for what is raised."""
        chosen = ResetOptions.of(options, self.prompt_count, self.links)
        if chosen.prompt is not None and chosen.prompt not in self.startable:
            raise SettingError(
                f"reset option prompt={chosen.prompt} cannot be begun, as its first chunk was not recorded; "
                "choose another, or record with a larger node budget"
            )
        return chosen

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
        point, settled = self._point, len(self._episode.session.records)
        try:
            step: Step[Any, Any] = self._episode.session.advance(knobs)
            self._point = step.point
            quality = self._episode.score() if step.done else 0.0
        except UncoveredError as uncovered:
            return self._uncovered(uncovered, knobs, point, settled)
        known = not math.isnan(quality)
        cost = self.charged(step.record)
        terms = reward_terms(cost, quality if known else 0.0, self._preference)
        if not known:
            del terms["quality"]
        info = self._info(knobs, terms, offloaded=step.record.offloaded)
        info["vector_reward"] = objectives(cost, quality if known else 0.0)
        if step.done:
            metrics = self.metrics(self._episode.session.records, quality, self._preference)
            info |= {"quality_known": known, "episode_metrics": _fields(metrics)}
        return self._observe(), sum(terms.values()), step.done, False, info

    def render(self) -> str | NDArray[np.uint8] | None:  # type: ignore[override]
        """Return the answer so far: with `ansi` a line a step, with `rgb_array` a picture, uint8 [height, width, 3]."""
        if self.render_mode == "rgb_array":
            from synera_env import picture  # only who looks pays for matplotlib

            look = picture.Look(self.schema.rows, self._confidence)
            return picture.draw(self._episode, self._radio, self._paid, look)
        if self.render_mode is None or self._episode is None:
            return None
        return "\n".join(f"{i:3d} {self._line(r)}" for i, r in enumerate(self._episode.session.records, 1))

    def close(self) -> None:
        """Release the episode."""
        self._release()

    # ------------------------------------------------------------ for who drives without actions

    def episode(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None, lost: frozenset[int] | None = None
    ) -> Episode:
        """Draw an answer as `reset` does, for who drives its session alone; nothing of it is begun.

        The environment stays its owner: the next `reset`, `episode` or `close` releases it.

        Args:
            seed: as of `reset`.
            options: as of `reset`; any prompt may be named, also one whose beginning was not recorded.
            lost: which questions to the cloud a replay loses, by their number in the answer, from 1: these and no others.
                None loses those that meet the outages drawn.

        Raises:
            SettingError: the seed or an option is unknown, of a wrong type or out of range.
        """
        return self._draw(checked_seed(seed), ResetOptions.of(options, self.prompt_count, self.links), lost)[0]

    @property
    def point(self) -> Any:
        """The decision point in hand; None while no answer is under way."""
        return self._point

    @property
    def session(self) -> Stepper[Any, Any, Any]:
        """The session of the episode under way.

        Raises:
            RuntimeError: there is none.
        """
        if self._episode is None:
            raise RuntimeError("no answer is under way: call reset() first")
        return self._episode.session

    @property
    def radio(self) -> Radio | None:
        """The network of the answer that was drawn last, with its outages; None before the first."""
        return self._radio

    # ------------------------------------------------------------ pieces

    def _release(self) -> None:
        episode, self._episode, self._point = self._episode, None, None
        if episode is not None:
            self._end(episode)

    def _draw(
        self, seed: int | None, chosen: ResetOptions, lost: frozenset[int] | None = None
    ) -> tuple[Episode, dict[str, Any]]:
        """Draw what is not chosen, and make the episode in place of the one before; return it and its info."""
        super().reset(seed=seed)
        drawn = draw(self.np_random, chosen, self.startable, self.links, self._fixed_preference, self.outages, lost)
        self._release()
        self._preference, self._paid, self._radio = drawn.preference, {}, drawn.start.radio
        self._episode = episode = self._begin(drawn.start)
        offset = drawn.start.radio.offset_seconds
        return episode, {"prompt": episode.prompt, "kind": episode.kind, "link": drawn.link.name, "link_offset_seconds": offset}

    def _observe(self) -> Observation:
        if self._episode is None or self._point is None:  # the answer is complete: nothing is in hand any more
            return np.clip(np.zeros(len(self.schema.low), np.float32), self.schema.low, self.schema.high)
        return self.schema.encode(self._point, self._episode.session.records, self._preference)

    def _uncovered(self, uncovered: UncoveredError, knobs: Any, point: Any, settled: int) -> Transition:
        """End the answer at the decision point before a step that cannot be told, with so many settled before."""
        observation = self.schema.encode(point, self.session.records[:settled], self._preference)
        self._point = None
        info = self._info(knobs, reward_terms(Cost(), 0.0, self._preference), offloaded=False)
        info["vector_reward"] = objectives(Cost(), 0.0)
        return observation, 0.0, False, True, info | {"uncovered": True, "reason": str(uncovered)}

    def _info(self, knobs: Any, terms: dict[str, float], *, offloaded: bool) -> dict[str, Any]:
        for name, paid in terms.items():
            self._paid[name] = self._paid.get(name, 0.0) + paid
        return {"reward_terms": terms, "knobs": _fields(knobs), "offloaded": offloaded, "uncovered": False}

    def _said(self, tokens: Sequence[int]) -> str:
        """What tokens say, as a line of text may show it."""
        return shown(self._episode.text(tokens)) if self._episode else ""


def _fields(values: Any) -> dict[str, Any]:
    """A dataclass of plain values as a dict; `asdict` would copy each value, at a tenth of a step's time."""
    return {name: getattr(values, name) for name in _names(values.__class__)}


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind))
