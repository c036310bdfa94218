"""What the batcher runs for a session and for a stream: results made on the engine's thread, handed to the event loop.

What does not live here: a session's history (engine.py) and which jobs share a batch (scheduler.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cloud.engine.base import Checked, Streamed
from cloud.engine.embedded.batcher import Outcome
from cloud.engine.embedded.forward import Rows, Work
from runtime.errors import CloudError
from runtime.model.distributions import accept_sampled, draw, truncated
from runtime.model.placement import moved
from runtime.rules import Acceptance, accept_greedy
from runtime.sampling import Draws, Purpose, SampledDraft, Sampling


class CheckJob:
    """One forward over what is new of a history and a draft; awaited through `result`. Made on the event loop."""

    def __init__(self, work: Work, draft: Sequence[int], sampled: SampledDraft | None, history: Sequence[int]) -> None:
        """Prepare.

        Args:
            work: ends with the draft and wants the position before it as well.
            draft: token ids to judge.
            sampled: how it was sampled; None judges it greedily.
            history: all tokens before the draft.
        """
        self._work, self._draft, self._sampled, self._history = work, draft, sampled, history
        self._loop = asyncio.get_running_loop()
        self.result: asyncio.Future[Checked] = self._loop.create_future()

    def work(self) -> Work | None:
        """See :class:`cloud.engine.embedded.batcher.Job`."""
        return None if self.result.done() else self._work

    def deliver(self, outcome: Outcome) -> bool:
        """Judge the draft."""
        checked = _checked(self._draft, self._judge(outcome.rows), outcome, len(self._work.tokens))
        self._loop.call_soon_threadsafe(self._settle, checked)
        return False

    def fail(self, error: CloudError) -> None:
        """See :class:`cloud.engine.embedded.batcher.Job`."""
        self._loop.call_soon_threadsafe(self._settle, error)

    def _judge(self, rows: Rows) -> Acceptance:
        if self._sampled is None:
            return accept_greedy(self._draft, rows.choices)
        sampling = self._sampled.sampling
        draws = Draws(sampling.seed, self._history)
        return accept_sampled(self._draft, self._sampled.proposals, truncated(rows.logits, sampling), draws)

    def _settle(self, result: Checked | CloudError) -> None:
        if self.result.done():  # cancelled, or failed when its session was closed
            return
        if isinstance(result, CloudError):
            self.result.set_exception(result)
        else:
            self.result.set_result(result)


class StreamJob:
    """A forward a token, put back by the engine's thread itself so that streams stay together in a batch."""

    def __init__(
        self,
        cache: Any,
        prompt: Sequence[int],
        max_new_tokens: int,
        eos_ids: frozenset[int],
        sampling: Sampling | None = None,
    ) -> None:
        self._cache, self._eos_ids, self._sampling = cache, eos_ids, sampling
        self._draws = None if sampling is None else Draws(sampling.seed, prompt)
        self._position, self._tokens, self._left = 0, tuple(prompt), max_new_tokens
        self._loop = asyncio.get_running_loop()
        self.results: asyncio.Queue[Streamed | CloudError | None] = asyncio.Queue()
        """Tokens, then an error or None."""
        self.abandoned = False
        """Set when nobody reads `results` any more."""

    def work(self) -> Work | None:
        """See :class:`cloud.engine.embedded.batcher.Job`."""
        return None if self.abandoned else Work(self._cache, self._position, self._tokens, 1)

    def deliver(self, outcome: Outcome) -> bool:
        """Hand out a token; go on unless it is the last."""
        [token] = outcome.rows.choices
        if self._sampling is not None and self._draws is not None:
            token = draw(truncated(outcome.rows.logits, self._sampling)[0], self._draws.uniform(Purpose.TOKEN))
            self._draws = self._draws.after([token])
        processed = len(self._tokens)
        self._position += processed
        self._tokens, self._left = (token,), self._left - 1
        self._put(Streamed(token, outcome.queue_ms, outcome.compute_ms, outcome.compute_share_ms, processed))
        more = self._left > 0 and token not in self._eos_ids
        if not more:
            self._put(None)
        return more and not self.abandoned

    def fail(self, error: CloudError) -> None:
        """See :class:`cloud.engine.embedded.batcher.Job`."""
        self._put(error)

    def _put(self, result: Streamed | CloudError | None) -> None:
        self._loop.call_soon_threadsafe(self.results.put_nowait, result)


def _checked(draft: Sequence[int], acceptance: Acceptance, outcome: Outcome, processed_tokens: int) -> Checked:
    accepted, next_token = acceptance
    judged = min(accepted + 1, len(draft))
    *of_draft, of_next = _logprobs(outcome.rows.logits, [*range(judged), accepted], [*draft[:judged], next_token])
    return Checked(
        accepted,
        next_token,
        draft_logprobs=tuple(of_draft),
        next_logprob=of_next,
        queue_ms=outcome.queue_ms,
        compute_ms=outcome.compute_ms,
        compute_share_ms=outcome.compute_share_ms,
        processed_tokens=processed_tokens,
        load=outcome.load,
    )


@torch.inference_mode()
def _logprobs(logits: Tensor, rows: list[int], tokens: list[int]) -> list[float]:
    """Log-probability of tokens[i] by logits[rows[i]], in float32; `rows` never fall. Only these few leave the device.

    A device waits for this, hence as few tensors as can be.
    """
    vocab = logits.shape[-1]
    places = moved(torch.tensor([row * vocab + token for row, token in zip(rows, tokens, strict=True)]), logits.device)
    return logits[: rows[-1] + 1].float().log_softmax(-1).take(places).tolist()
