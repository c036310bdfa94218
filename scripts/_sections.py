"""What the report of a contest says: its tables, pictures and words, and the tidy CSV.

What does not live here: the figures (agents/), the forms (_document.py), who answered (_grid.py), and live answers (_live_sections.py).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agents.aggregates import Means, aggregates_of, scores_of
from agents.comparison import ADVICE, ENOUGH, Estimate, covered_share
from agents.contest import MEASURES, ONLY, Contest
from agents.fronts import SYNERA_QUALITY, SYNERA_SAVED, on_par
from agents.gaps import Bounds, closed
from scripts import _charts
from scripts._document import Document, Grid, Section, Told
from scripts._live_sections import Proof, sections_of
from synera_env import UncoveredError

CSV_HEADER = (
    *("controller", "seed", "scenario", "link", "load", "preference", "kind", "measure"),
    *("mean", "low", "high", "answers", "uncovered"),
)
_ALL = "all"
_METHOD = (
    "Every controller answered the same plan in every scenario (same prompts, links, offsets, outages and draws of the cloud's waits).",
    "Means count each prompt, scenario and training seed once. Intervals, 95 %, resample training seeds and prompts (crossed; ours): a "
    "controller without seeds has an interval over prompts alone.",
)


@dataclass(frozen=True)
class Matter:
    """What a report is of."""

    contest: Contest
    reference: str
    """Whom the others are held against."""
    ours: tuple[str, ...]
    """Whose fronts and shares are reported."""
    title: str
    setting: Sequence[str]
    """What the worlds are made of, a sentence each."""
    bounds: Bounds | None = None
    live: Proof | None = None
    """Answers to one plan in replay and live."""
    told: Sequence[Told] = ()
    tuned: Sequence[Grid] = ()
    """What was searched for whom."""


def document_of(matter: Matter) -> tuple[Document, Means]:
    """Return the report, and the means that it is made of."""
    means, contest = Means(matter.contest), matter.contest
    ranked = [(name, each) for name in contest.answered if (each := means.estimate(name)) is not None]
    ranked.sort(key=lambda each: each[1].mean)
    sections = [_summary(matter, means, ranked), _aggregated(matter), _scenarios(matter, means, ranked), _papers(matter, means)]
    if matter.bounds is not None:
        sections.append(_gaps(matter, means, matter.bounds))
    if matter.live is not None:
        sections += sections_of(matter.live)
    if matter.told:
        text = ("Each token in the colour of where it comes from; the picture has the same over time.",)
        sections.append(Section("Answers, token by token", text, answers=matter.told))
    sure = [each for each in ranked if 1 - means.uncovered(each[0]) >= ENOUGH]
    best = (
        f"Highest mean reward: {sure[-1][0]}, {sure[-1][1]:.3f}."
        if sure
        else f"No controller kept {ENOUGH:.0%} of its answers."
    )
    return Document(matter.title, (best, *matter.setting, *_METHOD), sections), means


# ---------------------------------------------------------------- sections


def _summary(matter: Matter, means: Means, ranked: Sequence[tuple[str, Estimate]]) -> Section:
    rows = []
    for name, reward in reversed(ranked):
        seeds = [seed for seed in matter.contest.answered[name] if seed != ONLY]
        minus = None if name == matter.reference else means.difference(name, matter.reference)
        others = [
            means.estimate(name, measure) for measure in ("quality", "seconds", "offload_rate", "cloud_seconds", "joules")
        ]
        figures = [_of(each, 3) for each in others]
        rows.append(
            [name, str(len(seeds) or "-"), _of(reward, 3), _of(minus, 3, "+"), *figures, f"{means.uncovered(name):.3f}"]
        )
    header = [
        *("controller", "seeds", "reward", f"minus {matter.reference}", "quality", "s/answer", "offload rate", "cloud s"),
        *("joules", "uncovered"),
    ]
    table = Grid(f"All {len(matter.contest.scenarios)} scenarios", header, rows)
    known = {name for name, _ in ranked}
    silent = [name for name in matter.contest.answered if name not in known]
    lost = [name for name in known if means.uncovered(name)]
    text = [f"{name} keeps no answer in some scenario; nothing can be said of it over all of them." for name in silent]
    if lost:
        text.append(f"Answers that left the recorded graphs (column uncovered) are stood for by those kept; {ADVICE}.")
    if poor := [name for name, _ in ranked if 1 - means.uncovered(name) < ENOUGH]:
        text.append(f"On less than {ENOUGH:.0%} of the answers, so with care: {', '.join(poor)}.")
    tables = [table, *([_held_against(matter, means, ranked)] if len(ranked) > len(matter.ours) else [])]
    return Section("Summary", text, tables, [_charts.rewards(ranked)] if ranked else [])


def _held_against(matter: Matter, means: Means, ranked: Sequence[tuple[str, Estimate]]) -> Grid:
    """Ours minus each of the others."""
    ours = [name for name in matter.ours if name in dict(ranked)]
    others = [name for name, _ in reversed(ranked) if name not in ours]
    rows = [[other, *(_of(means.difference(name, other), 3, "+") for name in ours)] for other in others]
    return Grid("Reward of ours minus each other's", ["minus", *ours], rows)


def _aggregated(matter: Matter) -> Section:
    """Rliable's figures, where there are tasks to speak of."""
    try:
        scores = scores_of(matter.contest)
    except UncoveredError as error:
        return Section("Aggregates over tasks", (f"None: {error}.",))
    pairs = [(name, matter.reference) for name in matter.contest.answered if name != matter.reference]
    found = aggregates_of(scores, pairs)
    ordered = sorted(found.iqm.items(), key=lambda each: -each[1].mean)
    rows = [[name, _of(iqm, 3), _of(found.improvement.get((name, matter.reference)), 3)] for name, iqm in ordered]
    header = ("controller", "interquartile mean", f"probability of improvement over {matter.reference}")
    text = [
        f"Matrix of {scores.runs} runs x {len(scores.tasks)} tasks. A task is a kind of task in a scenario. A run is a training seed on a share "
        f"of the prompts: those of a kind are dealt out to {scores.runs} runs; rules, which have no seeds, answer those of each. A score is the "
        "run's mean reward in the task, scaled so that 0 is the least and 1 the greatest mean of an untrained controller there.",
    ]
    if scores.left_out:
        text.append(
            f"{len(scores.left_out)} tasks are left out, as untrained controllers hardly differ there, or one kept nothing."
        )
    if scores.silent:
        text.append(f"Left out, as they kept nothing in half of the tasks: {', '.join(scores.silent)}.")
    note = "Metrics of rliable (Agarwal et al., 2021); intervals by its stratified bootstrap over runs."
    return Section("Aggregates over tasks", text, [Grid("rliable", header, rows, note)], [_charts.aggregates(found)])


def _scenarios(matter: Matter, means: Means, ranked: Sequence[tuple[str, Estimate]]) -> Section:
    names = [name for name, _ in reversed(ranked)]
    rows = []
    for scenario in matter.contest.scenarios:
        cells = [means.estimate(name, scenarios=[scenario.name]) for name in names]
        rows.append([scenario.name, *("-" if each is None else f"{each.mean:.3f}" for each in cells)])
    others = [name for name in names if name != matter.reference]
    pictures = [_charts.differences(means, others, matter.reference)] if others and matter.reference in names else []
    return Section("By scenario", (), [Grid("Mean reward", ["scenario", *names], rows), *matter.tuned], pictures)


def _papers(matter: Matter, means: Means) -> Section:
    """In the papers' terms."""
    tables = []
    for ours in matter.ours:
        rows = []
        for baseline in matter.contest.answered:
            if baseline in matter.ours:
                continue
            for kind in (None, *matter.contest.kinds):
                if (found := on_par(means, ours, baseline, kind)) is None:
                    continue
                ratio = _of(found.quality_ratio, 2) if found.quality_ratio else "not as fast"
                saved = _of(found.saved_cloud, 3) if found.saved_cloud else "-"
                rows.append([baseline, kind or _ALL, _of(found.quality, 3), _of(found.seconds, 2), ratio, saved])
        header = (
            "baseline",
            "kind",
            "its quality",
            "its s/answer",
            "quality at on-par latency, times its",
            "cloud cost saved at equal quality",
        )
        tables.append(Grid(f"{ours} against each baseline", header, rows))
    low, high = SYNERA_QUALITY
    less, more = SYNERA_SAVED
    text = (
        "A controller has an operating point a preference, its mean over links and loads; between two points lies a random mix of both. Quality "
        "at on-par latency: what the front of ours reaches within the baseline's seconds. Cloud cost at equal quality: the least cloud seconds "
        "in which it reaches the baseline's quality. Baselines are taken at the first preference. Definitions are ours.",
        f"Synera's abstract states {low:.2f} to {high:.2f} times the baselines' quality at on-par latency and {less:.1%} to {more:.1%} lower cloud "
        "cost: of its own models, tasks, devices and baselines. The figures here are of this project's replay and stand beside those, they do "
        "not reproduce them.",
    )
    return Section("In the papers' terms", text, tables, [_charts.fronts(means, list(matter.contest.answered))])


def _gaps(matter: Matter, means: Means, bounds: Bounds) -> Section:
    found = closed(means, bounds, matter.reference, tuple(matter.contest.answered))
    rows = [
        [each.controller, each.bound, _of(each.share, 3), str(each.scenarios)]
        for each in found
        if each.controller != matter.reference
    ]
    text = (f"Share of the way from {matter.reference} to the bound, over the scenarios for which the bound is known.",)
    return Section("Gaps closed", text, [Grid("Gaps", ("controller", "bound", "share closed", "scenarios"), rows)])


def _of(each: Estimate | None, digits: int, sign: str = "") -> str:
    return "-" if each is None else format(each, f"{sign}.{digits}f")


# ---------------------------------------------------------------- CSV


def to_csv(means: Means) -> str:
    """Return the figures, tidy: a line a controller, seed, scenario, kind and measure, `all` for means over them."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    writer.writerows(_lines(means))
    return content.getvalue()


def _lines(means: Means) -> Iterator[tuple[object, ...]]:
    contest = means.contest
    for name, of_seeds in contest.answered.items():
        seeds = [*of_seeds] if len(of_seeds) > 1 else []
        for seed in (_ALL, *seeds):
            own = [*of_seeds] if seed == _ALL else [seed]
            for scenario in (None, *contest.scenarios):
                chosen = contest.scenarios if scenario is None else (scenario,)
                where = (_ALL,) * 4 if scenario is None else (scenario.name, scenario.link, scenario.load, scenario.preference)
                for kind in (None, *contest.kinds):
                    answers = [a for s in own for each in chosen for a in of_seeds[s][each.name] if kind in (None, a.kind)]
                    lost = 1 - covered_share(answers)
                    for measure in MEASURES:
                        found = means.estimate(name, measure, scenarios=[each.name for each in chosen], kind=kind, seeds=own)
                        figures = (
                            ("", "", "") if found is None else tuple(f"{x:.6g}" for x in (found.mean, found.low, found.high))
                        )
                        yield (name, seed, *where, kind or _ALL, measure, *figures, len(answers), f"{lost:.4f}")
