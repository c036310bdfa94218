"""What one decision is worth, as `evaluate --ablation` prints it and a model card states it.

What does not live here: the measurement (agents/utility.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from agents.utility import REFERENCE, Utility, measure_utility
from synera_env import SyneraReplayEnv
from synera_env.radio import Outages
from traces.links.generators import constant_link
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet
from traces.synera.growing import GrowingGraphs

HEADS = ("rule", "worth a decision", "share of the clairvoyant's", "ranks what pays")


def measured(
    train: GraphSet | GrowingGraphs,
    test: GraphSet | GrowingGraphs,
    device: DeviceProfile,
    cloud: CloudProfile,
    answers: int,
    seed: int,
    finished: Callable[[], object] = lambda: None,
) -> Utility:
    """Measure it where nothing is drawn within an answer: a constant link, the cloud's median queue, no outages.

    Raises:
        UncoveredError: no decision can be taken both ways inside the recorded graphs.
    """
    queue, load = (float(np.median(values)) for values in (cloud.queue_ms_quantiles, cloud.load_quantiles))
    steady = replace(cloud, queue_ms_quantiles=(queue,), load_quantiles=(load,))

    def world(graphs: GraphSet | GrowingGraphs) -> SyneraReplayEnv:
        return SyneraReplayEnv(graphs, (constant_link(),), device, steady, outages=Outages.never())

    return measure_utility(world(train), world(test), answers, seed, finished)


def title(found: Utility, split: str) -> str:
    """Say what was measured."""
    left_out = f", {found.left_out} more left the graphs" if found.left_out else ""
    return (
        f"what one decision is worth: offload or keep, then {REFERENCE} goes on; {found.decisions} decisions{left_out}, "
        f"{found.prompts} {split} prompts; {found.pays:.1%} pay to offload"
    )


def rows(found: Utility) -> list[Sequence[str]]:
    """Return the table's rows, by :data:`HEADS`."""
    told = [
        (name, f"{rule.utility:.4f}", "unknown" if rule.share is None else str(rule.share), _known(rule.ranking))
        for name, rule in found.rules.items()
    ]
    return [*told, ("clairvoyant", f"{found.clairvoyant:.4f}", "", "")]


def _known(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
