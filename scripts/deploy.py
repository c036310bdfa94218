"""Answer prompts on the device runtime, a controller deciding what the live cloud verifier checks.

Start a verifier first (synera serve); where none answers the device answers alone until one does. By default the device is
paced to a phone and the link is emulated, as the bundled pair is far faster than a phone; --unpaced and --no-emulate-link use
this machine and network as they are.

Examples:
    synera deploy                                   # a test prompt, hand-set thresholds
    synera deploy --controller runs/demo/ppo/bundle
    synera deploy --controller always --prompt "Describe Dunuham: river, feast, mayor, trade."
    synera deploy --cloud verifier.example:443 --tls-ca ca.pem --slm /models/small --prompt "..." --unpaced
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from agents.bundle import Bundle
from agents.policy import ControllerPolicy
from agents.registry import controller
from runtime.errors import SettingError
from runtime.policy import drive
from runtime.settings import shown, within
from runtime.synera.chunk import ChunkRecord
from runtime.synera.lens import Lens
from scripts._cli import Dtype, check_seed, console, launch, next_step, say
from scripts._text import harmless
from synera_env import Preference, synera_schema
from synera_env.radio import Radio
from traces import bundled
from traces.profile import DeviceProfile
from traces.tasks import tinyworld

if TYPE_CHECKING:
    from runtime.device import Device

_MOST_TOKENS = 1_000_000


@dataclass(frozen=True)
class Arguments:
    """Answer prompts live."""

    controller: str = "threshold"
    """never, always, threshold, random, or the folder of a bundle."""
    cloud: str = "127.0.0.1:50051"
    """HOST:PORT of the verifier."""
    prompt: tuple[str, ...] = ()
    """Prompts; by default one test prompt of each bundled kind."""
    slm: Path = bundled.PAIR / "slm"
    """Hugging Face folder of the SLM."""
    profile: Path = field(default_factory=lambda: bundled.profile("phone"))
    """Device profile: pace and energy."""
    device: str = "auto"
    """Where the SLM runs: auto (CUDA where it is there), cpu, cuda or cuda:N."""
    dtype: Dtype = "float32"
    """Arithmetic type of the SLM; in float32 live tokens equal the replay's."""
    unpaced: bool = False
    """Run as fast as this machine does."""
    emulate_link: bool = True
    """Emulate a bundled test link; --no-emulate-link uses the network as it is."""
    preference: Preference = field(default_factory=Preference)
    """What the controller should value."""
    tls_ca: Path | None = None
    """PEM file of the authority that signed the verifier's certificate; required unless the verifier is on this machine."""
    max_new_tokens: int = bundled.MAX_NEW_TOKENS
    """Where answers are cut; a bundle's own limit wins."""
    seed: int = 0
    """Draws the link and where in it an answer starts; prompt by prompt it is one more."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        within("max_new_tokens", self.max_new_tokens, 1, _MOST_TOKENS)
        for number, text in enumerate(self.prompt, 1):
            if not text.strip():
                raise SettingError(f"prompt {number} is empty; write what is to be answered")
            if not text.isprintable() and any(0xD800 <= ord(character) <= 0xDFFF for character in text):
                raise SettingError(f"prompt {number}, {shown(text)}, is not UTF-8")


def main(arguments: Arguments) -> None:
    """Connect, answer each prompt, show what was decided.

    Raises:
        SyneraError: the address, the models, the bundle or a prompt cannot be used, or they do not fit each other.
    """
    import torch

    from runtime.client import CloudClient
    from runtime.device import Alone, Connection
    from synera_env.synera.live import deployment_of

    torch.set_num_threads(1)
    texts = arguments.prompt or tuple(tinyworld.tasks(kind, "test", 1)[0].prompt for kind in tinyworld.KINDS)
    with CloudClient(arguments.cloud, tls_ca=arguments.tls_ca) as client:
        # Before the verifier is asked for anything, as what is wrong on this side needs no verifier to be said.
        bundle = Bundle.load(arguments.controller) if Path(arguments.controller).is_dir() else None
        device = _load_device(arguments, bundle)
        schema = synera_schema(len(device.slm.config.exit_layers))
        chosen = bundle.controller(schema) if bundle else controller(arguments.controller, schema)
        policy = ControllerPolicy(chosen, schema, arguments.preference)
        alone = Alone(bundle.meta.fingerprints.get("llm") if bundle else None)
        with Connection(device, client, alone=alone) as connection:
            if connection.llm_fingerprint is None:
                _say_alone(client.target)
            elif bundle:
                bundle.require(deployment_of(device, connection.llm_fingerprint), arguments.preference)
            _check_room(device.max_new_tokens, connection.limits.context)
            encoded = [connection.encode(text) for text in texts]
            for seed, (text, tokens) in enumerate(zip(texts, encoded, strict=True), arguments.seed):
                radio = _radio(seed) if arguments.emulate_link else None
                with connection.open(radio) as session:
                    for _ in drive(session, tokens, policy, seed):
                        pass
                    _show(text, session.answer, session.records, device, radio.trace.name if radio else "real")
    pace = "as fast as this machine" if arguments.unpaced else f"paced to the profile {device.profile.name!r} (emulation)"
    console.print(f"device {harmless(pace)}")
    say("next", f"{_next(arguments, bundle)}   # compares controllers")


def _say_alone(target: str) -> None:
    console.print(
        f"no verifier answers at {harmless(target)}: the device answers alone until one does; start one with: synera serve",
        style="yellow",
    )


def _next(arguments: Arguments, bundle: Bundle | None) -> str:
    """The evaluation of what was deployed; where the graphs of other models than the bundled ones lie is not known here."""
    given: dict[str, object] = {} if arguments.slm == bundled.PAIR / "slm" else {"graphs": "GRAPHS_OF_THE_MODELS"}
    if bundle is not None:
        given["bundle"] = (arguments.controller,)
    return next_step("evaluate", **given, device_profile=arguments.profile)


def _load_device(arguments: Arguments, bundle: Bundle | None) -> Device:
    """Load what the bundle was trained with, or what a rule needs."""
    from runtime.model.placement import Placement
    from synera_env.synera.live import deployment_of, load_device

    limit = bundle.meta.max_new_tokens if bundle else None
    device = load_device(
        arguments.slm,
        lens=Lens.from_tensors(bundle.tensors) if bundle else None,
        profile=DeviceProfile.load(arguments.profile),
        max_new_tokens=limit or arguments.max_new_tokens,
        paced=not arguments.unpaced,
        placement=Placement.of(arguments.device, arguments.dtype),
    )
    if bundle:
        bundle.require(deployment_of(device), arguments.preference)
    _check_room(device.max_new_tokens, device.slm.config.context)
    return device


def _check_room(max_new_tokens: int, context: int) -> None:
    if max_new_tokens >= context:
        raise SettingError(
            f"max_new_tokens={max_new_tokens} leaves no room for a prompt in the models' context of {context} tokens"
        )


def _radio(seed: int) -> Radio:
    """A bundled test link from some time on."""
    links = bundled.links("test")
    link = links[seed % len(links)]
    return Radio(link, float(np.random.default_rng(seed).uniform(0, link.seconds)))


def _show(prompt: str, answer: Sequence[int], records: Sequence[ChunkRecord], device: Device, link: str) -> None:
    table = Table(title=f"{harmless(prompt)}  (link {link})", title_justify="left")
    for column in ("chunk", "draft", "confidence", "importance", "decision", "cloud kept", "committed", "at s"):
        table.add_column(column, justify="right" if column in ("chunk", "confidence", "importance", "at s") else "left")
    for number, r in enumerate(records, 1):
        decision = "keep" if not r.offloaded else "offload" if r.verdict else "offload, lost"
        kept = f"{r.verdict.accepted}/{len(r.draft.tokens)}" if r.verdict else ""
        words = [harmless(device.text(ids, special=True)) for ids in (r.draft.ids, r.committed)]
        table.add_row(
            str(number),
            words[0],
            f"{r.draft.confidence:.3f}",
            f"{r.draft.importance:.2f}",
            decision,
            kept,
            words[1],
            f"{r.committed_at:.3f}",
        )
    console.print(table)
    console.print(f"answer: {harmless(device.text(answer))}")
    offloaded = sum(r.offloaded for r in records)
    console.print(f"{records[-1].committed_at:.2f} s, {offloaded} of {len(records)} chunks offloaded")
    if lost := [r.error for r in records if r.error]:
        why = harmless(str(lost[0]))
        console.print(f"the cloud was lost for {len(lost)} chunks; the device went on alone: {why}", style="yellow")
    console.print()


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
