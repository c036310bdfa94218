"""What deployments of every system share: prompts' links, what is written down, and the commands that look at it.

What does not live here: the arguments (deploy.py), and how an answer of each system is given (_deploy_synera.py, _deploy_hat.py).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agents.bundle import Bundle
from agents.registry import controller, rules
from agents.rule_file import SUFFIX, RuleFile
from runtime.errors import SettingError
from scripts._cli import console, next_step, say
from scripts._links import links_of
from scripts._text import harmless
from synera_env import Deployment, Schema
from synera_env.radio import Radio
from synera_env.telemetry import DECISIONS
from traces.links.trace import LinkTrace

if TYPE_CHECKING:
    from agents.base import Controller
    from agents.live_run import LiveRun
    from runtime.credentials import Credentials
    from scripts.deploy import Arguments

SOME = 4
"""Prompts of a graph file."""


def credentials(arguments: Arguments) -> Credentials:
    """What this device shows."""
    from runtime.credentials import Credentials, read_token

    token = read_token(arguments.token_file) if arguments.token_file is not None else None
    return Credentials(arguments.tls_ca, arguments.tls_cert, arguments.tls_key, token)


def links(arguments: Arguments) -> Sequence[LinkTrace]:
    """The links to emulate; none where the network is taken as it is."""
    return links_of(arguments.links, arguments.fill)("test") if arguments.emulate_link else []


def radio(links: Sequence[LinkTrace], seed: int) -> Radio:
    """One of the links, from some time on."""
    link = links[seed % len(links)]
    return Radio(link, float(np.random.default_rng(seed).uniform(0, link.seconds)))


def named(arguments: Arguments) -> tuple[Bundle | None, RuleFile | None]:
    """The bundle or the file of a rule that is to decide, if it is one of them."""
    name = arguments.decides
    bundle = Bundle.load(name) if Path(name).is_dir() else None
    return bundle, RuleFile.load(name) if not bundle and name.endswith(SUFFIX) else None


def chosen(arguments: Arguments, bundle: Bundle | None, schema: Schema) -> Controller:
    """Who decides."""
    return bundle.controller(schema) if bundle else controller(arguments.decides, schema)


@contextmanager
def live_run(
    arguments: Arguments, schema: Schema, bundle: Bundle | None, deployment: Deployment, profile: str
) -> Iterator[LiveRun | None]:
    """What the run is written to, if it is; says where it lies, also when the run ends early."""
    if arguments.log is None:
        yield None
        return
    from agents.live_run import LiveRun

    # Texts of prompts stay out of it: they are written where they are asked for, with their answers.
    given = {f.name: getattr(arguments, f.name) for f in fields(arguments) if f.name != "prompt"}
    configuration = {
        "arguments": {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
        | {"profile": str(arguments.profile_file), "preference": asdict(arguments.valued), "fill": asdict(arguments.fill)},
        "device_profile": profile,
        "max_new_tokens": deployment.max_new_tokens,
        "versions": {name: version(name) for name in ("synera-env", "torch", "onnxruntime", "grpcio", "numpy")},
    }
    fingerprints = dict(deployment.fingerprints)
    if bundle is not None:
        fingerprints["policy"] = bundle.meta.policy_sha256
    with LiveRun(
        arguments.log,
        schema,
        controller=bundle.meta.name if bundle else arguments.decides,
        fingerprints=fingerprints,
        configuration=configuration,
        keep_prompts=arguments.log_prompts,
        first_token_weight=arguments.first_token_weight,
    ) as run:
        try:
            yield run
        finally:
            say("log", str(arguments.log / DECISIONS))
            if run.lost:
                console.print(f"{run.lost} records could not be written to {harmless(str(arguments.log))}", style="yellow")


def check_room(max_new_tokens: int, context: int) -> None:
    """Refuse answers for which there is no room.

    Raises:
        SettingError: so it is.
    """
    if max_new_tokens >= context:
        raise SettingError(
            f"max_new_tokens={max_new_tokens} leaves no room for a prompt in the models' context of {context} tokens"
        )


def say_pace_and_next(
    arguments: Arguments, bundle: Bundle | None, profile: str, schema: Schema, own: Mapping[str, object]
) -> None:
    """Say how the device was paced, and which commands compare what was deployed and look at what was written down.

    Args:
        arguments: of the deployment.
        bundle: that decided, if one did.
        profile: name of the device profile.
        schema: of the system.
        own: arguments of the evaluation that are the system's own.
    """
    pace = "as fast as this machine" if arguments.unpaced else f"paced to the profile {profile!r} (emulation)"
    console.print(f"device {harmless(pace)}")
    line = f"{evaluation(arguments, bundle, schema, own)}   # compares controllers"
    say("next", line, *(_looking_at(arguments.log, bundle, arguments.decides) if arguments.log else ()))


def evaluation(arguments: Arguments, bundle: Bundle | None, schema: Schema, own: Mapping[str, object]) -> str:
    """The evaluation of what was deployed; see :func:`say_pace_and_next`."""
    given = dict(own)
    if bundle is not None:
        given["bundle"] = (arguments.decides,)
    elif arguments.decides not in rules(schema):  # which are evaluated anyway
        given["controller"] = (arguments.decides,)
    given |= {name: getattr(arguments, name) for name in ("prefer", "preference", "max_offload")}
    return next_step("evaluate", **given, device_profile=arguments.profile, links=arguments.links, fill=arguments.fill)


def _looking_at(log: Path, bundle: Bundle | None, controller: str) -> tuple[str, str]:
    """The commands that look at a run; its training, where that lies beside the bundle, is shown with it."""
    shown, training = str(log / "tb"), Path(controller).parent / "tb"
    if bundle is not None and training.is_dir():
        shown = os.path.relpath(os.path.commonpath([os.path.abspath(training), os.path.abspath(shown)]))
    return shlex.join(["synera", "inspect-run", str(log)]), shlex.join(["tensorboard", "--logdir", shown])
