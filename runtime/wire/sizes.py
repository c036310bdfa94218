"""Exact sizes of the messages, by arithmetic: what a link must carry, in the live and in the replayed world.

Imports neither grpc nor protobuf. What does not live here: how long a link takes for so many bytes (a link trace).
Encoding: https://protobuf.dev/programming-guides/encoding/ (every tag of ours is one byte).
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.sampling import MOST_IDS, SampledDraft

SESSION_ID_CHARACTERS = 32
KEY_CHARACTERS = 32
TOKENIZER_HASH_CHARACTERS = 16
FINGERPRINT_CHARACTERS = 16
GRPC_OVERHEAD_BYTES = 120
"""Added to every message, each way: an estimate of what HTTP/2, gRPC and TCP put around it once a connection's header
table is warm (5 gRPC prefix, 9 to 18 frame headers, 20 to 60 indexed headers or trailers, 40 to 52 TCP/IP)."""

GREEDY_HEADER_BYTES = 58
"""Most bytes of a greedy VerifyRequest that are no token's: session, and the largest seq, prefix and lengths."""

PRECISIONS = ("fp32", "bf16", "int8")
"""Types of hidden states that travel, in the order of the wire's numbers."""
_NUMBER_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
_SCALE_BYTES = {"fp32": 0, "bf16": 0, "int8": 4}

_LONGEST_VARINT = 5  # of a uint32
_ROOM_BYTES = 1024
_TAG = 1
_DOUBLE = _FIXED64 = _TAG + 8


def on_the_link(serialized_bytes: int) -> int:
    """Bytes that a link carries for a message of so many serialized bytes."""
    return serialized_bytes + GRPC_OVERHEAD_BYTES


def varint_bytes(value: int) -> int:
    """Bytes of a non-negative integer as a varint: seven bits a byte."""
    size = 1
    while value >= 128:
        value >>= 7
        size += 1
    return size


def _integer(value: int) -> int:
    return _TAG + varint_bytes(value) if value else 0  # proto3 omits a zero


def _delimited(size: int) -> int:
    return _TAG + varint_bytes(size) + size if size else 0


def _message(size: int) -> int:
    return _TAG + varint_bytes(size) + size  # travels also when it is empty


def _tokens(ids: Sequence[int]) -> int:
    return _delimited(sum(map(varint_bytes, ids)))


def verify_request_bytes(
    prefix_length: int, context: Sequence[int], draft: Sequence[int], seq: int, sampled: SampledDraft | None = None
) -> int:
    """Serialized bytes of a VerifyRequest: greedy, at most GREEDY_HEADER_BYTES and five a token, three by ids below 2^21.

    Args:
        prefix_length: tokens that the cloud holds already.
        context: token ids that it has not seen.
        draft: token ids to check.
        seq: number of the check in its session.
        sampled: how the draft was sampled; None asks for greedy acceptance.
    """
    greedy = greedy_request_bytes(prefix_length, sum(map(varint_bytes, context)), sum(map(varint_bytes, draft)), seq)
    return greedy + (0 if sampled is None else sampled_bytes(sampled))


def greedy_request_bytes(prefix_length: int, context_bytes: int, draft_bytes: int, seq: int) -> int:
    """Serialized bytes of a greedy VerifyRequest, by the varint bytes of its context and draft; see :func:`verify_request_bytes`."""
    named = _delimited(SESSION_ID_CHARACTERS) + _integer(seq) + _integer(prefix_length)
    return named + _delimited(context_bytes) + _delimited(draft_bytes)


def sampled_bytes(sampled: SampledDraft) -> int:
    """Bytes that sampling adds to a VerifyRequest: settings, and what each draft token was drawn from."""
    sampling, proposals = sampled.sampling, sampled.proposals
    settings = 2 * _DOUBLE + _integer(sampling.top_k) + (_FIXED64 if sampling.seed else 0)
    ids = [token for each in proposals for token in each.ids]
    weights = [weight for each in proposals for weight in each.weights[1:]]
    drawn_from = _tokens([len(each.ids) for each in proposals]) + _tokens(ids) + _tokens(weights)
    return _delimited(settings) + _message(drawn_from)


def verify_response_bytes(accepted: int, next_token: int, processed_tokens: int, load: int) -> int:
    """Serialized bytes of a VerifyResponse; its three durations always take the same room.

    Args:
        accepted: draft tokens kept.
        next_token: token id.
        processed_tokens: tokens that the LLM processed.
        load: requests in the batch and waiting.
    """
    return _integer(accepted) + _integer(next_token) + 3 * _DOUBLE + _integer(processed_tokens) + _integer(load)


def open_request_bytes(tokenizer_hash_characters: int = TOKENIZER_HASH_CHARACTERS) -> int:
    """Serialized bytes of an OpenRequest with its key."""
    return _delimited(tokenizer_hash_characters) + _delimited(KEY_CHARACTERS)


def open_response_bytes() -> int:
    """Serialized bytes of an OpenResponse."""
    return _delimited(SESSION_ID_CHARACTERS) + _DOUBLE + _delimited(FINGERPRINT_CHARACTERS)


def row_bytes(hidden: int, precision: str) -> int:
    """Bytes of one hidden state of so many numbers.

    Args:
        hidden: numbers of the state.
        precision: one of :data:`PRECISIONS`; int8 has a scale of four bytes a row.
    """
    return hidden * _NUMBER_BYTES[precision] + _SCALE_BYTES[precision]


def forward_request_bytes(seq: int, prefix_length: int, rows: int, hidden: int, precision: str, returned: int) -> int:
    """Serialized bytes of a ForwardRequest without a slack.

    Args:
        seq: number of the chunk in its session.
        prefix_length: positions that the cloud holds already.
        rows: positions of the chunk.
        hidden: numbers of a hidden state.
        precision: of the states.
        returned: results that are wanted.
    """
    named = _delimited(SESSION_ID_CHARACTERS) + _integer(seq) + _integer(prefix_length)
    states = _delimited(rows * row_bytes(hidden, precision))
    return named + states + _integer(PRECISIONS.index(precision)) + _integer(returned)


def forward_response_bytes(seq: int, returned: int, hidden: int, precision: str, load: int) -> int:
    """Serialized bytes of a ForwardResponse; its five durations always take the same room. See :func:`forward_request_bytes`."""
    return _integer(seq) + _delimited(returned * row_bytes(hidden, precision)) + 5 * _DOUBLE + _integer(load)


def longest_forward_bytes(max_rows: int, hidden: int) -> int:
    """A size that no ForwardRequest of so many rows exceeds; a little room is left, as in :func:`longest_request_bytes`."""
    return _ROOM_BYTES + max_rows * row_bytes(hidden, "fp32")


def longest_request_bytes(context_tokens: int, max_draft_tokens: int) -> int:
    """A size that no request which a model can serve exceeds, whatever its ids; a little room is left for wrong ones, so
    that most of them are told what is wrong.

    Args:
        context_tokens: the model's longest history plus draft.
        max_draft_tokens: longest draft of one check.
    """
    proposed = 1 + MOST_IDS + (MOST_IDS - 1)  # size, ids, weights
    return _ROOM_BYTES + _LONGEST_VARINT * (context_tokens + max_draft_tokens * (1 + proposed))
