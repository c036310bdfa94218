"""HAT's rules (arXiv 2503.18989) as pure functions of plain values: how much of a prompt to send at once, how long to draft on.

The device, the replay and the simulated testbed call the same ones. What does not live here: who measures what they are given,
and Synera's rules (runtime/rules.py).
"""

from __future__ import annotations

import math

from runtime.settings import above, whole, within

LEAST_CHUNK_TOKENS, MOST_CHUNK_TOKENS = 32, 512
"""The paper's range of chunk sizes."""

_ROUNDING = 1e-9
"""Keeps a quotient that is whole but for rounding, such as 0.3 / 0.1, from being cut by one."""


def chunk_tokens(
    bytes_per_token: float,
    uplink_bytes_per_second: float,
    waiting_seconds: float,
    forward_base_seconds: float,
    forward_token_seconds: float,
    pipeline_stages: int = 1,
    least: int = LEAST_CHUNK_TOKENS,
    most: int = MOST_CHUNK_TOKENS,
) -> int:
    """Return the chunk size X whose upload lasts as long as the chunk before it waits and is run: X·A/β = W + g(X)/P.

    With g(X) = a + b·X, X = (W + a/P) / (A/β - b/P), rounded down and clipped. Where the cloud takes longer over a token than
    the link does, no chunk is large enough, and the largest is best. That g is linear is our reading; the balance is the paper's.

    Args:
        bytes_per_token: A, of a hidden state as it travels.
        uplink_bytes_per_second: β.
        waiting_seconds: W, from a chunk's arrival in the cloud to the beginning of its forward.
        forward_base_seconds: a, of a forward of no tokens.
        forward_token_seconds: b, of each token more.
        pipeline_stages: P, forwards that the cloud runs one behind the other.
        least: tokens.
        most: tokens.

    Raises:
        SettingError: an argument is out of its range.
    """
    above("bytes_per_token", bytes_per_token, 0)
    above("uplink_bytes_per_second", uplink_bytes_per_second, 0)
    within("waiting_seconds", waiting_seconds, 0)
    within("forward_base_seconds", forward_base_seconds, 0)
    within("forward_token_seconds", forward_token_seconds, 0)
    whole("pipeline_stages", pipeline_stages, 1, 1_000)
    whole("least", least, 1, 1_000_000)
    whole("most", most, least, 1_000_000)
    fixed = waiting_seconds + forward_base_seconds / pipeline_stages
    gained = bytes_per_token / uplink_bytes_per_second - forward_token_seconds / pipeline_stages
    if gained * most <= fixed:  # also where it is not positive
        return most
    return max(least, math.floor(fixed / gained + _ROUNDING))


def evenly(left_tokens: int, chunk: int, most: int = MOST_CHUNK_TOKENS) -> int:
    """Return the size of the next chunk so that what is left goes in equal ones, smaller than `chunk` only where `most` asks for it; ours.

    A remainder smaller than a chunk is there before the cloud is done with the chunk in front of it, and waits, when all wait for it.

    Args:
        left_tokens: of the prompt.
        chunk: tokens, as `chunk_tokens` balances them.
        most: tokens.

    Raises:
        SettingError: an argument is out of its range.
    """
    whole("left_tokens", left_tokens, 0, 1_000_000)
    whole("most", most, 1, 1_000_000)
    whole("chunk", chunk, 1, most)
    pieces = max(1, left_tokens // chunk, math.ceil(left_tokens / most))
    return math.ceil(left_tokens / pieces)


def draft_steps(verify_seconds: float, up_seconds: float, down_seconds: float, draft_seconds: float, most: int) -> int:
    """Return λ, how many steps a device can draft while a verification is away: ⌊(T_verify + T_up + T_down) / t_draft⌋.

    Args:
        verify_seconds: waiting and forward in the cloud.
        up_seconds: of the draft's hidden states.
        down_seconds: of what comes back.
        draft_seconds: of one step of the draft model.
        most: the longest draft.

    Raises:
        SettingError: an argument is out of its range.
    """
    within("verify_seconds", verify_seconds, 0)
    within("up_seconds", up_seconds, 0)
    within("down_seconds", down_seconds, 0)
    above("draft_seconds", draft_seconds, 0)
    whole("most", most, 0, 1_000_000)
    away = verify_seconds + up_seconds + down_seconds
    return most if away >= most * draft_seconds else math.floor(away / draft_seconds + _ROUNDING)
