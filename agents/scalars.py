"""What TensorBoard shows of decisions and answers, and under which tags: the same for a training and for a live run.

What does not live here: who gathers them (callbacks.py, live_run.py), what validations add (story.py), and what a metric is
(synera_env/metrics.py).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.settings import plain
from synera_env import Preference, StepRecord
from synera_env.metrics import Charged, cost_of
from synera_env.reward import reward_terms

CONFIGURATION = "run/configuration"
"""Tag of the text that says how a run is configured."""
GROUPS = ("episode", "reward_terms", "knobs")
"""First parts of the tags of :class:`Means`."""
_LONGEST_VALUE = 500
LAYOUT = {
    "story": {
        "reward, the best rule, the bounds": [
            "Multiline",
            ["story/reward", "story/best_rule", "story/bound_.*", "episode/reward"],
        ],
        "share of the gap closed": ["Multiline", ["gaps/.*"]],
        "quality": ["Multiline", ["story/quality", "episode/quality"]],
        "seconds an answer": ["Multiline", ["story/seconds", "episode/seconds"]],
        "offload rate": ["Multiline", ["story/offload_rate", "episode/offload_rate"]],
        "terms of the reward": ["Multiline", ["story/term_.*", "reward_terms/.*"]],
    }
}
"""Of the tab Custom Scalars (its address ends with `#custom_scalars`): `story/*` and `gaps/*` are of a training's validations, the
others of its rollouts or of a live run, which so stand side by side."""


class _Mean:
    """Of values that come by and by."""

    def __init__(self) -> None:
        self._total, self._count = 0.0, 0

    def saw(self, values: NDArray[np.floating]) -> None:
        self._total, self._count = self._total + float(values.sum()), self._count + values.size

    @property
    def value(self) -> float:
        return self._total / self._count


class Means:
    """Gathers decisions and answers until they are taken, as means by tag.

    `knobs/*` are by decision; `episode/*` (every metric, and the rate of those that left the recorded graphs) by answer,
    and so are `reward_terms/*`, whose sums wait for an answer to end. What left has no part in any but that rate.
    """

    def __init__(self) -> None:
        self._knobs: dict[str, _Mean] = defaultdict(_Mean)
        self._metrics: dict[str, _Mean] = defaultdict(_Mean)
        self._terms: dict[str, float] = defaultdict(float)
        self._ended = self._uncovered = 0

    def decided(self, knobs: Mapping[str, float]) -> None:
        """Count a decision."""
        for name, value in knobs.items():
            self._knobs[name].saw(np.asarray(value))

    def decided_by_all(self, knobs: Mapping[str, NDArray[np.float64]]) -> None:
        """Count a decision of each of many rows."""
        for name, values in knobs.items():
            self._knobs[name].saw(values)

    def paid(self, terms: Mapping[str, float]) -> None:
        """Count what a decision earned, by term of the reward; of an answer that does not leave the recorded graphs."""
        for name, value in terms.items():
            self._terms[name] += value

    def ended(self, metrics: Mapping[str, float] | None) -> None:
        """Count an answer.

        Args:
            metrics: the fields of its `synera_env.EpisodeMetrics`, those that nobody can tell being NaN; None where it
                left the recorded graphs.
        """
        self.all_ended({name: np.array([value]) for name, value in (metrics or {}).items()}, int(metrics is None))

    def all_ended(self, metrics: Mapping[str, NDArray[np.float64]], left: int) -> None:
        """Count many answers.

        Args:
            metrics: of those inside the recorded graphs, by name, [answers] each; see :meth:`ended`.
            left: how many others left them.
        """
        self._ended += left + len(next(iter(metrics.values()), ()))
        self._uncovered += left
        for name, values in metrics.items():
            known = values[~np.isnan(values)]
            if known.size:
                self._metrics[name].saw(known)

    def take(self) -> dict[str, float]:
        """Return the means by tag, and start over; what nothing is known of has no tag."""
        found = {f"knobs/{name}": mean.value for name, mean in self._knobs.items()}
        self._knobs.clear()
        if self._ended:
            found |= {f"episode/{name}": mean.value for name, mean in self._metrics.items()}
            found["episode/uncovered_rate"] = self._uncovered / self._ended
        if inside := self._ended - self._uncovered:
            found |= {f"reward_terms/{name}": total / inside for name, total in self._terms.items()}
            self._terms.clear()
        if self._ended:
            self._metrics.clear()
            self._ended = self._uncovered = 0
        return found


def paid_by_step(
    records: Sequence[StepRecord], quality: float, preference: Preference, charged: Charged = cost_of
) -> Iterator[dict[str, float]]:
    """The reward's terms by step, as the environment pays them; without that of a quality that nobody can tell, NaN.

    Args:
        records: of an answer.
        quality: its task score.
        preference: the weights.
        charged: what the reward charges for a record.
    """
    known = quality == quality
    for number, record in enumerate(records, 1):
        terms = reward_terms(charged(record), quality if known and number == len(records) else 0.0, preference)
        yield terms if known else {name: value for name, value in terms.items() if name != "quality"}


def configuration_table(configuration: Mapping[str, Any]) -> str:
    """Return a run's configuration as a Markdown table, a row a value, nested names joined by dots."""
    rows = [f"| {_cell(name)} | {_cell(value)} |" for name, value in _flat(configuration)]
    return "\n".join(["| setting | value |", "|---|---|", *rows])


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _cell(text: str) -> str:
    """Text that stays in its cell, and is shown as it is."""
    shown = plain(text, _LONGEST_VALUE).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{c}" if c in r"\`*_{}[]|" else c for c in shown)
