"""Rules that offload where figures of the draft in hand reach a level, or by chance; and their names.

What does not live here: what the levels of a draft are worth (agents/ablation.py), and which ones keep to a budget
(agents/fitting.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agents.rules.fixed import keep_and_offload
from runtime.errors import SettingError
from runtime.settings import one_of, shown, within
from synera_env import EXACT, Schema

CHANCE = "chance"
"""Name of the rule that offloads with a fixed probability, as a figure has a name."""


@dataclass(frozen=True)
class Figure:
    """One number that says how doubtful the draft in hand is, read off an observation."""

    row: str
    """The feature whose entries it is of."""
    sure: bool
    """Small values are doubtful, and the smallest entry counts; otherwise large ones are, and the largest counts."""

    def reader(self, schema: Schema) -> Callable[[Any], NDArray[np.float32]]:
        """Return what reads the figure off an observation, [entries] or [batch, entries]: to [] or [batch].

        Raises:
            SettingError: the schema has no such feature.
        """
        places, worst = schema.places(self.row), np.min if self.sure else np.max
        if not len(places):
            raise SettingError(f"the system {schema.system} shows no {self.row}, so no rule can look at it")
        return lambda observation: worst(np.take(observation, places, axis=-1), axis=-1)

    def reaches(self, values: NDArray[np.float32], level: float) -> NDArray[np.bool_]:
        """Say which values are doubtful: below the level, or from it on."""
        return values < level if self.sure else values >= level


FIGURES = {
    "confidence": Figure("confidence", sure=True),
    "margin": Figure("margin", sure=True),
    "entropy": Figure("entropy", sure=False),
    "importance": Figure("importance", sure=False),
}
"""By name: of the least confident token, of the one with the least margin, of the one with the most entropy; of the chunk."""


class LevelRule:
    """Offloads a chunk when each of some figures of its draft is doubtful; always drafts as the presets never and always do.

    With confidence and importance it decides as the knobs of these names do; the other figures have no knob.
    """

    def __init__(self, levels: Mapping[str, float], schema: Schema) -> None:
        """See the class.

        Args:
            levels: from where on a figure is doubtful, by the names of :data:`FIGURES`; at least one.
            schema: of a system that has these figures, and those presets.

        Raises:
            SettingError: a figure is unknown, the schema has none of it, or a level is outside its bounds.
        """
        if not levels:
            raise SettingError("a rule of levels needs at least one figure to look at")
        bounds = {row.name: (row.low, row.high) for row in schema.features}
        self.levels, self._looks = dict(levels), []
        for name, level in levels.items():
            one_of("figure", name, tuple(FIGURES))
            figure = FIGURES[name]
            self._looks.append((figure, figure.reader(schema), level))
            within(name, level, *bounds[figure.row])
        self._actions = keep_and_offload(schema)

    @property
    def name(self) -> str:
        """As :func:`level_rule` reads it."""
        return ",".join(f"{figure}={float(level)!r}" for figure, level in self.levels.items())

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`."""
        doubtful = [figure.reaches(read(observation), level) for figure, read, level in self._looks]
        return self._actions[np.all(doubtful, axis=0).astype(np.intp)], state


@dataclass(frozen=True)
class Levels:
    """The levels of a rule as plain data, such as those that keep to a budget."""

    __pydantic_config__ = EXACT

    levels: dict[str, float]
    kind: Literal["levels"] = "levels"

    def controller(self, schema: Schema) -> LevelRule:
        """Make it act; see :class:`LevelRule`."""
        return LevelRule(self.levels, schema)


class ChanceRule:
    """Offloads a chunk with a fixed probability, whatever it is; drafts as :class:`LevelRule` does.

    Implements :class:`agents.base.Seeded`.
    """

    def __init__(self, rate: float, schema: Schema) -> None:
        """See the class.

        Raises:
            SettingError: the rate is outside 0..1.
        """
        within(CHANCE, rate, 0.0, 1.0)
        self.rate, self._actions = rate, keep_and_offload(schema)

    @property
    def name(self) -> str:
        """As :func:`level_rule` reads it."""
        return f"{CHANCE}={float(self.rate)!r}"

    def initial_state(self, seed: int) -> np.random.Generator:
        """See :class:`agents.base.Seeded`."""
        return np.random.default_rng([seed, 17])

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`; without a state, as in an episode of seed 0."""
        rng = self.initial_state(0) if state is None else state
        drawn = np.asarray(rng.random(np.shape(observation)[:-1]) < self.rate)
        return self._actions[drawn.astype(np.intp)], rng


def level_rule(name: str, schema: Schema) -> LevelRule | ChanceRule:
    """Return the rule of a name: `margin=0.5`, `confidence=0.7,importance=0.5`, or `chance=0.2`.

    Raises:
        SettingError: the name does not read so, a figure is unknown or named twice, or a level is out of its range.
    """
    levels: dict[str, float] = {}
    for part in name.split(","):
        figure, _, level = part.partition("=")
        one_of("figure", figure, (*FIGURES, CHANCE))
        if figure in levels:
            raise SettingError(f"the rule {shown(name)} names {figure} twice")
        try:
            levels[figure] = float(level)
        except ValueError:
            raise SettingError(f"{figure}={shown(level)} must be a number") from None
    if CHANCE not in levels:
        return LevelRule(levels, schema)
    if len(levels) > 1:
        raise SettingError(f"the rule {shown(name)} mixes chance with figures; name one or the others")
    return ChanceRule(levels[CHANCE], schema)
