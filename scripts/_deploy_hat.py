"""Deploying HAT: a device with the ends of a large model, whose middle a server has.

What does not live here: the arguments (deploy.py) and what every system's deployment shares (_deploy.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from agents.bundle import Bundle
from agents.policy import ControllerPolicy
from runtime.errors import CloudUnavailableError, SettingError
from runtime.hat.values import HatRecord
from runtime.model.frame import Frame
from runtime.policy import drive
from scripts import _deploy
from scripts._cli import console
from scripts._text import harmless
from synera_env.hat.schema import hat_schema
from synera_env.metrics import episode_metrics
from traces import bundled
from traces.hat.dialogues import dialogues
from traces.hat.graph import HatGraphs
from traces.profile import DeviceProfile
from traces.tasks import scorers
from traces.tasks.splits import read_prompts

if TYPE_CHECKING:
    from agents.live_run import LiveRun
    from runtime.client import CloudClient
    from runtime.hat.device import HatConnection, HatDevice
    from scripts.deploy import Arguments
    from synera_env.radio import Radio

_EXCHANGES = 4
"""Before each prompt that is answered where none are named: long ones show what chunks of a prompt are for."""
_SHOWN = 160
"""Characters of a prompt's end."""


@dataclass(frozen=True)
class _Prompt:
    """What is to be answered."""

    text: str
    question: str | None = None
    """By which its answer is scored; None where nobody can tell what it is worth."""


def deploy(arguments: Arguments) -> None:
    """Connect, answer each prompt, show each upload; see :func:`scripts.deploy.main`."""
    from runtime.dialling import dialled
    from synera_env.hat.live import hat_deployment_of

    graphs = HatGraphs.load(arguments.graphs) if arguments.graphs else None
    prompts, links = _prompts(arguments, graphs), _deploy.links(arguments)
    with dialled(arguments.cloud, credentials=_deploy.credentials(arguments)) as clients:
        # Before the server is asked for anything, as what is wrong on this side needs no server to be said.
        client, (bundle, rule) = _one(clients), _deploy.named(arguments)
        device, schema = _load_device(arguments, bundle, graphs), hat_schema()
        offered = hat_deployment_of(device)
        for made in (bundle, rule):
            if made is not None:
                made.require(offered)
        policy = ControllerPolicy(_deploy.chosen(arguments, bundle, schema), schema, arguments.valued)
        encoded = [device.encode(prompt.text) for prompt in prompts]
        connection = _connected(device, client)
        with _deploy.live_run(arguments, schema, bundle, offered, device.profile.name) as run:
            for number, (prompt, tokens) in enumerate(zip(prompts, encoded, strict=True)):
                radio = _deploy.radio(links, arguments.seed + number) if links else None
                _answer(arguments, connection, policy, run, radio, number, prompt, tokens)
    _deploy.say_pace_and_next(arguments, bundle, device.profile.name, schema, graphs_of_model(arguments))


def graphs_of_model(arguments: Arguments) -> dict[str, object]:
    """The system, the graphs and the weight of an evaluation; where those of another model than the bundled one lie is not known here."""
    here = arguments.model == bundled.PAIR / "llm" and arguments.adapter == bundled.ADAPTER
    graphs = None if here else arguments.graphs or "GRAPHS_OF_THE_MODELS"
    return {"system": "hat", "graphs": graphs, "first_token_weight": arguments.first_token_weight}


def _prompts(arguments: Arguments, graphs: HatGraphs | None) -> list[_Prompt]:
    if arguments.prompts is not None:
        return [_Prompt(prompt.text) for prompt in read_prompts(arguments.prompts)]
    if arguments.prompt:
        return [_Prompt(text) for text in arguments.prompt]
    if graphs is not None:
        return [_Prompt(text) for text in graphs.meta.prompts[: _deploy.SOME]]
    long = dialogues("test", _EXCHANGES + 1)[_EXCHANGES :: _EXCHANGES + 1]
    return [_Prompt(each.text, each.question) for each in long]


def _one(clients: Sequence[CloudClient]) -> CloudClient:
    """The server; what it holds of an answer no other one has.

    Raises:
        SettingError: several were named.
    """
    if len(clients) > 1:
        raise SettingError(
            f"--cloud stands for {len(clients)} servers, and an answer of --system hat lives in one; name one HOST:PORT"
        )
    return clients[0]


def _connected(device: HatDevice, client: CloudClient) -> HatConnection:
    from runtime.hat.device import HatConnection

    try:
        return HatConnection(device, client)
    except CloudUnavailableError as error:
        raise CloudUnavailableError(
            f"{error} --split {device.split}; a device without the middle layers cannot answer alone"
        ) from None


def _load_device(arguments: Arguments, bundle: Bundle | None, graphs: HatGraphs | None) -> HatDevice:
    """Load the ends of the model, which read prompts as the controller's graphs did."""
    from runtime.model.placement import Placement
    from synera_env.hat.live import load_hat_device

    limit, frame = arguments.max_new_tokens, Frame()
    if bundle is not None:
        limit, frame = bundle.meta.max_new_tokens or limit, bundle.meta.frame or frame
    elif graphs is not None:
        limit, frame = graphs.meta.max_new_tokens, Frame.of(graphs.meta.frame)
    device = load_hat_device(
        arguments.model,
        arguments.adapter,
        DeviceProfile.load(arguments.profile_file),
        max_new_tokens=limit,
        paced=not arguments.unpaced,
        placement=Placement.of(arguments.device, arguments.dtype),
        frame=frame,
    )
    if frame != Frame():
        source = "bundle states" if bundle else "graphs state"
        console.print(f"prompts are read {harmless(str(frame))}, as the {source}")
    _deploy.check_room(device.max_new_tokens, device.ends.config.context)
    return device


def _answer(
    arguments: Arguments,
    connection: HatConnection,
    policy: ControllerPolicy,
    run: LiveRun | None,
    radio: Radio | None,
    number: int,
    prompt: _Prompt,
    tokens: Sequence[int],
) -> None:
    """Answer a prompt, show what was uploaded, and write it down where there is a run."""
    seed, link = arguments.seed + number, radio.trace.name if radio else "real"
    written = nullcontext()
    if run is not None:
        written = run.answer(prompt.text, len(tokens), preference=arguments.valued, seed=seed, link=link)  # type: ignore[assignment]
    with connection.open(radio) as session:
        with written as told:
            for step in drive(session, tokens, policy, seed):
                if told is not None:
                    told.settled(step.record)
            if told is not None and prompt.question is not None:
                told.quality = scorers.score(prompt.question, connection.device.text(session.answer))
        _show(arguments, prompt.text, len(tokens), session.answer, session.records, connection.device, link)


def _show(
    arguments: Arguments,
    prompt: str,
    prompt_tokens: int,
    answer: Sequence[int],
    records: Sequence[HatRecord],
    device: HatDevice,
    link: str,
) -> None:
    """Print an answer, upload by upload, and what it took."""
    end = prompt if len(prompt) <= _SHOWN else f"... {prompt[-_SHOWN:]}"
    title = f"{harmless(end)}  ({prompt_tokens} tokens, {records[-1].knobs.precision_name} states, link {link})"
    table = Table(title=title, title_justify="left")
    for column in ("upload", "of", "confidence", "stood", "committed", "ms", "bytes up", "at s"):
        table.add_column(column, justify="left" if column in ("of", "committed") else "right")
    for number, r in enumerate(records, 1):
        of = (
            f"prompt, {r.prompt_rows} token{'s' if r.prompt_rows > 1 else ''}"
            if r.prompt_rows
            else f"draft {harmless(device.text(r.drafted, special=True))}"
        )
        table.add_row(
            str(number),
            of if r.prompt_rows or r.draft else "last token",
            f"{r.confidence:.3f}" if r.draft else "",
            "lost" if r.error else f"{r.accepted}/{len(r.draft)}" if r.draft else "",
            harmless(device.text(r.committed, special=True)),
            f"{r.cost.seconds * 1e3:.0f}",
            str(r.cost.uplink_bytes),
            f"{r.committed_at:.3f}",
        )
    console.print(table)
    console.print(f"answer: {harmless(device.text(tuple(answer)))}")
    found = episode_metrics(records, float("nan"), arguments.valued)
    drafts = [r for r in records if not r.prompt_rows]
    a_draft = sum(len(r.committed) for r in drafts) / max(1, len(drafts))
    console.print(
        f"{found.seconds:.2f} s, first token after {found.ttft_seconds * 1e3:.0f} ms, then {found.tbt_mean_seconds * 1e3:.1f} ms a token; "
        f"{a_draft:.2f} tokens a draft, {found.uplink_bytes} bytes up, {found.downlink_bytes} down"
    )
    if records[-1].error:
        console.print(f"the cloud was lost, and the answer ends there: {harmless(records[-1].error)}", style="yellow")
    console.print()
