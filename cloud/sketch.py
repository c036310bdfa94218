"""PICE's sketches: the LLM writes the key points of an answer, and each is told as soon as its line is whole.

What does not live here: how a sketch is asked for and what its lines look like (runtime/pice/form.py), decoding (generate.py), messages and statuses (service.py).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from cloud.generate import Generation
from cloud.identity import NOBODY, Client
from runtime.errors import CloudRejectedError, SettingError
from runtime.model.frame import Frame
from runtime.model.tokenizer import load_tokenizer
from runtime.pice.form import Form
from runtime.pice.lines import Line
from runtime.sampling import Sampling

_HALF_WRITTEN = "\N{REPLACEMENT CHARACTER}"
"""What a text ends with whose last character needs tokens that are still to come."""


@dataclass(frozen=True, slots=True)
class Sketched:
    """A line, and what was done since the one before."""

    line: Line
    tokens: int
    """Written since the sketch began, the end of this line among them."""
    queue_ms: float
    compute_ms: float
    """Duration of the forwards, which others may share."""


class Sketching:
    """Sketches by one engine. All methods run on the engine's event loop."""

    def __init__(self, generation: Generation, tokenizer: Tokenizer, form: Form, frame: Frame) -> None:
        """Begin.

        Args:
            generation: writes tokens.
            tokenizer: the LLM's.
            form: of the sketches.
            frame: what stands around what asks for one, such as a chat.
        """
        self._generation, self._tokenizer, self._form, self._frame = generation, tokenizer, form, frame

    @classmethod
    def of(cls, generation: Generation, model: Path, form: Form) -> Sketching:
        """Return what sketches by the model of a folder.

        Raises:
            CheckpointError: there is no usable tokenizer.
            SettingError: the form asks for a chat, and the folder's chat template cannot be used.
        """
        return cls(generation, load_tokenizer(model), form, form.frame(model))

    async def sketch(
        self, prompt: str, length: int, max_new_tokens: int, sampling: Sampling | None = None, client: Client = NOBODY
    ) -> AsyncGenerator[Sketched, None]:
        """Write a sketch; close the iterator when leaving early.

        Args:
            prompt: what is to be answered, as a user wrote it.
            length: of the sketch, one of :data:`runtime.pice.form.LENGTHS`.
            max_new_tokens: most that are written for it, at least 1; what stands then is its last line.
            sampling: how tokens are drawn; None decodes greedily.
            client: who asks.

        Raises:
            CloudRejectedError: there is no such length, the prompt cannot be read or is too long, or this verifier writes no tokens.
            CloudBusyError, CloudError: as of :meth:`cloud.generate.Generation.generate`.
        """
        try:
            asked = self._frame.encode(self._tokenizer, self._form.ask(prompt, length))
        except SettingError as wrong:
            raise CloudRejectedError(str(wrong)) from None
        reader, written, queue_ms, compute_ms = self._form.reader(), list[int](), 0.0, 0.0
        async with aclosing(self._generation.generate(asked, max_new_tokens, sampling, client)) as tokens:
            async for each in tokens:
                written.append(each.token)
                queue_ms, compute_ms = queue_ms + each.queue_ms, compute_ms + each.compute_ms
                for line in reader.read(self._text(written)):
                    yield Sketched(line, len(written), queue_ms, compute_ms)
                    queue_ms = compute_ms = 0.0
        for line in reader.read(self._text(written), over=True):
            yield Sketched(line, len(written), queue_ms, compute_ms)
            queue_ms = compute_ms = 0.0

    def _text(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True).rstrip(_HALF_WRITTEN)
