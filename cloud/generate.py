"""The LLM's own answer as a stream: the cloud-only baseline, with its place in the table of sessions.

What does not live here: decoding (the engine's), messages and statuses (service.py).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from cloud.engine.base import Engine, Streamed
from cloud.sessions import SessionTable
from cloud.verify import check_vocabulary
from runtime.errors import CloudRejectedError
from runtime.sampling import Sampling


class Generation:
    """Streams over one engine. All methods run on the engine's event loop."""

    def __init__(self, engine: Engine, table: SessionTable) -> None:
        self._engine, self._table = engine, table

    async def generate(
        self, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling | None = None, account: str = ""
    ) -> AsyncGenerator[Streamed, None]:
        """Decode until EOS, `max_new_tokens` or the end of the context; close the iterator when leaving early.

        Args:
            prompt: token ids, not looked at yet: they may be too many, and a message's own.
            max_new_tokens: at least 1.
            sampling: how tokens are drawn; None decodes greedily.
            account: whom the work is charged to.

        Raises:
            CloudRejectedError: the prompt is empty, too long or not of this vocabulary, or no token is asked for.
            CloudBusyError: too many sessions.
            CloudError: the engine failed, or the server stops.
        """
        info = self._engine.info
        room = min(max_new_tokens, info.context_tokens - len(prompt))
        if len(prompt) < 1 or room < 1:
            raise CloudRejectedError(
                f"cannot generate {max_new_tokens} tokens after a prompt of {len(prompt)}; both must be at least 1 and the prompt below the LLM's context of {info.context_tokens}"
            )
        check_vocabulary(prompt, info.vocab)
        place = await self._table.open()
        place.running += 1
        try:
            async with aclosing(self._engine.stream(tuple(prompt), room, sampling, account)) as stream:
                async for token in stream:
                    yield token
        finally:
            self._table.remove(place.session_id, None)  # what it cost measured.py tells
