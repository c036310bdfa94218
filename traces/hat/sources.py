"""Where each constant of the simulated testbed comes from, for a reader.

What does not live here: the constants (testbed.py).
"""

from __future__ import annotations

from typing import NamedTuple

from traces.hat.testbed import (
    ACCEPT_LENGTH,
    ANCHOR_TOKENS,
    ANCHOR_TRANSFER_SECONDS,
    ANCHOR_TTFT_SECONDS,
    ANSWER_TOKENS,
    GUESSED,
    STATE_BYTES,
    Fitted,
    Testbed,
)

PAPER, DERIVED, OURS, FITTED_HERE = "paper", "derived", "ours", "fitted"
"""Kinds of constants; see testbed.py."""


class Constant(NamedTuple):
    """A constant as it is shown."""

    name: str
    value: str
    kind: str
    source: str


def constants(testbed: Testbed, fitted: Fitted) -> list[Constant]:
    """Return all that a simulation goes by, those that were fitted last."""
    lengths, drafts = testbed.lengths, testbed.drafting
    anchor = f"{ANCHOR_TOKENS} tokens took {ANCHOR_TTFT_SECONDS} s, {ANCHOR_TRANSFER_SECONDS} s of it transfer"
    low, high = (rate / 1e6 for rate in testbed.uplink_bytes_per_second)
    return [
        Constant("hidden state", f"{STATE_BYTES} B", PAPER, "4096 numbers in fp16"),
        Constant("answer", f"{ANSWER_TOKENS} tokens", PAPER, ""),
        Constant("prompt", f"mean {lengths.mean_tokens:g}, p90 {lengths.p90_tokens:g} tokens", PAPER, "SpecBench"),
        Constant("downlink", "10 to 15 MB/s", PAPER, "Wi-Fi; a rate a transfer, evenly"),
        Constant("accept length", f"{ACCEPT_LENGTH:g}", PAPER, "that the middle's own token counts is our reading"),
        Constant("chunk size", "X*A/beta = W + g(X)/P, 32 to 512", PAPER, "P = 1, as its note gives none; moving averages 0.8"),
        Constant(
            "uplink",
            f"{low:.2f} to {high:g} MB/s",
            DERIVED,
            f"{anchor}: up, and by our reading back, within the paper's 5 to 10 MB/s",
        ),
        Constant(
            "device reads a prompt", _ms(testbed.read_token_seconds, "a token"), DERIVED, f"{anchor}; what the cloud leaves"
        ),
        Constant("device's layers, one token", _ms(testbed.shallow_seconds), DERIVED, "bytes of 2 layers at the fitted rate"),
        Constant("draft step", _ms(testbed.draft_seconds), DERIVED, "bytes of layers, adapter and head at the fitted rate"),
        Constant(
            "prompts' law",
            f"short {lengths.short_mean:.0f}, long {lengths.long_mean:.0f}",
            DERIVED,
            "means of two kinds, from mean and p90; long are 2 of 6 categories; their spreads are ours",
        ),
        Constant(
            "sure drafts", f"{drafts.sure_share:.3f} of tokens", DERIVED, "from the accept length, given what stands of them"
        ),
        Constant(
            "what stands",
            f"{drafts.sure_accepted:g} sure, {drafts.unsure_accepted:g} unsure",
            OURS,
            "a calibrated draft model at eta = 0.6",
        ),
        Constant(
            "whole prompts", "run apart from tokens", OURS, "as servers without chunks did; chunks share forwards with tokens"
        ),
        Constant("who asks", "each request a device of its own", OURS, "Poisson; the paper has 30 boards"),
        Constant(
            "g, base", _ms(fitted.forward_base_seconds), FITTED_HERE, f"guess {_ms(GUESSED.forward_base_seconds)}: a data sheet"
        ),
        Constant(
            "g, a token",
            _ms(fitted.forward_token_seconds),
            FITTED_HERE,
            f"guess {_ms(GUESSED.forward_token_seconds)}: a data sheet",
        ),
        Constant("network, one way", _ms(fitted.network_seconds), FITTED_HERE, f"guess {_ms(GUESSED.network_seconds)}"),
        Constant(
            "device's memory",
            f"{fitted.device_bytes_per_second / 1e9:.0f} GB/s",
            FITTED_HERE,
            f"guess {GUESSED.device_bytes_per_second / 1e9:.0f} GB/s: data sheets",
        ),
        Constant(
            "requests",
            f"{fitted.requests_per_second:.2f} /s",
            FITTED_HERE,
            f"guess {GUESSED.requests_per_second:g} /s: 30 devices, 6 s each",
        ),
        Constant("hit rate", f"{fitted.hit_rate:.2f}", FITTED_HERE, f"guess {GUESSED.hit_rate:g}"),
    ]


def _ms(seconds: float, of: str = "") -> str:
    return f"{1e3 * seconds:.3g} ms {of}".rstrip()
