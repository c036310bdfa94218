"""The LLM's own answer as a stream: the cloud-only baseline.

The engine never waits for a reader: its work ends as soon as the answer is decoded, which is then kept until it is read.

What does not live here: decoding (the engine's), messages, statuses and readers that do not read (service.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from cloud.admission import Admission, Ticket
from cloud.engine.base import Engine, Streamed
from cloud.identity import NOBODY, Client
from cloud.verify import check_vocabulary, check_whole
from runtime.errors import CloudBusyError, CloudRejectedError
from runtime.sampling import Sampling


class Generation:
    """Streams over one engine. All methods run on the engine's event loop."""

    def __init__(self, engine: Engine, admission: Admission) -> None:
        self._engine, self._admission = engine, admission

    async def generate(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling | None = None,
        client: Client = NOBODY,
        log_probabilities: bool = False,
    ) -> AsyncGenerator[Streamed, None]:
        """Decode until EOS, `max_new_tokens` or the end of the context; close the iterator when leaving early.

        Args:
            prompt: token ids, not looked at yet: they may be too many, and a message's own.
            max_new_tokens: at least 1.
            sampling: how tokens are drawn; None decodes greedily.
            client: who asks.
            log_probabilities: tell each token's, too.

        Raises:
            CloudRejectedError: the prompt is empty, too long or not of this vocabulary, no token is asked for, or this verifier
                writes none.
            CloudBusyError: too many streams, or too much to do.
            CloudError: the engine failed, or the server stops.
        """
        info = self._engine.info
        check_whole(info)
        room = min(max_new_tokens, info.context_tokens - len(prompt))
        if len(prompt) < 1 or room < 1:
            raise CloudRejectedError(
                f"cannot generate {max_new_tokens} tokens after a prompt of {len(prompt)}; both must be at least 1 and the prompt below the LLM's context of {info.context_tokens}"
            )
        check_vocabulary(prompt, info.vocab)
        ticket = self._admission.admit(client.account, len(prompt) + room, stream=True)
        decoded: asyncio.Queue[Streamed | None] = asyncio.Queue()  # at most `room` tokens, and the end
        stream = self._engine.stream(tuple(prompt), room, sampling, client.account, log_probabilities)
        decoding = asyncio.create_task(self._decode(stream, len(prompt), decoded, ticket))
        decoding.add_done_callback(lambda _: decoded.put_nowait(None))
        try:
            while (token := await decoded.get()) is not None:
                yield token
            decoding.result()  # raises what ended it
        except CloudBusyError as busy:
            raise self._admission.hinted(busy) from None
        finally:
            decoding.cancel()
            try:
                await asyncio.wait([decoding])
            finally:
                ticket.end()

    async def _decode(
        self,
        stream: AsyncGenerator[Streamed, None],
        prompt_tokens: int,
        decoded: asyncio.Queue[Streamed | None],
        ticket: Ticket,
    ) -> None:
        count = 0
        async with aclosing(stream):
            async for token in stream:
                decoded.put_nowait(token)
                count += 1
        ticket.worked(prompt_tokens + count)
