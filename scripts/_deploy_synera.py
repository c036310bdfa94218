"""Deploying Synera: a device with a small model of its own, whose chunks a verifier checks.

What does not live here: the arguments (deploy.py), what every system's deployment shares (_deploy.py), the table of an answer (_answer.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from agents.bundle import Bundle
from agents.limits import capped
from agents.policy import ControllerPolicy
from runtime.errors import SettingError
from runtime.model.frame import Frame
from runtime.policy import drive
from runtime.settings import shown
from scripts import _deploy
from scripts._answer import show_answer
from scripts._cli import console
from scripts._evidence import Evidence
from scripts._text import harmless
from synera_env import synera_schema
from synera_env.radio import Radio
from traces import bundled
from traces.profile import DeviceProfile
from traces.synera.graph import GraphSet
from traces.tasks import scorers, tinyworld
from traces.tasks.splits import read_prompts

if TYPE_CHECKING:
    from agents.live_run import LiveRun
    from runtime.device import Connection, Device
    from scripts.deploy import Arguments


def deploy(arguments: Arguments) -> None:
    """Connect, answer each prompt, show what was decided; see :func:`scripts.deploy.main`."""
    from runtime.device import Alone, Connection
    from runtime.dialling import dialled
    from synera_env.synera.live import deployment_of

    graphs = GraphSet.load(arguments.graphs) if arguments.graphs else None
    texts = _texts(arguments, graphs)
    links = _deploy.links(arguments)
    with dialled(arguments.cloud, credentials=_deploy.credentials(arguments)) as clients:
        # Before the verifier is asked for anything, as what is wrong on this side needs no verifier to be said.
        bundle, rule = _deploy.named(arguments)
        device = _load_device(arguments, bundle, graphs)
        schema = synera_schema(len(device.slm.config.exit_layers))
        if rule:
            rule.require(deployment_of(device))
        controller = capped(_deploy.chosen(arguments, bundle, schema), schema, arguments.max_offload)
        policy = ControllerPolicy(controller, schema, arguments.valued)
        alone = Alone(bundle.meta.fingerprints.get("llm") if bundle else None)
        with Connection(device, clients, alone=alone) as connection:
            offered = deployment_of(device, connection.llm_fingerprint)
            if connection.llm_fingerprint is None:
                _say_alone(", ".join(client.target for client in clients))
            elif bundle:
                bundle.require(offered, arguments.valued)
            elif rule:
                rule.require(offered)
            _deploy.check_room(device.max_new_tokens, connection.limits.context)
            encoded = [connection.encode(text) for text in texts]
            with _deploy.live_run(arguments, schema, bundle, offered, device.profile.name) as run:
                for number, (text, tokens) in enumerate(zip(texts, encoded, strict=True)):
                    radio = _deploy.radio(links, arguments.seed + number) if links else None
                    _answer(arguments, connection, policy, run, radio, number, text, tokens)
    _deploy.say_pace_and_next(arguments, bundle, device.profile.name, schema, graphs_of_models(arguments))


def graphs_of_models(arguments: Arguments) -> dict[str, object]:
    """The graphs of an evaluation; where those of other models than the bundled ones lie is not known here."""
    own = arguments.graphs or "GRAPHS_OF_THE_MODELS"
    return {} if arguments.slm == bundled.PAIR / "slm" else {"graphs": own}


def _texts(arguments: Arguments, graphs: GraphSet | None) -> tuple[str, ...]:
    """The prompts to answer."""
    if arguments.prompts is not None:
        return tuple(prompt.text for prompt in read_prompts(arguments.prompts))
    if graphs is not None and not arguments.prompt:
        return graphs.meta.prompts[: _deploy.SOME]
    return arguments.prompt or tuple(tinyworld.tasks(kind, "test", 1)[0].prompt for kind in tinyworld.KINDS)


def _answer(
    arguments: Arguments,
    connection: Connection,
    policy: ControllerPolicy,
    run: LiveRun | None,
    radio: Radio | None,
    number: int,
    text: str,
    tokens: Sequence[int],
) -> None:
    """Answer a prompt, show what was decided, and write it down where there is a run."""
    seed, sampling = arguments.seed + number, arguments.sampling
    link = radio.trace.name if radio else "real"
    written = run.answer(text, len(tokens), preference=arguments.valued, seed=seed, link=link) if run else nullcontext()
    with connection.open(radio, sampling and sampling.of_answer(number)) as session:
        with written as told:
            for step in drive(session, tokens, policy, seed):
                if told is not None:
                    told.settled(step.record)
            if told is not None and not (arguments.prompt or arguments.prompts or arguments.graphs):
                told.quality = scorers.score(text, connection.device.text(session.answer))
        show_answer(text, session.answer, session.records, connection.device, link)


def _say_alone(target: str) -> None:
    console.print(
        f"no verifier answers at {harmless(target)}: the device answers alone until one does; start one with: synera serve",
        style="yellow",
    )


def _load_device(arguments: Arguments, bundle: Bundle | None, graphs: GraphSet | None) -> Device:
    """Load what the controller was made with."""
    from runtime.model.placement import Placement
    from synera_env.synera.live import deployment_of, load_device

    evidence = Evidence.of(bundle, graphs)
    device = load_device(
        arguments.slm,
        lens=evidence.lens,
        profile=DeviceProfile.load(arguments.profile_file),
        max_new_tokens=evidence.max_new_tokens or arguments.max_new_tokens,
        paced=not arguments.unpaced,
        placement=Placement.of(arguments.device, arguments.dtype),
        frame=evidence.frame,
    )
    if bundle:
        bundle.require(deployment_of(device), arguments.valued)
    else:
        if evidence.slm_fingerprint is not None:
            device.require(evidence.slm_fingerprint, str(arguments.graphs))
        _check_lens(device, arguments.decides)
    if evidence.frame != Frame():
        source = "bundle states" if bundle else "graphs state"
        console.print(f"prompts are read {harmless(str(evidence.frame))}, as the {source}")
    _deploy.check_room(device.max_new_tokens, device.slm.config.context)
    return device


def _check_lens(device: Device, controller: str) -> None:
    """A lens that shows nothing calls every chunk important."""
    if "importance=" in controller and not device.lens.importance.any():
        raise SettingError(
            f"{shown(controller)} looks at the importance of chunks, which this SLM's device cannot tell without the tables of a "
            "bundle; choose another figure, or a bundle"
        )
