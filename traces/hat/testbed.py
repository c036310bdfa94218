"""The testbed of HAT's paper (arXiv 2503.18989): its table of SpecBench with Vicuna-7B, and the constants of a simulation of it.

Each constant is one of four kinds, and says which. *The paper's* are stated there. *Derived* ones follow from those by arithmetic.
*Ours* are assumptions that nobody measured. *Fitted* ones (`Fitted`) were chosen so that the simulation gives the table's figures: that
these come out says little by itself; what constants say of the other rows that were fitted to two (`FITTED_TO_SOME`), or guessed from
data sheets (`GUESSED`), says more, and the command prints both. Two readings of ours were chosen with the table in view: that all
states of a prompt come back (simulation.py), and that whole prompts do not share forwards with tokens (middle.py).
What does not live here: the simulation (simulation.py), the prompts' lengths (lengths.py), and the fit (fit.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import log
from typing import Self

from scipy.optimize import brentq

from runtime.errors import SettingError
from runtime.settings import above, whole, within
from traces.hat.drafting import DraftLaw
from traces.hat.lengths import PromptLengths

STATE_BYTES = 8_192
"""Of a token's hidden state: 4,096 numbers in fp16. The paper's."""
ANSWER_TOKENS = 128
"""The paper's."""
TESTBED_DEVICES = 30
"""Jetson boards. The paper's."""
UPLINK_BYTES_PER_SECOND = (5e6, 10e6)
"""Wi-Fi, least and most. The paper's."""
DOWNLINK_BYTES_PER_SECOND = (10e6, 15e6)
"""Likewise."""
ANCHOR_TOKENS, ANCHOR_TTFT_SECONDS, ANCHOR_TRANSFER_SECONDS = 2_000, 3.57, 3.20
"""A prompt that was sent whole, its time to first token, and how much of it was transfer. The paper's."""
HISTORY = 0.8
"""Weight of the past in moving averages. The paper's."""
MOST_AHEAD_STEPS = 8
"""Most that are drafted while a verification is away. Ours."""
MOST_PROMPT_TOKENS = 4_096 - ANSWER_TOKENS
"""What Vicuna's context leaves beside an answer. Derived."""
ACCEPT_LENGTH = 2.06
"""Tokens of an answer for each verification, the middle's own among them. The paper's; that its own is counted is our reading."""
ONE_DEVICE_SPEEDUP = 1.65
"""Of decoding, with drafts. The paper's; nothing is fitted to it."""

_LAYER_PARAMETERS = 4 * 4_096**2 + 3 * 4_096 * 11_008
SHALLOW_BYTES = 2 * 2 * _LAYER_PARAMETERS
"""The device's two layers in fp16. Derived from the model's public shape."""
HEAD_BYTES = 2 * 32_000 * 4_096
"""Likewise."""
ADAPTER_BYTES = 2 * 4 * 4_096**2
"""The adapter's four square matrices in fp16. Derived."""


@dataclass(frozen=True)
class Method:
    """A row of the paper's table."""

    key: str
    """As the command names it."""
    name: str
    ttft_ms: float
    tbt_ms: float
    chunking: bool = False
    """Prompts go in chunks of the paper's size, each sent while the one before it is run."""
    drafts: bool = False
    """Speculative decoding."""
    ahead: bool = False
    """Parallel drafting: on while a verification is away."""


METHODS = (
    Method("u-shape", "U-shape", 655.6, 52.3),
    Method("chunking", "+ prompt chunking", 384.0, 39.4, chunking=True),
    Method("speculative", "+ speculative decoding", 655.3, 38.3, drafts=True),
    Method("both", "+ both", 384.3, 30.6, chunking=True, drafts=True),
    Method("parallel", "+ both, parallel drafting", 384.2, 26.4, chunking=True, drafts=True, ahead=True),
)
"""The paper's ablation on SpecBench with Vicuna-7B, milliseconds."""


@dataclass(frozen=True)
class Fitted:
    """The only constants that were fitted to the paper's figures; `GUESSED` says where the fit began, and was weakly pulled to.

    Raises:
        SettingError: a value out of the range that is stated beside it.
    """

    network_seconds: float
    """One way, of a message of no length: 1e-6 to 0.1. Told by TBT."""
    forward_base_seconds: float
    """Of a forward of the cloud's 30 layers, 1e-6 to 1. Told by TBT."""
    forward_token_seconds: float
    """Of each token in it, 1e-9 to 0.01. Told by how much TBT chunks save."""
    device_bytes_per_second: float
    """At which a device reads its weights, 1e9 to 1e13: decoding is bound by that. Told by what drafts cost."""
    requests_per_second: float
    """Poisson, 0.01 to 100. Told by how much TBT chunks save."""
    hit_rate: float
    """Share of verifications after which the draft made meanwhile is of use, 0 to 1. Told by the row of parallel drafting alone."""

    def __post_init__(self) -> None:
        within("network_seconds", self.network_seconds, 1e-6, 0.1)
        within("forward_base_seconds", self.forward_base_seconds, 1e-6, 1)
        within("forward_token_seconds", self.forward_token_seconds, 1e-9, 0.01)
        within("device_bytes_per_second", self.device_bytes_per_second, 1e9, 1e13)
        within("requests_per_second", self.requests_per_second, 0.01, 100)
        within("hit_rate", self.hit_rate, 0, 1)


GUESSED = Fitted(
    network_seconds=0.004,
    forward_base_seconds=30 * 2 * _LAYER_PARAMETERS / 768e9,
    forward_token_seconds=30 * 2 * _LAYER_PARAMETERS / (0.6 * 155e12),
    device_bytes_per_second=171e9,
    requests_per_second=5.0,
    hit_rate=0.6,
)
"""What data sheets suggest, fitted to nothing; ours, and no blind test: written down after first trials of the simulation. In order: a busy Wi-Fi; 30 layers in fp16 read at one RTX A6000's 768 GB/s, and
calculated at 60 % of its 155 Tflop/s (data sheet); between a Jetson AGX Xavier's 137 GB/s and an AGX Orin's 205 GB/s (data sheets); 30
devices that each ask every 6 s; and that all before a draft's tail stands (0.8 by the law of drafts) and the tail is a candidate (0.75).
"""


FITTED = Fitted(
    network_seconds=0.003843,
    forward_base_seconds=0.015229,
    forward_token_seconds=8.9408e-5,
    device_bytes_per_second=1.6448e11,
    requests_per_second=5.321,
    hit_rate=0.5769,
)
"""Fitted to all ten figures of the table."""

SOME_ROWS = ("u-shape", "both")
FITTED_TO_SOME = Fitted(
    network_seconds=0.004022,
    forward_base_seconds=0.014070,
    forward_token_seconds=1.0104e-4,
    device_bytes_per_second=1.8395e11,
    requests_per_second=4.683,
    hit_rate=0.6,
)
"""Fitted to the four figures of `SOME_ROWS` alone: what it says of the other rows is predicted."""


@dataclass(frozen=True)
class Testbed:
    """Everything that the simulation goes by, in seconds and bytes. `Testbed.of` makes the paper's.

    Raises:
        SettingError: a value out of the range that is stated beside it.
    """

    __test__ = False  # no class of tests, whatever its name looks like

    uplink_bytes_per_second: tuple[float, float]
    """Each transfer's rate is drawn evenly from here: the widest part of the paper's range that is even around the fitted mean."""
    forward_base_seconds: float
    """Fitted."""
    forward_token_seconds: float
    """Fitted."""
    shallow_seconds: float
    """The device's layers over one token: their bytes at the fitted rate."""
    draft_seconds: float
    """A step of the draft model: layers, adapter and head."""
    head_seconds: float
    """The head over what comes back."""
    read_token_seconds: float
    """The device's layers over each token of a prompt. Derived: what the 2,000-token prompt's 3.57 s leave beside transfer and cloud."""
    network_seconds: float
    """Fitted."""
    hit_rate: float
    """Fitted."""
    downlink_bytes_per_second: tuple[float, float] = DOWNLINK_BYTES_PER_SECOND
    """Each transfer's rate is drawn evenly from here. The paper's."""
    token_budget: int = 4_096
    """Most tokens in a forward. Ours."""
    lengths: PromptLengths = field(default_factory=PromptLengths)
    drafting: DraftLaw = field(default_factory=lambda: DraftLaw.of(ACCEPT_LENGTH))

    def __post_init__(self) -> None:
        for name in ("uplink_bytes_per_second", "downlink_bytes_per_second"):
            low, high = getattr(self, name)
            above(name, low, 0)
            within(name, high, low)
        for name in ("shallow_seconds", "draft_seconds", "head_seconds"):
            above(name, getattr(self, name), 0)
        for name in ("forward_base_seconds", "forward_token_seconds", "network_seconds"):
            within(name, getattr(self, name), 0)
        if self.read_token_seconds < 0:
            raise SettingError("the cloud or the link takes longer over a prompt of 2,000 tokens than the paper's 3.57 s")
        within("hit_rate", self.hit_rate, 0, 1)
        whole("token_budget", self.token_budget, self.lengths.most_tokens, 1_000_000)

    @classmethod
    def of(cls, fitted: Fitted) -> Self:
        """Derive what follows from the paper's figures and the fitted constants.

        Raises:
            SettingError: the fitted constants cannot be together.
        """
        shallow, draft, head = (
            size / fitted.device_bytes_per_second
            for size in (SHALLOW_BYTES, SHALLOW_BYTES + ADAPTER_BYTES + HEAD_BYTES, HEAD_BYTES)
        )
        cloud = fitted.forward_base_seconds + ANCHOR_TOKENS * fitted.forward_token_seconds
        left = ANCHOR_TTFT_SECONDS - ANCHOR_TRANSFER_SECONDS - shallow - head - cloud - 2 * fitted.network_seconds
        return cls(
            uplink_bytes_per_second=_uplink(),
            network_seconds=fitted.network_seconds,
            forward_base_seconds=fitted.forward_base_seconds,
            forward_token_seconds=fitted.forward_token_seconds,
            shallow_seconds=shallow,
            draft_seconds=draft,
            head_seconds=head,
            read_token_seconds=left / ANCHOR_TOKENS,
            hit_rate=fitted.hit_rate,
        )

    def with_uplink(self, bytes_per_second: float) -> Self:
        """Return a testbed whose uplinks have that rate on the mean, and vary as much."""
        low, high = self.uplink_bytes_per_second
        factor = bytes_per_second / ((low + high) / 2)
        return replace(self, uplink_bytes_per_second=(low * factor, high * factor))


def mean_byte_seconds(rates: tuple[float, float]) -> float:
    """Return the mean time of a byte at rates that are drawn evenly from a range."""
    low, high = rates
    return 1 / low if low == high else log(high / low) / (high - low)


def _uplink() -> tuple[float, float]:
    """Rates whose mean time of a byte is what the 2,000-token prompt's transfer leaves beside the way back."""
    byte_seconds = ANCHOR_TRANSFER_SECONDS / (ANCHOR_TOKENS * STATE_BYTES) - mean_byte_seconds(DOWNLINK_BYTES_PER_SECOND)
    least, most = UPLINK_BYTES_PER_SECOND
    return float(brentq(lambda low: mean_byte_seconds((low, most)) - byte_seconds, least, most)), most
