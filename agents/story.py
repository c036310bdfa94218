"""What TensorBoard tells of a training beside its curves: what the policy chose, its way past the rules, and the gaps that it closed.

What does not live here: the means of rollouts (scalars.py, callbacks.py), and what an answer is worth (comparison.py). Made once a
run, told of each validation, and closed with what came of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.comparison import covered_share, mean_of
from agents.evaluation import Answered
from runtime.settings import shown
from synera_env import SettingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BOUNDS = ("clairvoyant", "informed")
"""What a gap can be to."""
_SIGHTS = ("reward", "quality", "seconds", "offload_rate", "cloud_seconds")
_LAYOUT = {
    "story": {
        "validation reward, the best rule, the bounds": ["Multiline", ["story/reward", "story/best_rule", "story/bound_.*"]],
        "share of the gap closed": ["Multiline", ["gaps/.*"]],
        "quality": ["Multiline", ["story/quality"]],
        "offload rate": ["Multiline", ["story/offload_rate"]],
        "terms of the reward": ["Multiline", ["reward_terms/.*"]],
    }
}
"""Of the tab Custom Scalars (its address ends with `#custom_scalars`)."""


class Story:
    """Writes beside a training's own event file, into the same folder, so TensorBoard shows both as one run.

    Each validation gives `story/*` (means over its answers, by the weights of `agents.comparison`), `gaps/NAME_closed` =
    (reward - best rule) / (bound - best rule), a histogram `chosen/KNOB` of each knob over its decisions, and the picture
    `pareto`.
    """

    def __init__(
        self, folder: Path, rules: Mapping[str, Sequence[Answered]], bounds: Mapping[str, float] | None = None
    ) -> None:
        """Begin.

        Args:
            folder: of the run's TensorBoard files.
            rules: by name, what came of each on the plan of the validations; the one with the highest mean reward is the best rule.
                One of which no answer was kept is left out; none at all draws the policy alone.
            bounds: of `BOUNDS`, mean rewards on that plan.

        Raises:
            SettingError: a bound is of another name.
        """
        if unknown := set(bounds or {}) - set(BOUNDS):
            raise SettingError(f"bounds={shown(sorted(unknown))} must be of {', '.join(BOUNDS)}")
        from torch.utils.tensorboard import SummaryWriter  # only who logs waits for it

        self._bounds = dict(bounds or {})
        self._rules = {name: sights(answered) for name, answered in rules.items() if covered_share(answered)}
        self._best = max((each["reward"] for each in self._rules.values()), default=None)
        self._path: list[dict[str, float]] = []
        self._writer: Any = SummaryWriter(str(folder))
        self._writer.add_custom_scalars(_LAYOUT)

    def validated(self, steps: int, answered: Sequence[Answered]) -> dict[str, float]:
        """Tell of a validation.

        Args:
            steps: of training so far, as the run counts them.
            answered: what came of its plan.

        Returns:
            What was written as scalars, by tag; nothing where no answer was kept.
        """
        if not covered_share(answered):
            return {}
        found = sights(answered)
        self._path.append(found)
        told = {f"story/{name}": value for name, value in found.items()} | self._compared(found["reward"])
        for tag, value in told.items():
            self._writer.add_scalar(tag, value, steps)
        for name, values in chosen(answered).items():
            self._writer.add_histogram(f"chosen/{name}", values, steps)
        self._writer.add_figure("pareto", self._picture(), steps)
        self._writer.flush()
        return told

    def ended(self, configuration: Mapping[str, Any], reward: float) -> None:
        """Tell what came of it, for the tab HParams, and close.

        Args:
            configuration: settings by name; what is neither a number nor a text is written as text.
            reward: on validation, of the weights that were kept.
        """
        plain = {
            name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in configuration.items()
        }
        self._writer.add_hparams(plain, {"hparam/validation_reward": reward}, run_name=".")
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _compared(self, reward: float) -> dict[str, float]:
        told = {f"story/bound_{name}": bound for name, bound in self._bounds.items()}
        if self._best is None:
            return told
        gaps = {name: bound - self._best for name, bound in self._bounds.items()}
        closed = {f"gaps/{name}_closed": (reward - self._best) / gap for name, gap in gaps.items() if gap > 0}
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


def chosen(answered: Sequence[Answered]) -> dict[str, np.ndarray]:
    """Return each knob's values over the decisions of the answers that were kept, by its name."""
    knobs = [record.knobs for each in answered if each.metrics is not None for record in each.records]
    return (
        {each.name: np.array([getattr(one, each.name) for one in knobs], float) for each in fields(knobs[0])} if knobs else {}
    )
