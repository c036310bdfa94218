from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloud.engine.embedded.scheduler import Waiting, pick_fcfs

JOBS = st.lists(st.builds(Waiting, sequence=st.integers(0, 4), tokens=st.integers(1, 20)), max_size=12)


@given(JOBS, st.integers(1, 30))
def test_a_batch_is_within_budget_in_order_and_one_job_a_sequence(waiting: list[Waiting], budget: int) -> None:
    picked = pick_fcfs(waiting, budget)
    assert picked == sorted(set(picked))
    assert bool(picked) == bool(waiting)
    assert picked[:1] == [0][: len(waiting)]  # the oldest always goes
    sequences = [waiting[i].sequence for i in picked]
    assert len(set(sequences)) == len(sequences)
    assert len(picked) == 1 or sum(waiting[i].tokens for i in picked) <= budget


@given(JOBS, st.integers(1, 30))
def test_nobody_is_overtaken_but_by_budget_or_own_sequence(waiting: list[Waiting], budget: int) -> None:
    picked = pick_fcfs(waiting, budget)
    for i in range(max(picked, default=0)):
        if i not in picked:
            assert waiting[i].sequence in {waiting[j].sequence for j in picked if j < i}


def test_a_long_prefill_goes_alone() -> None:
    waiting = [Waiting("a", 900), Waiting("b", 4)]
    assert pick_fcfs(waiting, 512) == [0]
    assert pick_fcfs(waiting[::-1], 512) == [0]
