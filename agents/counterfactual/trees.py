"""Gradient-boosted trees as a policy: one regression an action, of what it gains; the action that promises most is taken.

What does not live here: what they are fitted to (informed.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import lightgbm
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from agents.errors import BundleError
from runtime.settings import shown
from synera_env import EXACT, Schema, read_json, write_json
from synera_env.synera.decisions.process import Actions

_UNKNOWN_WEIGHT = 1e-9
"""Of rows in which an action's outcome was not recorded; 0 would take them out of the tables that all actions share."""
_SETTINGS: dict[str, Any] = {
    "objective": "regression",
    "feature_fraction": 0.5,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 1.0,
    "max_bin": 127,
    "num_threads": 1,
    "deterministic": True,
    "force_col_wise": True,
    "verbose": -1,
}


@dataclass(frozen=True, eq=False)
class Trees:
    """Of one fit, or the mean of several."""

    fits: Sequence[Sequence[lightgbm.Booster]]
    """[fits][actions]"""

    @classmethod
    def fitted(
        cls,
        seen: NDArray[np.float32],
        gains: NDArray[np.float64],
        weights: NDArray[np.float64],
        trees: int,
        leaves: int,
        least_rows: int,
        rate: float,
        seed: int,
    ) -> Self:
        """Fit the gains of all actions.

        Args:
            seen: observations, [rows, entries].
            gains: [rows, actions]; NaN where it is not known.
            weights: [rows].
            trees: an action.
            leaves: most of a tree.
            least_rows: of a leaf.
            rate: of learning.
            seed: of the draws of rows and entries.
        """
        settings = _SETTINGS | {"num_leaves": leaves, "min_data_in_leaf": least_rows, "learning_rate": rate, "seed": seed}
        rows = lightgbm.Dataset(np.ascontiguousarray(seen), params=settings, free_raw_data=False).construct()
        fit = []
        for gain in gains.T:
            known = ~np.isnan(gain)
            rows.set_label(np.where(known, gain, 0.0))
            rows.set_weight(np.where(known, weights, _UNKNOWN_WEIGHT))
            fit.append(lightgbm.train(settings, rows, trees))
        return cls([fit])

    @classmethod
    def mean(cls, several: Sequence[Trees]) -> Self:
        """Return the mean of several."""
        return cls([fit for each in several for fit in each.fits])

    def scores(self, observations: NDArray[np.float32]) -> NDArray[np.floating]:
        """See :class:`agents.counterfactual.choices.Scorer`: the gains that are expected."""
        seen = np.ascontiguousarray(observations)
        found = [[np.asarray(action.predict(seen, num_threads=1)) for action in fit] for fit in self.fits]
        return np.mean(found, 0).T

    def importance(self, entries: Sequence[str]) -> dict[str, float]:
        """Return the share of each entry of the observation in the squared error that splits took away, the largest first."""
        gained = np.sum([action.feature_importance("gain") for fit in self.fits for action in fit], 0)
        shares = gained / max(gained.sum(), 1e-300)
        return dict(sorted(zip(entries, shares.tolist(), strict=True), key=lambda pair: -pair[1]))

    def save(self, path: Path) -> None:
        """Write them as JSON, whole or not at all; the file holds no code."""
        write_json(path, {"fits": [[action.model_to_string() for action in fit] for fit in self.fits]})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read them.

        Raises:
            TraceError: the file is missing or damaged.
            BundleError: a tree in it is.
        """
        stated = read_json(path, _Stated, f"no trees at {path}")
        try:
            return cls([[lightgbm.Booster(model_str=text) for text in fit] for fit in stated.fits])
        except lightgbm.basic.LightGBMError as error:
            raise BundleError(f"the trees in {path} cannot be read: {shown(str(error), 200)}; fit them anew") from error


@dataclass(frozen=True)
class _Stated:
    __pydantic_config__ = EXACT

    fits: Annotated[tuple[tuple[str, ...], ...], Field(min_length=1)]


class TreeController:
    """Trees as a controller; implements :class:`agents.base.Controller`. It is blind to history, as no tree saw it change."""

    def __init__(self, trees: Trees, actions: Actions, schema: Schema) -> None:
        """See the class."""
        self._trees, self._knobs = trees, actions.matrix(schema)

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`; always the action of the highest gain."""
        seen = np.atleast_2d(np.asarray(observation, np.float32))
        found = self._knobs[self._trees.scores(seen).argmax(1)]
        return (found if np.ndim(observation) > 1 else found[0]), state
