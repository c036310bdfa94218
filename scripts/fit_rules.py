"""Fit rules on training prompts, confirm them on validation, and write them as files that deploy and evaluate take.

Written are the best fixed knobs of the search grid; levels that keep to budgets; how rejections follow confidence, with the
threshold that serves best; and the link-aware threshold, which offloads where the expected gain exceeds the expected cost.

Examples:
    synera fit-rules                                # on the bundled training graphs
    synera record --per-kind 100 && synera fit-rules --graphs runs/graphs   # on 400 training prompts
    synera fit-rules --rules link-aware --out runs/mine
    synera evaluate --controller runs/rules/fixed.json runs/rules/link-aware.json
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from agents.evaluation import MOST_ANSWERS
from agents.fitting import fit_budget, fit_link_aware, fit_rejection
from agents.rule_file import SUFFIX, RuleFile, Stated
from agents.rules.fixed import Fixed
from agents.rules.levels import Levels
from agents.search import Chosen, choose, grid_search
from runtime.errors import SettingError
from runtime.settings import one_of, within
from scripts._cli import check_output, check_seed, console, launch, next_step, progress, say
from scripts._growth import Grow, Grower, say_grown
from scripts._links import check_filling, links_of
from scripts._systems import unless_bundled
from synera_env import Outages, SyneraReplayEnv
from traces import bundled
from traces.links.filling import Filling
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet

FIXED, BUDGET, REJECTION, LINK_AWARE = RULES = ("fixed", "budget", "rejection", "link-aware")
HS = (0.2, 0.35, 0.5, 0.65, 0.8)
"""Of P(any rejection), the thresholds that compete."""
DRAFTS = ((1, 1.0), (1, 0.7), (2, 1.0), (2, 0.7), (4, 1.0), (4, 0.7), (8, 0.7))
"""Draft lengths and exit margins that compete for the link-aware threshold."""


@dataclass(frozen=True)
class Arguments:
    """Fit rules on training prompts."""

    graphs: Path = field(default_factory=lambda: bundled.graphs("train").parent)
    """Folder with train.safetensors and validation.safetensors."""
    out: Path = Path("runs/rules")
    """Folder; one NAME.json each, what is there by that name is replaced."""
    rules: tuple[str, ...] = RULES
    """Which to fit, of fixed, budget, rejection and link-aware."""
    budgets: tuple[float, ...] = (0.1, 0.2, 0.3)
    """Shares of the chunks that may be offloaded; a file each."""
    answers: int = 400
    """Answers to training prompts by which each candidate is ranked, and fitted."""
    validation_answers: int = 64
    """Answers to validation prompts by which the best are confirmed; those that synera train validates with."""
    grow: Grow = "no"
    """Run what was not recorded with the models: yes, no, or auto where graphs hold too little."""
    slm: Path | None = None
    """Folder of the SLM that the graphs were recorded with, where it is not where they say."""
    llm: Path | None = None
    """Folder of the LLM, likewise."""
    score: str | None = None
    """Your function, MODULE:FUNCTION, that answers were scored by when they were recorded: graphs that grow ask it again."""
    device_profile: Path = field(default_factory=lambda: bundled.profile("phone"))
    """Times and energy of the device."""
    cloud_profile: Path = field(default_factory=lambda: bundled.profile("gpu"))
    """Times of the cloud."""
    links: Path | None = None
    """File or folder of recorded links, instead of the bundled ones; each split takes its own."""
    fill: Filling = field(default_factory=Filling)
    """With --links, your figures for what was not recorded."""
    seed: int = 0
    """Draws links and offsets."""

    def __post_init__(self) -> None:
        if not self.rules:
            raise SettingError(f"rules is empty; name some of {', '.join(RULES)}")
        for name in self.rules:
            one_of("rules", name, RULES)
        for share in self.budgets:
            within("budgets", share, 0.001, 0.999)
        within("answers", self.answers, 1, MOST_ANSWERS)
        within("validation_answers", self.validation_answers, 1, MOST_ANSWERS)
        check_seed(self.seed)
        check_filling(self.links, self.fill)


@dataclass(frozen=True)
class _Worlds:
    """Where rules are fitted, ranked and confirmed."""

    fitted: SyneraReplayEnv
    """The training prompts, no check ever lost."""
    train: SyneraReplayEnv
    validation: SyneraReplayEnv

    @classmethod
    def of(cls, arguments: Arguments) -> _Worlds:
        """Open them."""
        links = links_of(arguments.links, arguments.fill)
        profiles = DeviceProfile.load(arguments.device_profile), CloudProfile.load(arguments.cloud_profile)
        grower = Grower(arguments.grow, arguments.slm, arguments.llm, arguments.score)
        train, validation = (
            grower(GraphSet.load(arguments.graphs / f"{split}.safetensors"), learned_on=split == "train")
            for split in ("train", "validation")
        )
        here = links("train")
        return cls(
            SyneraReplayEnv(train, here, *profiles, outages=Outages.never()),
            SyneraReplayEnv(train, here, *profiles),
            SyneraReplayEnv(validation, links("validation"), *profiles),
        )


def main(arguments: Arguments) -> None:
    """Fit, confirm, write, and say what comes next.

    Raises:
        SyneraError: a file cannot be used, or too little stays inside the graphs.
    """
    check_output(arguments.out, folder=True)
    worlds = _Worlds.of(arguments)
    console.print(f"{len(worlds.train.graphs)} training prompts, {len(worlds.validation.graphs)} validation prompts")
    written: list[str] = []
    for name in arguments.rules:
        for file, rule, said in _fitted(name, arguments, worlds):
            provenance = {"train": worlds.train.provenance(), "answers": arguments.answers, "seed": arguments.seed} | said
            path = arguments.out / f"{file}{SUFFIX}"
            RuleFile.of(rule, worlds.train.schema, worlds.train.deployment(), provenance).save(path)
            console.print(f"{file}: {', '.join(f'{what} {value}' for what, value in said.items())}")
            written.append(str(path))
    say_grown({env.graphs.meta.split: env.graphs for env in (worlds.train, worlds.validation)})
    profiles = {name: unless_bundled(getattr(arguments, name)) for name in ("device_profile", "cloud_profile")}
    graphs = arguments.graphs / "test.safetensors"
    world = (
        profiles
        | ({"graphs": unless_bundled(graphs)} if graphs.exists() else {})
        | {"links": arguments.links, "fill": arguments.fill}
    )
    say("next", next_step("evaluate", controller=tuple(written), **world))


def _fitted(name: str, arguments: Arguments, worlds: _Worlds) -> list[tuple[str, Stated, dict[str, object]]]:
    """The files of a kind of rule: name, what is in it, and what is to be said of it."""
    if name == BUDGET:
        return [_budget(share, arguments, worlds) for share in arguments.budgets]
    candidates: dict[str, Stated]
    preset = worlds.train.schema.presets["threshold"]
    with progress() as bar:
        if name == FIXED:
            found = grid_search(worlds.train, arguments.answers, arguments.seed)
            candidates = {str(knobs): Fixed(knobs) for knobs in found.finalists}
        elif name == REJECTION:
            fit = fit_rejection(worlds.fitted, arguments.answers, HS[0], arguments.seed)
            candidates = {f"h={h:g}": replace(fit, h=h) for h in HS}
        else:
            task = bar.add_task("both ways", total=len(DRAFTS) * min(arguments.answers, len(worlds.train.graphs)))
            candidates = {
                f"drafts of {length}, exit margin {margin:g}": fit_link_aware(
                    worlds.fitted,
                    replace(preset, draft_length=length, exit_margin=margin),
                    arguments.answers,
                    arguments.seed,
                    partial(bar.advance, task),
                )
                for length, margin in DRAFTS
            }
        chosen = _chosen(candidates, arguments, worlds)
    said = asdict(chosen) | ({"tried": found.tried} if name == FIXED else {})
    return [(name, candidates[chosen.name], said)]


def _chosen(candidates: Mapping[str, Stated], arguments: Arguments, worlds: _Worlds) -> Chosen:
    rules = {name: stated.controller(worlds.train.schema) for name, stated in candidates.items()}
    counts = arguments.answers, arguments.validation_answers
    return choose(rules, worlds.train, worlds.validation, *counts, arguments.seed)


def _budget(share: float, arguments: Arguments, worlds: _Worlds) -> tuple[str, Stated, dict[str, object]]:
    rule = fit_budget(worlds.fitted, share, arguments.answers, arguments.seed)
    return f"budget-{share:g}", Levels(rule.levels), {"levels": rule.name}


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
