"""What the cloud says, taken with suspicion: each message becomes values that are in range, or a BadAnswerError.

What does not live here: the calls (client.py) and what an answer means for a chunk (synera/verifier.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from runtime.errors import BadAnswerError
from runtime.pice.lines import Line
from runtime.settings import plain, shown
from runtime.wire import synera_pb2 as pb
from runtime.wire.sizes import SESSION_ID_CHARACTERS, row_bytes

MOST_TOKEN_IDS = 2**24
"""Largest vocabulary that is believed; a device's floats hold every id below it exactly."""
MOST_RETRY_AFTER_SECONDS = 60.0
"""A busy verifier is left alone no longer for its word; it may be asked to wait once more then."""
MOST_LOAD = 2**20
"""Most requests that a verifier is believed to have at hand. Ours, as is every limit here that the wire does not state."""
_LARGEST_LOG_PROBABILITY = 1e-3  # rounding may bring one above 0
_MOST_TOKEN_CHARACTERS = 1024
_MOST_LAYERS, _MOST_HIDDEN = 1024, 2**17
_SESSION_ID = re.compile(rf"[0-9a-f]{{{SESSION_ID_CHARACTERS}}}")
_MILLISECONDS = re.compile(r"[0-9]{1,18}")
_HASH = re.compile(r"[!-~]{1,128}")


@dataclass(frozen=True)
class MiddleInfo:
    """Which layers of a split model the cloud has."""

    first_layers: int
    last_layers: int
    hidden: int
    max_rows: int
    """Longest chunk."""


@dataclass(frozen=True)
class ModelInfo:
    """What the cloud serves; the wire's ModelInfoResponse."""

    model: str
    architecture: str
    fingerprint: str
    tokenizer_hash: str
    context_tokens: int
    max_draft_tokens: int
    eos_ids: tuple[int, ...]
    vocab: int
    engine: str
    paced: bool
    middle: MiddleInfo | None = None
    """None is a whole model."""


class Opened(NamedTuple):
    """A session in the cloud."""

    session_id: str
    fingerprint: str
    """Of the model that serves it."""


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    """One token of the cloud-only baseline."""

    token: int
    queue_seconds: float
    compute_seconds: float
    """Duration of its batch's forward."""
    log_probability: float | None = None
    """By the LLM's own distribution, nats; None where it was not asked for."""


@dataclass(frozen=True, slots=True)
class SketchedLine:
    """A key point of an answer."""

    line: Line
    tokens: int
    """Written since the sketch began, the end of this line among them."""
    queue_seconds: float
    """Since the line before."""
    compute_seconds: float
    """Duration of its batches' forwards, likewise."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What the cloud says of a draft."""

    accepted: int
    next_token: int
    queue_seconds: float
    compute_seconds: float
    share_seconds: float
    """This request's share of the compute."""
    processed_tokens: int
    load: int


@dataclass(frozen=True, slots=True)
class Ran:
    """What the cloud says of a chunk of states."""

    states: bytes
    queue_seconds: float
    compute_seconds: float
    share_seconds: float
    """This chunk's share of the compute."""
    forward_seconds: float
    """By the cloud's monitor: of any forward."""
    token_seconds: float
    """And of each token in it."""
    load: int


def read_model_info(answer: pb.ModelInfoResponse) -> ModelInfo:
    """Read what is served.

    Raises:
        BadAnswerError: there can be no such model.
    """
    for name in ("fingerprint", "tokenizer_hash"):
        value = getattr(answer, name)
        _believe(_HASH.fullmatch(value), f"{name}={shown(value)} is no hash")
    _whole(answer, "vocab", 1, MOST_TOKEN_IDS)
    _whole(answer, "context_tokens", 2)
    _whole(answer, "max_draft_tokens", 1)
    wrong = next((each for each in answer.eos_ids if each >= answer.vocab), None)
    _believe(wrong is None, f"the end token {wrong} is outside its vocabulary of {answer.vocab}")
    return ModelInfo(
        model=plain(answer.model),
        architecture=plain(answer.architecture),
        fingerprint=answer.fingerprint,
        tokenizer_hash=answer.tokenizer_hash,
        context_tokens=answer.context_tokens,
        max_draft_tokens=answer.max_draft_tokens,
        eos_ids=tuple(answer.eos_ids),
        vocab=answer.vocab,
        engine=plain(answer.engine),
        paced=answer.paced,
        middle=_read_middle(answer.middle) if answer.HasField("middle") else None,
    )


def _read_middle(answer: pb.Middle) -> MiddleInfo:
    _whole(answer, "first_layers", 0, _MOST_LAYERS)
    _whole(answer, "last_layers", 0, _MOST_LAYERS)
    _whole(answer, "hidden", 1, _MOST_HIDDEN)
    _whole(answer, "max_rows", 1)
    return MiddleInfo(answer.first_layers, answer.last_layers, answer.hidden, answer.max_rows)


def read_opened(answer: pb.OpenResponse) -> Opened:
    """Read a session's id and model; whether it is the right model is for who knows which that is.

    Raises:
        BadAnswerError: no verifier names its sessions so.
    """
    _believe(_SESSION_ID.fullmatch(answer.session_id), f"session_id={shown(answer.session_id)} is not as the contract says")
    return Opened(answer.session_id, answer.fingerprint)


def read_generated(answer: pb.GenerateResponse, longest_seconds: float, log_probability: bool = False) -> GeneratedToken:
    """Read a token of a stream that was given `longest_seconds`, and its log-probability, where that was asked for.

    Raises:
        BadAnswerError: a figure is out of range.
    """
    _whole(answer, "token", 0, MOST_TOKEN_IDS - 1)
    queue, compute = (_seconds(answer, name, longest_seconds) for name in ("queue_ms", "compute_ms"))
    if not log_probability:
        return GeneratedToken(answer.token, queue, compute)
    said = answer.log_probability
    if not answer.HasField("log_probability") or not math.isfinite(said) or said > _LARGEST_LOG_PROBABILITY:
        raise BadAnswerError(f"the verifier says log_probability={said} of a token; it must be a number of at most 0")
    return GeneratedToken(answer.token, queue, compute, said)


def read_sketched(answer: pb.SketchResponse, tokens: int, most_tokens: int, longest_seconds: float) -> SketchedLine:
    """Read a line of a sketch.

    Args:
        answer: the message.
        tokens: that were written up to the line before.
        most_tokens: that may be written.
        longest_seconds: how long the call was given.

    Raises:
        BadAnswerError: a figure is out of range, or the line is empty or longer than its tokens can say.
    """
    _whole(answer, "tokens", tokens, most_tokens)
    queue, compute = (_seconds(answer, name, longest_seconds) for name in ("queue_ms", "compute_ms"))
    size = len(answer.text) + len(answer.heading)
    if not answer.text or size > most_tokens * _MOST_TOKEN_CHARACTERS:
        raise BadAnswerError(
            f"the verifier sent a line of {size} characters; it must have some, and no more than {most_tokens} tokens can say"
        )
    return SketchedLine(Line(answer.text, answer.heading), answer.tokens, queue, compute)


def read_checked(
    answer: pb.VerifyResponse, *, history_tokens: int, draft: Sequence[int], vocab: int, longest_seconds: float
) -> Checked:
    """Read a verdict.

    Args:
        answer: the message.
        history_tokens: length of what the draft follows.
        draft: token ids that were checked.
        vocab: token ids that the device knows.
        longest_seconds: how long the call was given.

    Raises:
        BadAnswerError: a figure is out of range, or they contradict each other.
    """
    _whole(answer, "accepted", 0, len(draft))
    _whole(answer, "next_token", 0, vocab - 1)
    _whole(answer, "processed_tokens", 0, history_tokens + len(draft))
    _whole(answer, "load", 0, MOST_LOAD)
    refused = draft[answer.accepted] if answer.accepted < len(draft) else None
    _believe(answer.next_token != refused, f"it refuses draft token {refused} and puts the same in its place")
    queue, compute, share = (_seconds(answer, name, longest_seconds) for name in ("queue_ms", "compute_ms", "compute_share_ms"))
    _believe(queue + compute <= longest_seconds, f"{queue + compute:g} s of work in a call of at most {longest_seconds:g} s")
    _believe(share <= compute * (1 + 1e-9), f"compute_share_ms={share * 1e3:g} is more than compute_ms={compute * 1e3:g}")
    return Checked(answer.accepted, answer.next_token, queue, compute, share, answer.processed_tokens, answer.load)


def read_ran(answer: pb.ForwardResponse, *, hidden: int, precision: str, returned: int, longest_seconds: float) -> Ran:
    """Read what became of a chunk of states.

    Args:
        answer: the message.
        hidden: numbers of a state.
        precision: that the chunk had.
        returned: results that it asked for.
        longest_seconds: how long it was given.

    Raises:
        BadAnswerError: a figure is out of range, or there are not as many states as were asked for.
    """
    wanted = returned * row_bytes(hidden, precision)
    _believe(len(answer.states) == wanted, f"{len(answer.states)} bytes of states, not the {wanted} that were asked for")
    _whole(answer, "load", 0, MOST_LOAD)
    names = ("queue_ms", "compute_ms", "compute_share_ms", "forward_ms", "token_ms")
    queue, compute, share, forward, token = (_seconds(answer, name, longest_seconds) for name in names)
    _believe(share <= compute * (1 + 1e-9), f"compute_share_ms={share * 1e3:g} is more than compute_ms={compute * 1e3:g}")
    return Ran(answer.states, queue, compute, share, forward, token, answer.load)


def read_retry_after(milliseconds: object) -> float | None:
    """Read when a busy verifier wants to be asked again, in seconds from now, 0..60; None where it says nothing that makes sense."""
    if not isinstance(milliseconds, str) or not _MILLISECONDS.fullmatch(milliseconds):
        return None
    return min(int(milliseconds) / 1e3, MOST_RETRY_AFTER_SECONDS)


def _whole(answer: Any, name: str, low: int, high: int = 2**32 - 1) -> None:
    """Believe an integer in low..high."""
    value = getattr(answer, name)
    _believe(low <= value <= high, f"{name}={value} is outside {low}..{high}")


def _seconds(answer: Any, name: str, longest_seconds: float) -> float:
    """Read a duration that a call of `longest_seconds` can have had."""
    _believe(answer.HasField(name), f"{name} is missing")
    seconds = getattr(answer, name) / 1e3
    _believe(0 <= seconds <= longest_seconds, f"{name}={seconds * 1e3:g} is outside 0..{longest_seconds * 1e3:g}")
    return float(seconds)


def _believe(credible: object, otherwise: str) -> None:
    if not credible:
        raise BadAnswerError(f"the verifier's answer makes no sense: {otherwise}; is it a verifier of this version?")
