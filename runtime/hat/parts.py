"""What HAT's session asks its collaborators for: the device's ends, the cloud's middle, and what energy costs.

What does not live here: the loop (session.py), the live parts (ends.py, middle.py) and the replayed ones (synera_env/hat/).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from runtime.hat.values import DraftToken, Lost, Reply, Upload


class Ends(Protocol):
    """The device's part of the split model; holds the prefix (prompt, committed and draft tokens) and charges what it runs."""

    def begin(self, prompt: Sequence[int]) -> None:
        """Forget everything and start from a prompt, of which nothing has been run."""
        ...

    def read(self, length: int) -> None:
        """Run what has not been run of the first `length` tokens of the prefix through the first layers."""
        ...

    def states(self, first: int, stop: int) -> Any:
        """States of the prefix's positions first..stop as they leave the first layers; what is missing of them is run."""
        ...

    def draft(self) -> DraftToken | None:
        """Say the draft model's next token, and append it to the prefix; None where it has no more to say before something is committed."""
        ...

    def branch(self, candidates: int) -> int:
        """Begin to draft on from the likeliest tokens in the place of the prefix's last one, that is a draft's; say how many there are.

        There are none, and nothing is begun, where what drafts cannot do so before an answer is there.
        """
        ...

    def step_branches(self) -> None:
        """Draft a token more on each branch, in one go."""
        ...

    def ready_to_draft(self) -> None:
        """Run now what the first draft would have to run of the prefix."""
        ...

    def choose(self, states: Sequence[Any], wanted: int) -> Sequence[int]:
        """Say what the whole model says after each of the prefix's last `wanted` positions.

        Args:
            states: from the middle layers, of the last positions of the prefix, as they came, piece by piece.
            wanted: no more than there are states.
        """
        ...

    def commit(self, length: int, token: int) -> tuple[DraftToken, ...]:
        """Keep the first `length` tokens of the prefix, and append the one that the model said after them.

        Returns:
            What was drafted on the branch that this leads to, if any: the draft that comes next begins with it. It is part of the
            prefix.
        """
        ...

    def trim(self, tokens: int) -> None:
        """Take the last so many tokens off the prefix."""
        ...


class Middle(Protocol):
    """The cloud's part. Uploads are answered in order; a cloud that is lost is an outcome, not an exception."""

    @property
    def state_bytes(self) -> tuple[int, ...]:
        """Bytes of a state that travels, by precision."""
        ...

    def open(self) -> None:
        """Start a session without waiting for it."""
        ...

    def probe_seconds(self) -> float | None:
        """Round trip of `open`, once known."""
        ...

    def send(self, upload: Upload) -> int:
        """Hand an upload to the radio, behind those before it; return its bytes on the link."""
        ...

    def free(self) -> bool:
        """Whether the radio has sent all that it was handed."""
        ...

    def wait_free(self) -> None:
        """Wait until it has, or until the cloud is lost."""
        ...

    def ready(self) -> bool:
        """Whether all uploads are answered, or the cloud is lost."""
        ...

    def wait_ready(self) -> None:
        """Wait until they are."""
        ...

    def replies(self) -> list[Reply]:
        """Answers that have come since this was last asked, in order; waits for nothing."""
        ...

    def lost(self) -> Lost | None:
        """Why there will be no more answers; None while there may be."""
        ...

    def close(self) -> None:
        """Release the session."""
        ...


class EnergyModel(Protocol):
    """The part of a device profile that the session needs."""

    def joules(self, busy_seconds: float, wait_seconds: float, radio_bytes: int) -> float:
        """Energy of a step."""
        ...
