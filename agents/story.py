"""What TensorBoard tells of a training beside its curves: what the policy chose, its way past the rules, and the gaps that it closed.

What does not live here: the means of rollouts (scalars.py, callbacks.py), and what an answer is worth (comparison.py). Made once a
run, told of each validation and of what came of it; all goes into the run's one event file, so that TensorBoard follows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.logger import Figure as Shown
from stable_baselines3.common.logger import HParam, Logger, TensorBoardOutputFormat, configure

from agents.comparison import answer_weights, covered_share, mean_of
from agents.evaluation import Answered, PlannedAnswer
from agents.gaps import LEAST_GAP
from agents.scalars import LAYOUT
from runtime.settings import shown
from synera_env import SettingError
from synera_env.reward import TERMS, priced

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BOUNDS = ("clairvoyant", "informed")
"""What a gap can be to."""
_SIGHTS = ("reward", "quality", "seconds", "offload_rate", "cloud_seconds")


@contextmanager
def tensorboard(folder: Path) -> Iterator[Logger]:
    """What a training tells TensorBoard, in the folder's `tb`: it begins with the layout, and is closed however the block ends."""
    logger = configure(str(folder / "tb"), ["tensorboard"])
    try:
        for output in logger.output_formats:
            if isinstance(output, TensorBoardOutputFormat):
                output.writer.add_custom_scalars(LAYOUT)
        yield logger
    finally:
        logger.close()


class Story:
    """Tells of the validations of a training.

    Each gives `story/*` (means over its answers, by the weights of `agents.comparison`; `story/term_*` are the terms of
    the reward, whose sum it is), `gaps/NAME_closed` = (reward - best rule) / (bound - best rule) where that gap is
    one, a histogram `chosen/KNOB` of each knob over its decisions, and the picture `pareto`.
    """

    def __init__(
        self,
        plan: Sequence[PlannedAnswer],
        rules: Mapping[str, Sequence[Answered]],
        bounds: Mapping[str, float] | None = None,
    ) -> None:
        """Begin.

        Args:
            plan: of the validations.
            rules: by name, what came of each on that plan; the one with the highest mean reward is the best rule.
                One of which no answer was kept is left out; none at all draws the policy alone.
            bounds: of `BOUNDS`, mean rewards on that plan.

        Raises:
            SettingError: a bound is of another name.
        """
        if unknown := set(bounds or {}) - set(BOUNDS):
            raise SettingError(f"bounds={shown(sorted(unknown))} must be of {', '.join(BOUNDS)}")
        self._plan, self._bounds = plan, dict(bounds or {})
        self._rules = {name: sights(answered) for name, answered in rules.items() if covered_share(answered)}
        self._best = max((each["reward"] for each in self._rules.values()), default=None)
        self._path: list[dict[str, float]] = []

    def validated(self, answered: Sequence[Answered], told_whole: Sequence[Answered], logger: Logger) -> dict[str, float]:
        """Tell of a validation; whoever dumps the logger says after how many steps it was.

        Args:
            answered: what came of the plan.
            told_whole: some of the answers with their records, for the knobs.
            logger: gets it.

        Returns:
            What was told as scalars, by tag; nothing where no answer was kept.
        """
        if not covered_share(answered):
            return {}
        found = sights(answered)
        self._path.append(found)
        terms = {f"story/term_{name}": value for name, value in terms_of(answered, self._plan).items()}
        told = {f"story/{name}": value for name, value in found.items()} | terms | self._compared(found["reward"])
        for tag, value in told.items():
            logger.record(tag, value)
        for name, values in chosen(told_whole).items():
            logger.record(f"chosen/{name}", values)
        logger.record("pareto", Shown(self._picture(), close=True))
        return told

    def ended(self, configuration: Mapping[str, Any], results: Mapping[str, float], logger: Logger) -> None:
        """Tell what came of it, for the tab HParams; to be dumped.

        Args:
            configuration: settings by name, one in another with a dot; what is neither a number nor a text is told as text.
            results: by name.
            logger: gets it.
        """
        metrics = {f"hparam/{name}": value for name, value in results.items()}
        for tag, value in metrics.items():
            logger.record(tag, value)
        logger.record("hparams", HParam(_flat(configuration), metrics))

    def _compared(self, reward: float) -> dict[str, float]:
        told = {f"story/bound_{name}": bound for name, bound in self._bounds.items()}
        if self._best is None:
            return told
        gaps = {name: bound - self._best for name, bound in self._bounds.items()}
        closed = {f"gaps/{name}_closed": (reward - self._best) / gap for name, gap in gaps.items() if gap >= LEAST_GAP}
        return told | {"story/best_rule": self._best} | closed

    def _picture(self) -> Figure:
        """Quality against seconds and against the share of chunks that are sent: the rules, and the policy from pale to dark."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 4), layout="constrained")
        for axes, name, what in zip(
            figure.subplots(1, 2, sharey=True), ("seconds", "offload_rate"), ("s/answer", "offload rate"), strict=True
        ):
            for rule, at in self._rules.items():
                axes.plot(at[name], at["quality"], "s", color="grey")
                axes.annotate(rule, (at[name], at["quality"]), fontsize=7, xytext=(4, 4), textcoords="offset points")
            along, up = ([each[of] for each in self._path] for of in (name, "quality"))
            axes.plot(along, up, color="tab:blue", alpha=0.3)
            axes.scatter(along, up, c=range(len(up)), cmap="Blues", vmin=-len(up), edgecolors="tab:blue")
            axes.set(xlabel=what, ylabel="quality")
        return figure


def sights(answered: Sequence[Answered]) -> dict[str, float]:
    """Return the means that the story is told in, of answers of which at least one was kept."""
    return {name: mean_of(answered, name) for name in _SIGHTS}


def terms_of(answered: Sequence[Answered], plan: Sequence[PlannedAnswer]) -> dict[str, float]:
    """Return the mean of each term of the reward over the answers of a plan, of which at least one was kept."""
    paid = np.zeros((len(answered), len(TERMS)))
    for row, each, planned in zip(paid, answered, plan, strict=True):
        if each.metrics is not None:
            m = each.metrics
            row[:] = priced(
                m.quality,
                m.seconds,
                m.cloud_seconds,
                m.joules,
                m.uplink_bytes + m.downlink_bytes,
                *planned.preference.weights,
            )
    return dict(zip(TERMS, np.average(paid, 0, answer_weights(answered)).tolist(), strict=True))


def chosen(answered: Sequence[Answered]) -> dict[str, np.ndarray]:
    """Return each knob's values over the decisions of the answers that were kept, by its name."""
    knobs = [record.knobs for each in answered if each.metrics is not None for record in each.records]
    return (
        {each.name: np.array([getattr(one, each.name) for one in knobs], float) for each in fields(knobs[0])} if knobs else {}
    )


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, bool | str | float | None]:
    """Values that the tab can hold, by their names with those above them."""
    found: dict[str, bool | str | float | None] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return found
