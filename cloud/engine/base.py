"""The seam between the verifier and an engine: sessions that check drafts, and streams that decode.

What does not live here: batching, KV and acceptance (each engine's own) and leases, limits, repeats (cloud/sessions.py).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from runtime.errors import CloudUnavailableError
from runtime.sampling import SampledDraft, Sampling


@dataclass(frozen=True)
class MiddleInfo:
    """Which layers of a split model an engine has."""

    first_layers: int
    """Layers before them."""
    last_layers: int
    """Layers behind them."""
    hidden: int
    """Numbers of a hidden state."""
    max_rows: int
    """Longest chunk."""


@dataclass(frozen=True)
class EngineInfo:
    """What an engine serves."""

    engine: str
    """Its name in the registry."""
    model: str
    """Name of the model folder."""
    architecture: str
    fingerprint: str
    """Hash of config and weights."""
    vocab: int
    context_tokens: int
    eos_ids: tuple[int, ...]
    placement: str = "float32 on cpu"
    """Where it runs, and in which arithmetic type; for people."""
    middle: MiddleInfo | None = None
    """What it has of a split model, and then runs chunks alone; None is a whole model, which runs all else."""


@dataclass(frozen=True, slots=True)
class Check:
    """What a session is asked: catch up with the device, judge its draft."""

    prefix_length: int
    """Tokens of the held history to keep; any more are forgotten."""
    context: Sequence[int]
    """Token ids that continue the history from there. With the prefix at least one token."""
    draft: Sequence[int]
    """Token ids to judge; none asks for the next token only."""
    sampled: SampledDraft | None = None
    """How the draft was sampled, and is then judged: by speculative sampling against just these proposals, see
    :func:`runtime.model.distributions.accept_sampled`. None is greedy: what stands is what the LLM would have chosen."""
    slack_seconds: float | None = None
    """How long, from now, the device can do without the verdict; None is not known. For schedulers that go by deadlines."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The verdict on a draft. The session's history is now prefix, context, the accepted tokens and the next one."""

    accepted: int
    """Draft tokens kept, from the first."""
    next_token: int
    """Token id after them: the correction (sampled: the recovered token), or the bonus when all were accepted."""
    draft_logprobs: tuple[float, ...]
    """Natural logarithm of the LLM's probability of each draft token that was judged: the accepted ones and, when there
    is one, the first rejected. The i-th is that of draft[i] after the history and draft[:i]; [min(accepted + 1, n)]. By the
    LLM's plain softmax, also where tokens are sampled by another temperature or from a part of it."""
    next_logprob: float
    """The same of `next_token`, after the history and draft[:accepted]."""
    queue_ms: float
    """From the call to the verdict, less `compute_ms`."""
    compute_ms: float
    """Duration of its forwards, which others may share; one, but for a history that is read in chunks."""
    compute_share_ms: float
    """This check's share of them, by tokens."""
    processed_tokens: int
    """Tokens that the LLM processed for this check."""
    load: int
    """Requests that are there at the end of its last forward, those that it ran included; where another machine is emulated, also
    those of others that it would have beside this one."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a session of a split model is asked: run the middle layers over some positions."""

    prefix_length: int
    """Positions held to keep; any more are forgotten."""
    rows: int
    """Positions that follow, at least one."""
    states: bytes
    """Their hidden states; see :mod:`runtime.wire.tensors`. Rows and bytes fit each other; the caller has seen to that."""
    precision: str
    """Of these and of those returned; one of `runtime.wire.sizes.PRECISIONS`."""
    returned: int
    """How many of the last positions' results are wanted, 0..rows."""
    slack_seconds: float | None = None
    """See :class:`Check`."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A chunk that was run. The session now holds its prefix and its rows."""

    states: bytes
    """Hidden states of the positions asked for, as they leave the middle layers; in the chunk's precision."""
    queue_ms: float
    """As of :class:`Checked`, and so are the next three."""
    compute_ms: float
    compute_share_ms: float
    processed_tokens: int
    load: int


@dataclass(frozen=True, slots=True)
class Streamed:
    """One token of a stream."""

    token: int
    queue_ms: float
    """From the call, or the token before it, to this token, less `compute_ms`."""
    compute_ms: float
    """Duration of its forwards, which others may share."""
    compute_share_ms: float = 0.0
    """This token's share of them, by tokens."""
    processed_tokens: int = 0
    """Tokens that the LLM processed for it: at first the prompt."""
    log_probability: float | None = None
    """By the LLM's own distribution, whatever it was drawn from, nats; None where it was not asked for."""


@dataclass(frozen=True, slots=True)
class Iteration:
    """One forward over a batch of requests, once it is over."""

    seconds: float
    """Its duration."""
    requests: int
    verify_tokens: int
    """Tokens of drafts, each with the position before it."""
    prefill_tokens: int
    """Tokens of prompts and of other history that had to be read (again)."""
    decode_tokens: int
    """Tokens of streams, one each."""
    waiting: int
    """Requests that are there at its end, beside those that it ran."""


@dataclass(frozen=True, slots=True)
class EngineUsage:
    """What an engine holds at a moment."""

    waiting: int
    """Requests that wait for a forward."""
    blocks: int
    """Of the KV pool, all; 0 where the engine has none that it knows of."""
    used_blocks: int
    """Held by sessions and streams."""
    cached_blocks: int
    """Held by nobody, and kept for who begins alike until they are needed."""
    evicted: int
    """Since the start: how often a sequence lost its blocks to others, and had to be read again if it went on."""


class Engine(Protocol):
    """Runs the LLM. Who batches and who owns KV and token histories is the engine's business.

    All methods are called on one event loop. Sessions and streams run concurrently. Checks of one session are serialised
    by the caller: the next begins when the one before has ended, however it ended. At most `ServerConfig.max_sessions`
    sessions, and `Limits.max_streams` streams, are open at a time. Once stopped or dead the engine answers with CloudUnavailableError.
    """

    @property
    def info(self) -> EngineInfo:
        """What is served; known before `start`, to any thread."""
        ...

    @property
    def pid(self) -> int:
        """The process that it runs in: the server's, or one of its own."""
        ...

    @property
    def usage(self) -> EngineUsage:
        """What it holds now; to any thread."""
        ...

    def watch(self, watcher: Callable[[Iteration], None]) -> None:
        """Have every forward told of, by whatever thread it ran on; called before `start`, once a watcher."""
        ...

    async def start(self) -> None:
        """Begin to serve; called once, by the server's life, before anything but `info`.

        Raises:
            SyneraError: it cannot; nothing is left behind.

        Cancellation: leaves what `stop` frees.
        """
        ...

    async def stop(self) -> None:
        """End, and free every session, stream and cache; called by the server's life, also after a failed or no `start`.

        What waits fails as CloudUnavailableError; a forward in hand is waited for. Stopping twice does nothing more.

        Cancellation: the end goes on, unwatched.
        """
        ...

    async def failed(self) -> CloudUnavailableError:
        """Wait until the engine has died of itself, and return why; called by the server's life, after `start`.

        Never returns in a healthy life, nor because of `stop`. What waited when the engine died has failed by then.

        Cancellation: harmless.
        """
        ...

    async def open(self, session_id: str, account: str = "") -> None:
        """Start a session with an empty history.

        Args:
            session_id: a fresh id, chosen by the caller.
            account: whom its work is charged to, where work is shared out fairly; and beyond whose sessions nothing of its
                prompts may be told by how fast others are answered.

        Raises:
            CloudUnavailableError: stopped or dead.
            ValueError: the id is open already.

        Cancellation: the session may or may not be there; `close` it.
        """
        ...

    async def check(self, session_id: str, check: Check) -> Checked:
        """Catch up and judge a draft; which tokens stand is decided here.

        Args:
            session_id: an open session, of which no other check is running.
            check: its tokens, those of proposals included, are in the vocabulary, they fit the context, and the proposals
                fit the draft; the caller has seen to that.

        Raises:
            SessionLostError: the session, or some of the prefix, is not held (any more); also when the session is closed
                meanwhile.
            CloudBusyError: the engine can hold no more, or not as much as this.
            CloudUnavailableError: stopped or dead.
            CloudError: the forward failed; others in it, too.

        After an error other than SessionLostError, and after a cancellation, the session lives on and holds at least the
        prefix.

        Cancellation: the check is dropped at once, also where it waits; a forward in hand ends first, its result unseen.
        """
        ...

    async def forward(self, session_id: str, chunk: Chunk) -> Ran:
        """Run the middle layers of a split model; in all else as `check`.

        Raises:
            SessionLostError: the session, or some of the prefix, is not held (any more).
            CloudRejectedError: the states cannot be read, or this engine has a whole model.
            CloudError: as of `check`.
        """
        ...

    def stream(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling | None = None,
        account: str = "",
        log_probabilities: bool = False,
    ) -> AsyncGenerator[Streamed, None]:
        """Decode until EOS (which is yielded) or `max_new_tokens`: the cloud-only baseline.

        Nothing is held before the first step. Each stream is a sequence of its own, of no session.

        Args:
            prompt: token ids in the vocabulary, at least one.
            max_new_tokens: at least 1; with the prompt it fits the context. The caller has seen to both.
            sampling: how tokens are drawn, each with the TOKEN uniform of its place; None decodes greedily.
            account: see `open`.
            log_probabilities: tell each token's, too.

        Raises:
            CloudUnavailableError: stopped or dead.
            CloudError: the forward failed.

        Cancellation, and closing the iterator, which a caller that leaves early must do: the decoding ends and what it
        held is freed at once, but for what a forward in hand still borrows.
        """
        ...

    async def close(self, session_id: str) -> None:
        """Release a session and all it holds, but for what a forward in hand still borrows; nothing happens when there is none.

        May be called while a check of it runs: that raises SessionLostError, unless its verdict has been made. Raises
        nothing.

        Cancellation: the session is released all the same.
        """
        ...
