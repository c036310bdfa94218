"""`synera evaluate --live`: the controllers answer a plan in replay, then live, and, if wanted, on links that break.

What does not live here: the live world (_live_world.py), what is said of the answers (_live_sections.py), and who answers.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agents.base import Controller
from agents.breaks import Breaks
from agents.evaluation import make_plan
from agents.limits import capped
from agents.registry import controller
from agents.worlds import BothWorlds, Makers, Replayed
from scripts._cli import console, progress, say
from scripts._growth import required_folder
from scripts._live_sections import (
    LiveFile,
    Proof,
    breaks_said,
    breaks_table,
    results_of,
    said_of,
    worlds_table,
)
from scripts._live_world import Models, live_world
from scripts._outcome import reference_of
from scripts._report import pareto_picture, plain_table
from scripts._text import harmless
from scripts._told import tell
from synera_env import Outages, SyneraReplayEnv, write_json
from traces import bundled
from traces.files import write_bytes
from traces.links.trace import LinkTrace

if TYPE_CHECKING:
    from scripts._document import Told
    from scripts.evaluate import Arguments

_MOST_TOLD, _TOLD_ELSE = 2, ("threshold",)
_WORLD_SECONDS = 5.0
"""About what a verifier and the devices take until they are ready."""
_LATE = 1.2


def prove(arguments: Arguments, replay: SyneraReplayEnv, ready: Mapping[str, Controller], bundles: Collection[str]) -> Proof:
    """Answer in both worlds and print how they compare; says before it goes live how long that takes.

    Args:
        arguments: how many answers and devices, and what is valued.
        replay: of the prompts and the links to be tested on.
        ready: the controllers; those that were named are made anew for each world, as some learn while they answer.
        bundles: names of those that are bundles.

    Raises:
        SyneraError: the models are others than those that graphs were recorded with, or the verifier ended.
    """

    def make(name: str) -> Controller:
        chosen = controller(name, replay.schema) if name in arguments.controller else ready[name]
        return capped(chosen, replay.schema, arguments.max_offload)

    makers: Makers = {name: partial(make, name) for name in ready}
    slm, llm = (required_folder(name, getattr(arguments, name), replay.graphs) for name in ("slm", "llm"))
    models = Models(slm, llm, arguments.score)
    models.require(replay.graphs.meta)
    unseen = _unseen(replay.links)
    plan = make_plan(replay, arguments.answers, arguments.seed, arguments.valued, unseen)
    breaks = Breaks.of(replay, plan) if arguments.break_link else None
    worlds = [(replay, plan)]
    if breaks is not None:
        links = [radio.trace for radio in breaks.radios]
        still = SyneraReplayEnv(replay.graphs, links, replay.device, replay.cloud, outages=Outages.never())
        worlds.append((still, list(breaks.plan)))
    with progress() as bar:
        task = bar.add_task("replay", total=len(makers) * len(worlds))
        replayed = [Replayed.of(env, planned, makers, lambda: bar.advance(task)) for env, planned in worlds]
    both, *broken = _live(arguments, replayed, models)
    families = tuple(sorted({replay.links[place].family for place in unseen}))
    proof = Proof(both, reference_of(makers), arguments.live or 1, families, breaks, broken[0] if broken else None)
    if breaks is not None:
        proof = replace(proof, told=_told(proof, replay, breaks, (*bundles, *arguments.controller) or _TOLD_ELSE))
    _show(proof)
    return proof


def _unseen(links: Sequence[LinkTrace]) -> list[int]:
    """Places of the links of families that no bundled link for training is of; all where there are none such."""
    known = {link.family for link in bundled.links("train")}
    return [place for place, link in enumerate(links) if link.family not in known] or [*range(len(links))]


def _live(arguments: Arguments, replayed: Sequence[Replayed], models: Models) -> list[BothWorlds]:
    devices, found = arguments.live or 1, []
    answers = sum(len(each.plan) * len(each.makers) for each in replayed)
    seconds = sum(each.live_seconds(devices) + _WORLD_SECONDS for each in replayed)
    console.print(
        f"live: {answers} answers of {len(replayed[0].makers)} controllers, {devices} device(s) at a time, take about {seconds:.0f} s"
    )
    began = time.monotonic()
    for each in replayed:
        env, number = each.env, len(each.plan) * len(each.makers)
        assert isinstance(env, SyneraReplayEnv)
        world = live_world(env.graphs, env.links, env.device, arguments.cloud_file, number, env.outages, models=models)
        with world as (make_env, answered):
            found.append(each.live(make_env, devices, answered))
    took = time.monotonic() - began
    console.print(f"live: took {took:.0f} s")
    if took > _LATE * seconds:
        console.print(
            "that is longer than the replay says: was this machine busy? Then live times are too long", style="yellow"
        )
    return found


def _told(proof: Proof, replay: SyneraReplayEnv, breaks: Breaks, ours: Sequence[str]) -> list[Told]:
    """Tell, of each of ours, the live answer of most tokens on a link that broke."""
    assert proof.broken is not None
    found, number = [], len(breaks.at_seconds)
    for place, name in enumerate(ours[:_MOST_TOLD], 1):
        answered = proof.broken.live[name][number:]
        longest = max(range(number), key=lambda each: len(answered[each].tokens))
        planned, at = breaks.plan[number + longest], breaks.at_seconds[longest]
        title = f"{name}, live: {answered[longest].kind}, the link breaks after {at:.2f} s"
        prompt, radio = replay.graphs.meta.prompts[planned.prompt], breaks.radios[planned.link]
        text = replay.graphs.text
        found.append(tell(f"broken-{place}", title, prompt, answered[longest], planned.preference, text, replay.schema, radio))
    return found


def _show(proof: Proof) -> None:
    """Print the tables and what they rest on."""
    console.print(plain_table(worlds_table(proof), intervals=4))
    for line in said_of(proof):
        console.print(harmless(line))
    for name, each in proof.worlds.agreements.items():
        for difference in each.differences:
            console.print(harmless(f"{name}: {difference}"), style="red")
    if proof.adaptations:
        console.print(plain_table(breaks_table(proof), intervals=9))
        console.print(harmless(breaks_said(proof)))


def write_live(arguments: Arguments, proof: Proof) -> None:
    """Draw the pictures and write the figures, where there is no folder of a report for them."""
    pareto_picture(proof.summaries, arguments.drawn, "Replay and live")
    say("picture", str(arguments.drawn))
    for told in proof.told[:1]:
        path = broken_picture(arguments.drawn)
        write_bytes(path, told.picture.png)
        say("picture", str(path))
    if arguments.json is None:
        return
    correlation = asdict(proof.ranked.correlation)
    figures = LiveFile(
        graphs=str(arguments.graph_file),
        seed=arguments.seed,
        devices=proof.devices,
        planned_answers=arguments.answers,
        families=proof.families,
        controllers=results_of(proof),
        rank_correlation=correlation,
    )
    write_json(arguments.json, asdict(figures))
    say("figures", str(arguments.json))


def broken_picture(drawn: Path) -> Path:
    """Where the picture of an answer on a link that broke goes, beside the other."""
    return drawn.with_name(f"{drawn.stem}-break.png")
