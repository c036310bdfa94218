"""Where the bundled files lie, and the bundled link sets; everything here was made by the project's own scripts."""

from __future__ import annotations

from pathlib import Path

from runtime.settings import one_of
from traces.links.generators import LinkState, constant_link, markov_link
from traces.links.trace import LinkTrace

ROOT = Path(__file__).parent
PAIR = ROOT / "pair"
"""Folder of the bundled models: `llm`, `slm`, and their model card."""
ADAPTER = PAIR / "adapter"
"""Folder of HAT's adapter of the bundled LLM, with which its first two layers draft, and of the adapter's card."""
TOURS_FORM = ROOT / "tours.yaml"
"""How the pair of PICE is asked for outlines and passages of tours."""
MEDUSA = PAIR / "medusa"
"""Folder of Medusa heads of the bundled LLM, a baseline beside the adapter, and of their card."""

MAX_NEW_TOKENS = 112
"""Where answers to the bundled tasks are cut; the longest reference answer is shorter."""
NODE_BUDGET = 500
"""Nodes run for a bundled prompt, on the mean: what controllers come to likeliest. Answers are free in wording, so few graphs close."""

_MARKOV_SEEDS = {"train": range(100, 124), "validation": range(200, 208), "test": range(300, 304)}
_REMOTE_GOOD = LinkState(rtt_ms=110.0, uplink_mbps=5.0, downlink_mbps=15.0, dwell_seconds=4.0)
_REMOTE_BAD = LinkState(rtt_ms=450.0, uplink_mbps=0.2, downlink_mbps=0.8, dwell_seconds=3.0)
_REMOTE_SEEDS = range(400, 404)


def graphs(split: str) -> Path:
    """Return the bundled graph file of a split."""
    return ROOT / "graphs" / f"{split}.safetensors"


def hat_graphs(split: str) -> Path:
    """Return the bundled graph file of a split, of HAT."""
    return ROOT / "hat" / f"{split}.safetensors"


def profile(name: str) -> Path:
    """Return the file of a bundled profile: `phone`, `gpu`, or one measured on a named machine."""
    return ROOT / "profiles" / f"{name}.json"


def links(split: str) -> list[LinkTrace]:
    """Return the bundled generated links of a split: those of the families `constant` and `markov` have a round trip or
    seeds of that split alone. The test has also the family `remote`, of a farther cloud over a worse network, so that half
    of the test's changing links are of a kind never trained on.

    Raises:
        SettingError: there is no such split.
    """
    one_of("split", split, tuple(_MARKOV_SEEDS))
    constant = {"train": 60.0, "validation": 50.0, "test": 70.0}[split]
    seeds = _REMOTE_SEEDS if split == "test" else ()
    unseen = [markov_link(seed, good=_REMOTE_GOOD, bad=_REMOTE_BAD, family="remote") for seed in seeds]
    return [constant_link(rtt_ms=constant), *(markov_link(seed) for seed in _MARKOV_SEEDS[split]), *unseen]
