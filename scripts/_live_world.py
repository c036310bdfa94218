"""The live worlds that replays are held against: a verifier in a process of its own, and devices beside it, the link emulated.

What does not live here: how devices share a plan (agents/fleet.py), the verifier's process (_verifier.py), and what is said of
the answers.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import CheckpointError
from scripts._cli import progress
from scripts._verifier import verifier_process
from synera_env import DecisionEnv, Outages
from traces import bundled
from traces.links.trace import LinkTrace
from traces.profile import DeviceProfile
from traces.synera.graph import GraphMeta, GraphSet
from traces.synera.growing import GrowingGraphs
from traces.tasks.scoring import scorer_of

if TYPE_CHECKING:
    from runtime.client import CloudClient

LiveWorld = tuple[Callable[[], DecisionEnv], Callable[[], None]]
"""What makes a device's environment, and what is to be called after each answer: it moves a bar, and minds the verifier."""


@dataclass(frozen=True)
class Models:
    """Whose answers they are; by default the bundled pair's."""

    slm: Path = bundled.PAIR / "slm"
    llm: Path = bundled.PAIR / "llm"
    score: str | None = None
    """The user's own function that graphs were scored by; see `traces.tasks.scoring`."""

    def require(self, meta: GraphMeta) -> None:
        """Refuse models that graphs were not recorded with.

        Raises:
            CheckpointError: so they are, or a folder holds no model.
        """
        from runtime.model.loading import fingerprint

        for name, folder in (("slm", self.slm), ("llm", self.llm)):
            wanted, found = getattr(meta, f"{name}_fingerprint"), fingerprint(folder)
            if found != wanted:
                raise CheckpointError(
                    f"the {meta.split} graphs were recorded with the {name.upper()} {wanted}, that in {folder} is {found}; name the folder of "
                    f"the one with --{name}"
                )


@contextmanager
def interruptible() -> Iterator[None]:
    """Let whoever ends this process end it as Ctrl-C does, so that the verifier's process is stopped, too."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def live_world(
    graphs: GraphSet | GrowingGraphs,
    links: Sequence[LinkTrace],
    device_profile: DeviceProfile,
    cloud_profile: Path | None,
    answers: int,
    outages: Outages | None = None,
    log: Path | None = None,
    models: Models | None = None,
) -> Iterator[LiveWorld]:
    """Yield Synera's world: devices with the SLM, beside a verifier that has the LLM.

    Args:
        graphs: recorded with the same models; prompts, lens, frame and length of answers are theirs.
        links: that are emulated.
        device_profile: that devices are paced to.
        cloud_profile: that the verifier is paced to; None leaves verifier and devices unpaced.
        answers: in all.
        outages: of the links; None is the default.
        log: of the verifier.
        models: those that answer; None is the bundled pair.

    Raises:
        SyneraError: the graphs are of other models, or the verifier does not start.
    """
    import torch

    from runtime.model.frame import Frame
    from runtime.synera.lens import Lens
    from synera_env.synera.live import LivePrompt, SyneraLiveEnv, load_device

    torch.set_num_threads(1)  # devices go side by side
    models, meta, paced = models or Models(), graphs.meta, cloud_profile is not None
    models.require(meta)
    lens, limit, frame = Lens.from_tensors(graphs.lens_tensors), meta.max_new_tokens, Frame.of(meta.frame)
    device = load_device(models.slm, lens=lens, profile=device_profile, max_new_tokens=limit, paced=paced, frame=frame)
    score = scorer_of(meta, models.score)
    prompts = [LivePrompt(text, kind) for text, kind in zip(meta.prompts, meta.kinds, strict=True)]
    with _connected(models.llm, cloud_profile, answers, log) as (client, answered):
        yield lambda: SyneraLiveEnv(client, device, prompts, score, links, outages=outages or Outages()), answered


@contextmanager
def hat_world(
    links: Sequence[LinkTrace],
    device_profile: DeviceProfile,
    cloud_profile: Path,
    answers: int,
    outages: Outages | None = None,
) -> Iterator[LiveWorld]:
    """Yield HAT's world: devices with the ends of the bundled model and its test prompts, beside a server of the middle.

    Args:
        links: that are emulated.
        device_profile: that devices are paced to.
        cloud_profile: that the server is paced to.
        answers: in all.
        outages: of the links; None is the default.

    Raises:
        SyneraError: a bundled file is damaged, or the server does not start.
    """
    import torch

    from synera_env.hat.live import HatLiveEnv, load_hat_device

    torch.set_num_threads(1)  # devices go side by side
    device = load_hat_device(profile=device_profile)
    middle = ("--split", str(device.split))
    with _connected(bundled.PAIR / "llm", cloud_profile, answers, options=middle) as (client, answered):
        yield lambda: HatLiveEnv(client, device, links=links, outages=outages or Outages()), answered


@contextmanager
def _connected(
    model: Path, pace: Path | None, answers: int, log: Path | None = None, options: Sequence[str] = ()
) -> Iterator[tuple[CloudClient, Callable[[], None]]]:
    """A verifier that runs, a client of it, and what is to be called after each of so many answers."""
    from runtime.client import CloudClient

    with (
        interruptible(),
        verifier_process(model=model, pace=pace, log=log, options=options) as verifier,
        CloudClient(verifier.target) as client,
        progress() as bar,
    ):
        task = bar.add_task(f"live against {verifier.target}", total=answers)

        def answered() -> None:
            verifier.check()  # devices may go on alone without it, so it would be noticed nowhere else
            bar.advance(task)

        yield client, answered
