"""The live world that a replay is held against: a verifier in a process of its own, and devices with the SLM, the link emulated.

What does not live here: how devices share a plan (agents/fleet.py), the verifier's process (_verifier.py), and what is said of
the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from scripts._cli import progress
from scripts._verifier import verifier_process
from synera_env import DecisionEnv, Outages
from traces import bundled
from traces.links.trace import LinkTrace
from traces.profile import DeviceProfile
from traces.synera.graph import GraphSet
from traces.synera.growing import GrowingGraphs


@contextmanager
def live_world(
    graphs: GraphSet | GrowingGraphs,
    links: Sequence[LinkTrace],
    device_profile: DeviceProfile,
    cloud_profile: Path | None,
    answers: int,
    outages: Outages | None = None,
    log: Path | None = None,
) -> Iterator[tuple[Callable[[], DecisionEnv], Callable[[], None]]]:
    """Yield what makes a device's environment, and what is to be called after each answer: it moves a bar, and minds the verifier.

    The bundled pair answers the prompts of the graphs.

    Args:
        graphs: recorded with the bundled pair; prompts, lens and length of answers are theirs.
        links: that are emulated.
        device_profile: that devices are paced to.
        cloud_profile: that the verifier is paced to; None leaves verifier and devices unpaced.
        answers: in all.
        outages: of the links; None is the default.
        log: of the verifier.

    Raises:
        SyneraError: the graphs are of other models, or the verifier does not start.
    """
    import torch

    from runtime.client import CloudClient
    from runtime.synera.lens import Lens
    from synera_env.synera.live import LivePrompt, SyneraLiveEnv, load_device
    from traces.tasks import scorers

    torch.set_num_threads(1)  # devices go side by side
    lens, limit, paced = Lens.from_tensors(graphs.lens_tensors), graphs.meta.max_new_tokens, cloud_profile is not None
    device = load_device(lens=lens, profile=device_profile, max_new_tokens=limit, paced=paced)
    device.require(graphs.meta.slm_fingerprint, "the recorded graphs")
    prompts = [LivePrompt(text, kind) for text, kind in zip(graphs.meta.prompts, graphs.meta.kinds, strict=True)]
    with (
        verifier_process(model=bundled.PAIR / "llm", pace=cloud_profile, log=log) as verifier,
        CloudClient(verifier.target) as client,
        progress() as bar,
    ):
        task = bar.add_task(f"live against {verifier.target}", total=answers)

        def answered() -> None:
            verifier.check()  # devices go on alone without it, so it would be noticed nowhere else
            bar.advance(task)

        yield lambda: SyneraLiveEnv(client, device, prompts, scorers.score, links, outages=outages or Outages()), answered
