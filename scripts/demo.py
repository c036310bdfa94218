"""The whole path in one command: record graphs, train a controller, deploy it and rules live, hold live against replay.

The verifier runs as its own process. Device and cloud are paced to the profiles of a phone and a GPU, and the link is
emulated; --unpaced shows the raw speed. Everything goes to runs/demo.

Examples:
    synera demo
    synera demo --unpaced --out runs/demo-raw
    synera demo --links traces/                       # on recorded links; also a table for each family of them
    synera demo --agent ppo --steps 20000 --test-per-kind 2   # PPO instead, a quick look
"""

from __future__ import annotations

import os
import shlex
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agents.agreement import Agreement, agreement
from agents.base import Controller
from agents.bundle import Bundle
from agents.comparison import reward_difference, summarise_all, summarise_answers
from agents.evaluation import Answered, PlannedAnswer, answer_all, make_plan, plans_by_family
from agents.fleet import run_fleets
from agents.learning.recipe import Recipe
from agents.registry import rules
from agents.rules import FixedRule
from agents.search import grid_search
from runtime.settings import within
from scripts import record as recording
from scripts._cli import check_output, check_seed, console, launch, next_step, progress, say
from scripts._evaluation import family_table
from scripts._hat_act import LIVE_ANSWERS, hat_act, hat_table
from scripts._links import check_filling, links_of
from scripts._live_world import interruptible, live_world
from scripts._report import pareto_picture, table
from scripts._systems import unless_bundled
from scripts._text import harmless
from scripts._world import Agent, Around, SyneraOpened
from scripts.train import train
from synera_env import SyneraReplayEnv, write_json
from traces import bundled
from traces.links.filling import Filling
from traces.links.trace import LinkTrace
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphMeta, GraphSet
from traces.synera.growing import GrowingGraphs
from traces.tasks import scorers
from traces.tasks.splits import bundled_prompts

_MOST_PROMPTS, _MOST_DEVICES = 1000, 256
_PICTURE = "pareto.png"
_SEED_NODES = 300
"""Nodes recorded for a prompt, on the mean."""
_VALIDATION_ANSWERS = 128
_PROFILES = {False: ("phone", "gpu"), True: ("measured-device", "measured-cloud")}
"""Of device and cloud, by whether they are unpaced."""


@dataclass(frozen=True)
class Arguments:
    """Record, train, deploy, check."""

    out: Path = Path("runs/demo")
    """Where everything goes."""
    train_per_kind: int = 128
    """Training prompts of each kind to record."""
    test_per_kind: int = 8
    """Test prompts of each kind, to validate (other ones) and to deploy on."""
    devices: int | None = None
    """Live devices side by side; by default 8, or 1 when unpaced, as they would share this machine's cores."""
    unpaced: bool = False
    """Let device and cloud run as fast as this machine; the replay then uses profiles measured on one like it."""
    agent: Agent = "counterfactual"
    """Who learns."""
    steps: int | None = None
    """Of the training; by default as suits the agent."""
    seed: int = 0
    """Draws links and offsets, and what the training draws."""
    links: Path | None = None
    """File or folder of recorded links, instead of the bundled ones; each part of the demo takes its split (traces.links.splits says which)."""
    fill: Filling = field(default_factory=Filling)
    """With --links, your figures for what was not recorded."""

    def __post_init__(self) -> None:
        within("train_per_kind", self.train_per_kind, 1, _MOST_PROMPTS)
        within("test_per_kind", self.test_per_kind, 1, _MOST_PROMPTS)
        if self.devices is not None:
            within("devices", self.devices, 1, _MOST_DEVICES)
        check_seed(self.seed)
        self.recipe()
        check_filling(self.links, self.fill)

    def recipe(self) -> Recipe:
        """How the controller is trained."""
        return Recipe.of(self.agent, steps=self.steps, validation_answers=_VALIDATION_ANSWERS, seed=self.seed)

    @property
    def side_by_side(self) -> int:
        """Devices that run at a time."""
        return self.devices or (1 if self.unpaced else 8)


@dataclass(frozen=True)
class _Graphs:
    train: GraphSet
    search: GrowingGraphs
    """The same as `train`."""
    validation: GrowingGraphs
    test: GrowingGraphs


@interruptible()
def main(arguments: Arguments) -> None:
    """Run the path; see the module docstring.

    Raises:
        SyneraError: the folder cannot be written, there are fewer prompts than asked for, or the verifier ended.
    """
    began = time.monotonic()
    check_output(arguments.out, folder=True)
    import torch

    torch.set_num_threads(1)  # work goes side by side: batches of prompts, then devices
    links = links_of(arguments.links, arguments.fill)
    tested = links("test")  # before the work, as what is wrong with links needs none to be said
    graphs = _record(arguments)
    names = _PROFILES[arguments.unpaced]
    device, cloud = DeviceProfile.load(bundled.profile(names[0])), CloudProfile.load(bundled.profile(names[1]))
    world = SyneraOpened(graphs.train, graphs.validation, Around(device, cloud, links))
    bundle = train(world, arguments.recipe(), arguments.out / arguments.agent)
    with console.status("searching the best fixed thresholds"):
        found = grid_search(SyneraReplayEnv(graphs.search, links("train"), device, cloud), episodes=96)
    console.print(f"best of {found.tried} fixed settings on training prompts: {found.knobs}")
    replay = SyneraReplayEnv(graphs.test, tested, device, cloud)
    schema = replay.schema
    learned = Bundle.load(bundle).controller(schema)
    named = rules(schema)
    controllers: dict[str, Controller] = {"random": named.pop("random"), **named}
    controllers |= {"best fixed": FixedRule(found.knobs, schema), arguments.agent: learned}
    plan = make_plan(replay, len(graphs.test), arguments.seed)
    live = _deploy(arguments, graphs, tested, device, controllers, plan)
    replayed = {name: answer_all(replay, each, plan) for name, each in controllers.items()}
    families = _by_family(replay, controllers, arguments) if arguments.links is not None else {}
    _report(arguments, replay, live, replayed, families)
    graphs.test.save(arguments.out / "graphs" / "test.safetensors")
    _hat()
    console.print(f"{time.monotonic() - began:.0f} s")
    _say_where_it_lies(arguments)


def _record(arguments: Arguments) -> _Graphs:
    """Record training, validation and test prompts with the bundled pair and the lens of the bundled graphs.

    Those to search, validate and test on grow: the pair runs what else is met, so nothing leaves them. Training goes over what
    was recorded, which is faster.
    """
    from runtime.synera.lens import Lens
    from traces.synera.growing_runs import PairRuns
    from traces.synera.record import Recorder
    from traces.synera.record_models import Models

    counts = {"train": arguments.train_per_kind, "validation": arguments.test_per_kind, "test": arguments.test_per_kind}
    prompts = {split: bundled_prompts(split, per_kind, seed=3) for split, per_kind in counts.items()}
    models = Models.load(bundled.PAIR / "slm", bundled.PAIR / "llm")
    runs, recorded = PairRuns(models), dict[str, GraphSet]()
    lens = Lens.from_tensors(GraphSet.load(bundled.graphs("train")).lens_tensors)
    for split in counts:
        recorder = Recorder(
            models,
            scorers.score,
            bundled.MAX_NEW_TOKENS,
            _SEED_NODES,
            lens,
            workers=os.cpu_count() or 1,
        )
        seeds = recording.record(recorder, prompts[split], split)
        c = seeds.meta.coverage
        console.print(
            f"  {split}: {len(seeds)} prompts, {seeds.nodes} nodes, {c['closed']:.0%} of graphs closed, {c['random_steps']:.1%} of the "
            "tokens of random answers inside"
        )
        recorded[split] = seeds
    return _Graphs(recorded["train"], *(GrowingGraphs(graphs, runs, scorers.score) for graphs in recorded.values()))


def _deploy(
    arguments: Arguments,
    graphs: _Graphs,
    links: list[LinkTrace],
    profile: DeviceProfile,
    controllers: dict[str, Controller],
    plan: list[PlannedAnswer],
) -> dict[str, list[Answered]]:
    """Answer the plan live with every controller, against a verifier in its own process."""
    pace = None if arguments.unpaced else bundled.profile("gpu")
    answers, log = len(controllers) * len(plan), arguments.out / "verifier.log"
    with live_world(graphs.test, links, profile, pace, answers, log=log) as (make_env, answered):
        return run_fleets(make_env, controllers, plan, arguments.side_by_side, answered)


def _by_family(
    replay: SyneraReplayEnv, controllers: dict[str, Controller], arguments: Arguments
) -> dict[str, dict[str, dict[str, float]]]:
    """Replay the test prompts on the links of each family, print its table, and return its summaries."""
    found = {}
    for family, plan in plans_by_family(replay, len(replay.graphs), arguments.seed).items():
        answered = {name: answer_all(replay, each, plan) for name, each in controllers.items()}
        links = [link for link in replay.links if link.family == family]
        console.print(family_table(family, links, answered, len(plan)))
        found[family] = summarise_all(answered)
    return found


def _report(
    arguments: Arguments,
    replay: SyneraReplayEnv,
    live: dict[str, list[Answered]],
    replayed: dict[str, list[Answered]],
    families: dict[str, dict[str, dict[str, float]]],
) -> None:
    """Compare, print the table, write summary.json and the picture."""
    summaries = {n: {"replay": summarise_answers(replayed[n]), "live": summarise_answers(live[n])} for n in live}
    agreements = {n: agreement(replay, live[n], replayed[n]) for n in live}
    pace = "unpaced" if arguments.unpaced else "paced to a phone and a GPU, link emulated"
    prompts = len(replay.graphs)
    console.print(table(summaries, f"replay / live ({pace}), {prompts} test prompts, {arguments.side_by_side} device(s)"))
    pair = {f"{model}_score": _greedy_score(replay.graphs.meta, model) for model in ("llm", "slm")}
    for model, rule in (("llm", "always"), ("slm", "never")):
        quality, own = summaries[rule]["live"]["quality"], pair[f"{model}_score"]
        lost = {world: _lost_checks(outcomes[rule]) for world, outcomes in (("live", live), ("replay", replayed))}
        console.print(
            f"{rule}: live quality {quality:.4f}; the {model.upper()}'s own greedy answers {own:.4f}; "
            f"checks lost in outages of the link: {lost['live']} live, {lost['replay']} in replay"
        )
    share = _print_agreement(agreements, prompts * len(live))
    differences, ours = {}, arguments.agent
    for other in ("random", "threshold", "best fixed"):
        for world, outcomes in (("replay", replayed), ("live", live)):
            difference = reward_difference(outcomes[ours], outcomes[other])
            differences[f"{world}: {ours} - {other}"] = asdict(difference)
            console.print(f"{world}: reward of {ours} minus {other}, same plan, 95 % interval by prompt: {difference:+.3f}")
    summary: dict[str, Any] = {
        "controllers": summaries,
        "tokens_identical": share,
        "agreement": {n: asdict(a) for n, a in agreements.items()},
        "reward_differences": differences,
        "pair": pair,
        "families": families,
        "coverage": replay.graphs.meta.coverage,
    }
    write_json(arguments.out / "summary.json", summary)
    pareto_picture(summaries, arguments.out / _PICTURE, f"Quality against time: {prompts} test prompts, {pace}")


def _hat() -> None:
    """The same cloud and a device over HAT: the model cut in two, paced to the testbed of its paper."""
    with progress() as bar:
        task = bar.add_task("HAT, live", total=LIVE_ANSWERS)
        both = hat_act(lambda: bar.advance(task))
    console.print(hat_table(both))


def _say_where_it_lies(arguments: Arguments) -> None:
    say("picture", str(arguments.out / _PICTURE))
    say("figures", str(arguments.out / "summary.json"))
    say("training", f"tensorboard --logdir {shlex.quote(str(arguments.out / arguments.agent / 'tb'))}")
    device: dict[str, object] = {
        "unpaced": arguments.unpaced,
        "profile": unless_bundled(bundled.profile(_PROFILES[arguments.unpaced][0])),
    }
    device |= {"links": arguments.links, "fill": arguments.fill}
    deploy = next_step("deploy", controller=str(arguments.out / arguments.agent / "bundle"), **device)
    say("next", next_step("serve"), f"{deploy}   # in another terminal")


def _lost_checks(answers: list[Answered]) -> int:
    return sum(record.error is not None for answered in answers for record in answered.records)


def _print_agreement(agreements: dict[str, Agreement], answers: int) -> float:
    """Print how live and replay agree; return the share of answers whose tokens are identical."""
    for name, each in agreements.items():
        for difference in each.differences:
            console.print(harmless(f"{name}: {difference}"), style="red")
    share = float(np.mean([a.tokens_identical for a in agreements.values()]))
    console.print(f"live answers whose tokens the replay reproduces from the live knobs: {share:.3f} of {answers}")
    for what, of in (("knobs", "same_knobs"), ("tokens", "same_tokens")):
        shares = ", ".join(f"{n} {getattr(a, of):.2f}" for n, a in agreements.items())
        console.print(f"same {what} live and in replay, each deciding by itself: {shares}")
    seconds = ", ".join(f"{n} {a.replay_error['seconds']['mean']:.3f}" for n, a in agreements.items())
    console.print(f"replay error of seconds per answer, mean of |live - replay| / live: {seconds}")
    return share


def _greedy_score(meta: GraphMeta, model: str) -> float:
    """Mean task score of a model's own greedy answers to the test prompts, by no session, graph or verifier."""
    from runtime.model.loading import load_decoder
    from runtime.model.tokenizer import load_tokenizer
    from traces.synera.record_models import greedy_answers

    folder, prompts = bundled.PAIR / model, meta.prompts
    answers = greedy_answers(load_decoder(folder), load_tokenizer(folder), prompts, meta.max_new_tokens)
    return float(np.mean([scorers.score(prompt, answers[prompt]) for prompt in prompts]))


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
