"""What a check has to send: held against a cloud that keeps the tokens that it is given."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.synera.held import HeldHistory
from runtime.wire.sizes import GRPC_OVERHEAD_BYTES, verify_request_bytes

TOKEN = st.integers(0, 3)
SOME = st.lists(TOKEN, max_size=6)


class Cloud:
    """Keeps a history, and how much of it is computed, as `cloud/` does."""

    def __init__(self) -> None:
        self.history: list[int] = []
        self.computed = 0

    def check(self, prefix: int, context: list[int], draft: list[int]) -> int:
        """Take a check; return the tokens that had to be processed."""
        assert prefix <= len(self.history)
        kept = [*self.history[:prefix], *context]
        self.computed = min(self.computed, prefix, len(kept) - 1)
        processed = len(kept) - self.computed + len(draft)
        self.history = kept
        return processed

    def settle(self, draft: list[int], accepted: int, next_token: int) -> None:
        self.computed = len(self.history) + accepted
        self.history += [*draft[:accepted], next_token]


@given(
    prompt=st.lists(TOKEN, min_size=1, max_size=8),
    checks=st.lists(st.tuples(st.floats(0, 1), SOME, SOME, st.floats(0, 1), TOKEN, st.booleans()), max_size=8),
)
def test_the_cloud_ends_up_with_the_device_s_history(
    prompt: list[int], checks: list[tuple[float, list[int], list[int], float, int, bool]]
) -> None:
    """The device goes on from the verdict, takes some of it back, or adds tokens of its own; some checks are lost."""
    held, cloud, history, seq = HeldHistory(), Cloud(), list(prompt), 0
    for kept, own, draft, share, said, lost in checks:
        history = [*history[: max(1, round(kept * len(history)))], *own]
        request, seq = held.request(history, draft), seq + 1
        assert request.seq == seq
        assert request.link_bytes == GRPC_OVERHEAD_BYTES + verify_request_bytes(
            request.prefix_length, request.context, draft, seq
        )
        if lost:  # before it reached the cloud: nothing there has changed
            continue
        processed = cloud.check(request.prefix_length, list(request.context), draft)
        assert cloud.history == history
        assert request.cloud_tokens == processed
        accepted = round(share * len(draft))
        cloud.settle(draft, accepted, said)
        held.settled(history, draft, accepted, said)
        history = [*history, *draft[:accepted], said]


def test_only_what_is_new_travels() -> None:
    held = HeldHistory()
    first = held.request([1, 2, 3], [4])
    assert (first.seq, first.prefix_length, list(first.context), first.cloud_tokens) == (1, 0, [1, 2, 3], 4)
    held.settled([1, 2, 3], [4], 1, 5)
    second = held.request([1, 2, 3, 4, 5, 6], [7, 8])
    assert (second.seq, second.prefix_length, list(second.context), second.cloud_tokens) == (2, 5, [6], 4)
