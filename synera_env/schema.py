"""A decision problem as rows: one row a knob that a controller sets, one row a feature that it sees.

Spaces, encoder, hash, tables, bundle metadata and search grids are made of the rows. What does not live here: the rows
of a system (synera/schema.py), rewards and worlds.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from synera_env.reward import Preference

_WEIGHT_DECADES = 2.0  # a weight of 0 is then far from the default, but no further than a network can tell


@dataclass(frozen=True)
class Knob:
    """One entry of an action, and the field of the system's knobs that it sets."""

    name: str
    low: float
    high: float
    unit: str
    meaning: str
    grid: tuple[float, ...]
    """Values that a search tries, the most telling first; the first is the setting of a search that leaves the knob alone."""
    integer: bool = False
    """Only the whole numbers low..high, which share the action's range in equal parts."""

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"knob {self.name}: low={self.low} is above high={self.high}")
        if not self.grid or any(not self.low <= value <= self.high for value in self.grid):
            raise ValueError(f"knob {self.name}: its grid {self.grid} must hold values in {self.low:g}..{self.high:g}")

    @property
    def _values(self) -> int:
        return int(self.high) - int(self.low) + 1

    def value(self, share: float) -> float | int:
        """Turn a place in the action's range, 0..1, into a value."""
        return knob_value(share, self.low, self.high, self.integer)

    def share(self, value: float) -> float:
        """Inverse of :meth:`value`: the middle of an integer's part. A negative index counts from the end."""
        if self.integer:
            place = value + self._values if value < 0 else value - self.low
            return (place + 0.5) / self._values
        return (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5


def knob_value(share: float, low: float, high: float, integer: bool) -> float | int:
    """Return a knob's value at a place in the action's range, 0..1; whole numbers share it in equal parts."""
    if integer:
        values = int(high) - int(low) + 1
        return int(low) + min(int(share * values), values - 1)
    return low + share * (high - low)


@dataclass(frozen=True)
class Feature:
    """One or several like entries of an observation, and how they are read off what a device knows."""

    name: str
    unit: str
    low: float
    high: float
    meaning: str
    extract: Callable[[Any], float | Sequence[float] | NDArray[np.floating]] = field(compare=False)
    """(view) to the value, or to `size` values."""
    size: int = 1
    group: str = ""
    """Neighbouring rows of one group, all of one size, lie interleaved: first the first entries of all, then the second
    ones, so that what is known of one token or one chunk is side by side."""
    center: float = 0.5
    """What a network is shown as 0; the default suits what lies in 0..1. Fixed, so that a value which training seldom meets
    is not blown up by a small variance."""
    scale: float = 0.5
    """How far from there a network is shown as 1."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.center) and 0 < self.scale < math.inf):
            raise ValueError(f"feature {self.name}: center={self.center} must be finite, and scale={self.scale} above 0")

    @property
    def entries(self) -> tuple[str, ...]:
        """Names of its entries."""
        return (self.name,) if self.size == 1 else tuple(f"{self.name}[{i}]" for i in range(self.size))


@dataclass(frozen=True)
class View:
    """What extractors are given; a system may subclass it to derive once what several features show."""

    point: Any
    """The decision point."""
    records: Sequence[Any]
    """Of the answer so far."""
    preference: Preference


def log_weight(weight: float, low: float) -> float:
    """Return how a weight is shown: log10; one of 0 as `low`."""
    return math.log10(weight) if weight > 0 else low


def preference_features() -> list[Feature]:
    """Rows that show the weights of the reward; every system needs them for a policy that serves any preference."""

    def row(name: str) -> Feature:
        default = math.log10(getattr(Preference(), name))
        low, high = default - _WEIGHT_DECADES, default + _WEIGHT_DECADES

        def extract(view: View) -> float:
            return log_weight(getattr(view.preference, name), low)

        meaning = f"preference weight of {name}; beyond a hundredth or a hundred times the default it is shown as that"
        return Feature(f"weight_{name}", "log10", low, high, meaning, extract, center=default, scale=math.log10(3.0))

    return [row(f.name) for f in fields(Preference)]


class Schema:
    """What a controller of one system sees and sets; the same object in training and on a device.

    Stateless: an observation comes from the decision point, the records so far and the preference.
    """

    def __init__(
        self,
        system: str,
        knobs: Sequence[Knob],
        features: Sequence[Feature],
        *,
        make_knobs: Callable[..., Any],
        first_knobs: Any,
        presets: Mapping[str, Any],
        view: Callable[[Any, Sequence[Any], Preference], View] = View,
        searches: Sequence[Mapping[str, int]] = (),
        choices: Sequence[Any] = (),
        impossible: Callable[[Any, Any], bool] = lambda point, knobs: False,
    ) -> None:
        """See the class.

        Args:
            system: name of the system.
            knobs: rows, in the order of the action.
            features: rows, in the order of the observation.
            make_knobs: makes the system's knobs of one keyword argument a row.
            first_knobs: rule what happens before the first decision.
            presets: settings that deserve a name, as rules.
            view: makes of (point, records, preference) what the extractors are given.
            searches: sub-grids of a search: how many values of which knobs are crossed, the others at their first; none
                crosses all values of all knobs.
            choices: settings that a discrete action chooses from; none takes those of the searches.
            impossible: (decision point, knobs) to whether the knobs ask for what cannot be done there.

        Raises:
            ValueError: two rows share a name, rows of a group differ in size, or a search names no row.
        """
        self.system, self.rows, self.features = system, tuple(knobs), tuple(features)
        self.first_knobs, self.presets = first_knobs, dict(presets)
        self._make_knobs, self._view, self._searches = make_knobs, view, tuple(searches)
        self._choices, self.impossible = tuple(choices), impossible
        for names in ([row.name for row in self.rows], [row.name for row in self.features]):
            if twice := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"schema {system}: more than one row is named {', '.join(sorted(twice))}")
        if unknown := {name for search in self._searches for name in search} - {row.name for row in self.rows}:
            raise ValueError(f"schema {system}: a search names {sorted(unknown)}, which is no knob")
        sizes = [row.size for row in self.features]
        self.order = _order(self.features)
        """[entries]: which of the rows' values, one row after the other, each entry is."""
        self.low = np.repeat(np.array([row.low for row in self.features], np.float32), sizes)[self.order]
        self.high = np.repeat(np.array([row.high for row in self.features], np.float32), sizes)[self.order]
        self.center = np.repeat(np.array([row.center for row in self.features], np.float32), sizes)[self.order]
        """[entries]: what a network is shown as 0."""
        self.scale = np.repeat(np.array([row.scale for row in self.features], np.float32), sizes)[self.order]
        """[entries]: how far from there is shown as 1."""

    @property
    def observation_space(self) -> spaces.Box:
        """One entry or more a feature row, in order."""
        return spaces.Box(self.low, self.high, dtype=np.float32)

    @property
    def action_space(self) -> spaces.Box:
        """One entry a knob row, in order, each in -1..1."""
        return spaces.Box(-1.0, 1.0, (len(self.rows),), np.float32)

    @property
    def entries(self) -> tuple[str, ...]:
        """Names of the observation's entries."""
        entries = [entry for row in self.features for entry in row.entries]
        return tuple(entries[i] for i in self.order)

    def places(self, row: str) -> NDArray[np.intp]:
        """Where in an observation the entries of a feature row lie; none where there is no such row."""
        entries = {entry for feature in self.features if feature.name == row for entry in feature.entries}
        return np.array([place for place, entry in enumerate(self.entries) if entry in entries], np.intp)

    def knobs(self, action: NDArray[np.floating]) -> Any:
        """Map an action in -1..1 to knobs; values outside are clipped."""
        shares = [(min(max(x, -1.0), 1.0) + 1.0) / 2.0 for x in np.asarray(action, float).tolist()]
        return self._make_knobs(**{row.name: row.value(share) for row, share in zip(self.rows, shares, strict=True)})

    def action(self, knobs: Any) -> NDArray[np.float32]:
        """Inverse of :meth:`knobs`; integers lie at the middle of their part."""
        shares = [row.share(getattr(knobs, row.name)) for row in self.rows]
        return (2.0 * np.array(shares) - 1.0).astype(np.float32)

    def encode(self, point: Any, records: Sequence[Any], preference: Preference) -> NDArray[np.float32]:
        """Return the observation, float32 [entries], clipped to the rows' bounds."""
        view = self._view(point, records, preference)
        values: list[float] = []
        for row in self.features:
            found = row.extract(view)
            if row.size == 1:
                values.append(found)  # type: ignore[arg-type]
            else:
                values.extend(found)  # type: ignore[arg-type]
        if len(values) != len(self.order):
            raise ValueError(
                f"schema {self.system}: {len(values)} values for {len(self.order)} entries; an extractor gave too many or too few"
            )
        return np.minimum(np.maximum(np.fromiter(values, np.float32)[self.order], self.low), self.high)

    def grid(self) -> list[Any]:
        """Return the settings that a search tries, each once: the crossings of the rows' grids, then the presets."""
        searches = self._searches or ({row.name: len(row.grid) for row in self.rows},)
        crossed = [setting for search in searches for setting in self._crossed(search)]
        # By what they do as an action: an index counted from the end is the same setting as one counted from the start.
        by_action = {self.action(setting).tobytes(): setting for setting in [*crossed, *self.presets.values()]}
        return list(by_action.values())

    @cached_property
    def choices(self) -> tuple[Any, ...]:
        """The settings that a discrete action chooses from, by its number."""
        return self._choices or tuple(self.grid())

    def _crossed(self, search: Mapping[str, int]) -> Iterator[Any]:
        values = [row.grid[: search.get(row.name, 1)] for row in self.rows]
        for combination in itertools.product(*values):
            yield self._make_knobs(**{row.name: value for row, value in zip(self.rows, combination, strict=True)})

    # ------------------------------------------------------------ description

    def describe(self) -> dict[str, list[dict[str, Any]]]:
        """The rows as plain data, in order; what a bundle states, and what the hash is of."""
        knobs = [{"name": k.name, "low": k.low, "high": k.high, "unit": k.unit, "integer": k.integer} for k in self.rows]
        stated = ("name", "low", "high", "unit", "size", "group", "center", "scale")
        features = [{name: getattr(f, name) for name in stated} for f in self.features]
        return {"knobs": knobs, "features": features}

    @cached_property
    def hash(self) -> str:
        """Changes with the system and with any row's name, bounds, unit, kind, size, scale or place; not with prose or grids."""
        return hashlib.sha256(json.dumps([self.system, self.describe()]).encode()).hexdigest()[:16]

    def difference(self, stated: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
        """Say where another schema's :meth:`describe` first differs from this one; empty when it does not."""
        for kind, ours in self.describe().items():
            theirs = [dict(row) for row in stated.get(kind, ())]
            for place, (one, other) in enumerate(itertools.zip_longest(ours, theirs)):
                if one != other:
                    return f"{kind} row {place}: {_row(other)} there, {_row(one)} here"
        return ""

    def knob_table(self) -> str:
        """The knobs as a Markdown table."""
        lines = [f"| {i} | `{k.name}` | {_span(k)} | {k.unit} | {k.meaning} |" for i, k in enumerate(self.rows)]
        return "\n".join(["| # | knob | values | unit | meaning |", "|---|---|---|---|---|", *lines])

    def choice_table(self) -> str:
        """The choices of a discrete action as a Markdown table."""
        names = [row.name for row in self.rows]
        lines = [f"| {i} | {' | '.join(f'{getattr(c, name):g}' for name in names)} |" for i, c in enumerate(self.choices)]
        return "\n".join([f"| # | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|", *lines])

    def feature_table(self) -> str:
        """The features as a Markdown table, with the place of each row's entries in the observation."""
        place = {entry: i for i, entry in enumerate(self.entries)}
        lines = []
        for f in self.features:
            first, last = place[f.entries[0]], place[f.entries[-1]]
            if f.size == 1:
                where = f"{first}"
            elif f.group:
                where = f"{first}, {place[f.entries[1]]} .. {last}"
            else:
                where = f"{first}-{last}"
            lines.append(f"| {where} | `{f.name}` | {f.low:g} | {f.high:g} | {f.unit} | {f.meaning} |")
        return "\n".join(["| # | feature | low | high | unit | meaning |", "|---|---|---|---|---|---|", *lines])


def _order(features: Sequence[Feature]) -> NDArray[np.intp]:
    """Where each entry of the observation comes from, among the values of the rows one after the other."""
    order: list[int] = []
    start = 0
    for _, grouped in itertools.groupby(features, lambda row: row.group or row.name):
        rows = list(grouped)
        sizes = {row.size for row in rows}
        if len(sizes) > 1:
            raise ValueError(f"rows of group {rows[0].group!r} differ in size: {[(row.name, row.size) for row in rows]}")
        size = sizes.pop()
        order += [start + row * size + entry for entry in range(size) for row in range(len(rows))]
        start += len(rows) * size
    return np.array(order, np.intp)


def _span(knob: Knob) -> str:
    return f"{knob.low:g}..{knob.high:g}" + (", whole" if knob.integer else "")


def _row(row: Mapping[str, Any] | None) -> str:
    return "nothing" if row is None else ", ".join(f"{key} {value}" for key, value in row.items())
