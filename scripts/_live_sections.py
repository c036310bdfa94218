"""What is said of answers that were given in replay and live: tables, words and pictures, and the figures as a file has them.

What does not live here: how the answers came about (_live_proof.py), and the forms (_document.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

from pydantic import ConfigDict

from agents.breaks import Adaptation, Breaks
from agents.comparison import Estimate, reward_difference, summarise_answers
from agents.ranking import Ranked, rank_correlation
from agents.worlds import BothWorlds
from scripts import _charts
from scripts._document import Grid, Section, Told
from synera_env import UncoveredError
from synera_env.radio import BROKEN, SOUND, Radio
from traces.schemas import EXACT

_METRICS = (
    ("quality", "quality", 2),
    ("s/answer", "seconds", 2),
    ("offload rate", "offload_rate", 2),
    ("cloud s", "cloud_seconds", 3),
)
_MEANS = ("reward", *(name for _, name, _ in _METRICS), "ttft_seconds", "tbt_mean_seconds", "joules", "lost_chunks")


@dataclass(frozen=True)
class Proof:
    """Answers in both worlds."""

    worlds: BothWorlds
    reference: str
    """Whom the others are held against."""
    devices: int
    """That answered side by side."""
    families: tuple[str, ...]
    """Of the links."""
    breaks: Breaks | None = None
    broken: BothWorlds | None = None
    """Of the plan of the breaks."""
    told: Sequence[Told] = field(default=(), repr=False)
    """Live answers on links that broke."""

    @cached_property
    def ranked(self) -> Ranked:
        """How alike the worlds rank the controllers."""
        return rank_correlation(self.worlds.replayed, self.worlds.live)

    @property
    def live_rewards(self) -> dict[str, float]:
        """Mean live reward, by controller."""
        return {name: live.mean for name, (_, live) in self.ranked.rewards.items()}

    @cached_property
    def summaries(self) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
        """By controller that kept answers in both worlds, and world, its means."""
        return {
            name: {world: summarise_answers(answers) for world, answers in self.worlds.worlds(name).items()}
            for name in self.ranked.rewards
        }

    def minus(self, name: str) -> Estimate | None:
        """Live reward of a controller minus that of the reference."""
        if name == self.reference or self.reference not in self.worlds.live:
            return None
        return reward_difference(self.worlds.live[name], self.worlds.live[self.reference])

    @cached_property
    def adaptations(self) -> Mapping[str, Mapping[str, Adaptation]]:
        """By controller and world, what it made of the links that broke."""
        if self.breaks is None or self.broken is None:
            return {}
        found = {}
        for name in self.broken.live:
            with suppress(UncoveredError):  # nothing can be said of it, which the words below the table do say
                found[name] = {world: self.breaks.adaptation(answers) for world, answers in self.broken.worlds(name).items()}
        return found


def sections_of(proof: Proof) -> list[Section]:
    """Return what a report has of it."""
    found = [Section("Replay against live", said_of(proof), [worlds_table(proof)], [_charts.worlds(proof.ranked)])]
    if proof.adaptations:
        found.append(Section("A link that breaks", (breaks_said(proof),), [breaks_table(proof)], answers=proof.told))
    return found


def said_of(proof: Proof) -> list[str]:
    """Return what was done, and what came of it, a sentence each."""
    ranked, answers = proof.ranked, len(next(iter(proof.worlds.live.values())))
    share = sum(each.tokens_identical for each in proof.worlds.agreements.values()) / len(proof.worlds.agreements)
    text = [
        f"{answers} answers of each controller, the same plan in replay and live, on links of the families {', '.join(proof.families)}; live: "
        f"{proof.devices} devices at a time on one verifier, paced to the profiles, the link emulated.",
        f"Spearman's rank correlation of mean rewards over {len(ranked.rewards)} controllers, interval by prompt: {ranked.correlation:.3f}.",
        f"Live answers whose tokens the replay reproduces from the live knobs: {share:.3f}.",
    ]
    if ranked.left_out:
        text.append(f"Without answers in one of the worlds: {', '.join(ranked.left_out)}.")
    return text


def worlds_table(proof: Proof) -> Grid:
    """Controllers, the best live one first."""
    rows = []
    for name, (replay, live) in sorted(proof.ranked.rewards.items(), key=lambda each: -each[1][1].mean):
        minus, means = proof.minus(name), proof.summaries[name]
        rows.append(
            [
                *(name, f"{replay.mean:.3f}", f"{live:.3f}", "-" if minus is None else f"{minus:+.3f}"),
                *(" / ".join(f"{means[world][metric]:.{digits}f}" for world in means) for _, metric, digits in _METRICS),
            ]
        )
    header = (
        *("controller", "reward, replay", "reward, live", f"live minus {proof.reference}"),
        *(f"{what}, replay / live" for what, *_ in _METRICS),
    )
    return Grid("Replay and live", header, rows, "Intervals, 95 %, by prompt.")


def breaks_said(proof: Proof) -> str:
    """Return what breaks, how the table is to be read, and who is not in it."""
    silent = [name for name in proof.worlds.live if name not in proof.adaptations]
    left_out = f" Without answers in one of the worlds: {', '.join(silent)}." if silent else ""
    return (
        f"Each answer twice: on a link that holds ({_speed(SOUND)}), and on one that becomes {_speed(BROKEN)} halfway through what the device "
        "alone takes for the answer. Offload rates are of the chunks that were begun before and after that time; beside them, of those begun after "
        f"it where the link holds. Differences are the broken link minus the one that holds, intervals by prompt.{left_out}"
    )


def _speed(radio: Radio) -> str:
    return f"{radio.trace.rtt_ms[0]:g} ms, {radio.trace.uplink_mbps[0]:g} Mbit/s"


def breaks_table(proof: Proof) -> Grid:
    """Controllers, as many as kept answers; the one that lost least reward live first."""

    def both(of: Mapping[str, Adaptation], rate: str) -> str:
        found = [getattr(each, rate) for each in of.values()]
        return " / ".join("-" if each is None else f"{each.mean:.2f}" for each in found)

    rows = []
    for name, of in sorted(proof.adaptations.items(), key=lambda each: -each[1]["live"].reward_more.mean):
        replay, live = of["replay"], of["live"]
        rows.append(
            [
                *(name, *(both(of, rate) for rate in ("before", "after", "after_held"))),
                *(f"{replay.seconds_more.mean:+.2f}", f"{live.seconds_more:+.2f}", f"{live.quality_more.mean:+.3f}"),
                *(f"{replay.reward_more.mean:+.3f}", f"{live.reward_more:+.3f}"),
            ]
        )
    header = (
        *("controller", "offloaded before, replay / live", "after, replay / live", "unbroken, replay / live"),
        *("s more, replay", "s more, live", "quality more, live", "reward more, replay", "reward more, live"),
    )
    return Grid("A link that breaks", header, rows)


# ---------------------------------------------------------------- the file


@dataclass(frozen=True)
class LiveResult:
    """What came of one controller."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    means: dict[str, dict[str, float | None]]
    """By world (replay, live) and metric."""
    reward_minus: dict[str, Estimate]
    """Live reward minus that of the reference, by its name."""
    tokens_identical: float
    """Share of its live answers whose tokens the replay reproduces from the live knobs."""
    breaks: dict[str, Adaptation]
    """By world, what it made of links that broke; empty where none did."""


@dataclass(frozen=True)
class LiveFile:
    """The JSON file of a live evaluation; `traces.schemas.read_json` reads it back."""

    __pydantic_config__ = EXACT

    graphs: str
    seed: int
    devices: int
    planned_answers: int
    families: tuple[str, ...]
    controllers: dict[str, LiveResult]
    rank_correlation: dict[str, float | None]
    """Spearman's: mean, low and high; null where all are tied."""
    format_version: int = 1


def results_of(proof: Proof) -> dict[str, LiveResult]:
    """Return what came of the controllers."""
    found = {}
    for name, means in proof.summaries.items():
        minus = proof.minus(name)
        found[name] = LiveResult(
            means={world: {metric: of[metric] for metric in _MEANS} for world, of in means.items()},
            reward_minus={} if minus is None else {proof.reference: minus},
            tokens_identical=proof.worlds.agreements[name].tokens_identical,
            breaks=dict(proof.adaptations.get(name, {})),
        )
    return found
