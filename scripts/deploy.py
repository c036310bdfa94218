"""Answer prompts on the device runtime, a controller deciding what the live cloud verifier checks.

Start a verifier first (synera serve). By default the device is paced to a phone and the link is emulated,
as the bundled pair is far faster than a phone; --unpaced and --no-emulate-link use this machine and network as they are.

Examples:
    synera deploy                                   # a test prompt, hand-set thresholds
    synera deploy --controller runs/demo/ppo/bundle
    synera deploy --controller always --prompt "Describe Dunuham: river, feast, mayor, trade."
    synera deploy --cloud verifier.example:443 --tls-ca ca.pem --slm /models/small --prompt "..." --unpaced
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table
from tokenizers import Tokenizer

from agents.bundle import OnnxController
from agents.evaluation import PlannedAnswer, answer
from agents.registry import controller
from runtime.synera.session import StepRecord
from scripts._cli import console, launch
from synera_env.reward import Preference
from traces import bundled
from traces.profile import DeviceProfile
from traces.tasks import tinyworld


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
    """Draws the link and where in it an answer starts."""


def main(arguments: Arguments) -> None:
    """Connect, answer each prompt, show what was decided."""
    import torch

    from runtime.client import CloudClient
    from synera_env.synera.live import Device, LivePrompt, SyneraLiveEnv
    from synera_env.synera.schema import Encoder

    torch.set_num_threads(1)
    texts = arguments.prompt or tuple(tinyworld.tasks(kind, "test", 1)[0].prompt for kind in tinyworld.KINDS)
    loaded = OnnxController.load(arguments.controller) if Path(arguments.controller).is_dir() else None
    device = Device.load(
        arguments.slm,
        lens=loaded.lens if loaded else None,
        profile=DeviceProfile.load(arguments.profile),
        max_new_tokens=loaded.meta.max_new_tokens if loaded else arguments.max_new_tokens,
        paced=not arguments.unpaced,
    )
    if loaded:
        device.require(loaded.meta.slm_fingerprint, f"bundle {arguments.controller}")
    chosen = loaded or controller(arguments.controller, Encoder(len(device.slm.config.exit_layers)))
    with CloudClient(arguments.cloud, tls_ca=arguments.tls_ca) as client:
        prompts = [LivePrompt(text) for text in texts]
        env = SyneraLiveEnv(client, device, prompts, _score_if_bundled, emulate_link=arguments.emulate_link)
        try:
            for index, text in enumerate(texts):
                link = (arguments.seed + index) % len(env.links)
                planned = PlannedAnswer(index, link, 0.0, arguments.seed + index, arguments.preference)
                outcome = answer(env, chosen, planned)
                _show(
                    text,
                    env.answer_text,
                    outcome.records,
                    device.tokenizer,
                    env.links[link].name if arguments.emulate_link else "real",
                )
        finally:
            env.close()
    pace = "as fast as this machine" if arguments.unpaced else f"paced to the profile {device.profile.name!r} (emulation)"
    console.print(f"device {pace}. next: synera evaluate compares controllers; --help shows more prompts and links")


def _score_if_bundled(prompt: str, text: str) -> float:
    try:
        return tinyworld.score(prompt, text)
    except tinyworld.TaskError:
        return 0.0


def _show(prompt: str, text: str, records: tuple[StepRecord, ...], tokenizer: Tokenizer, link: str) -> None:
    table = Table(title=f"{prompt}  (link {link})", title_justify="left")
    for column in ("chunk", "draft", "confidence", "importance", "decision", "cloud kept", "committed", "at s"):
        table.add_column(column, justify="right" if column in ("chunk", "confidence", "importance", "at s") else "left")
    for number, r in enumerate(records, 1):
        decision = "keep" if not r.offloaded else "offload" if r.verdict else "offload, lost"
        kept = f"{r.verdict.accepted}/{len(r.draft.tokens)}" if r.verdict else ""
        words = [tokenizer.decode(list(ids), skip_special_tokens=False) for ids in (r.draft.ids, r.committed)]
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
    console.print(f"answer: {text}", markup=False)
    offloaded = sum(r.offloaded for r in records)
    console.print(f"{records[-1].committed_at:.2f} s, {offloaded} of {len(records)} chunks offloaded")
    if lost := [r.error for r in records if r.error]:
        console.print(f"[yellow]the cloud was lost for {len(lost)} chunks; the device went on alone: {lost[0]}")
    console.print()


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
