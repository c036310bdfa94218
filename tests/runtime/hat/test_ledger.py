"""The bookkeeping of what a device has run: each position once, and again only where it was taken back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.hat.ledger import ADAPTER_LAYERS, Ledger, Work

FIRST, LAST = 2, 1


class Plain:
    """The same by sets of positions."""

    def __init__(self, length: int) -> None:
        self.length, self.ran, self.adapted = length, set[int](), set[int]()

    def run(self, stop: int) -> list[Work]:
        new = set(range(stop)) - self.ran
        self.ran |= new
        return [Work(FIRST, len(new))] if new else []

    def adapt(self, stop: int) -> list[Work]:
        works, new = self.run(stop), set(range(stop)) - self.adapted
        self.adapted |= new
        return [*works, *([Work(ADAPTER_LAYERS, len(new))] if new else [])]

    def keep(self, length: int) -> None:
        self.length = length
        self.ran, self.adapted = ({at for at in each if at < length} for each in (self.ran, self.adapted))


@given(prompt=st.integers(1, 40), data=st.data())
def test_works_are_those_of_positions_that_were_not_run(prompt: int, data: st.DataObject) -> None:
    ledger, plain = Ledger(FIRST, LAST), Plain(prompt)
    ledger.begin(prompt)
    assert ledger.run(prompt // 2) == plain.run(prompt // 2)
    committed = prompt
    for _ in range(data.draw(st.integers(1, 12))):
        for _ in range(data.draw(st.integers(0, 5))):
            works = plain.adapt(plain.length)
            plain.length += 1
            assert ledger.draft() == works
        if plain.length > committed and data.draw(st.booleans()):
            cut = data.draw(st.integers(0, plain.length - committed))
            plain.keep(plain.length - cut)
            ledger.keep(ledger.length - cut)
        assert ledger.run(ledger.length) == plain.run(plain.length)  # the upload's states
        steps = data.draw(st.integers(0, 5)) if plain.length > committed else 0
        if steps:
            ledger.branch()
            assert ledger.base == plain.length - 1
            for _ in range(steps):
                assert ledger.step(3) == [Work(FIRST, 3), Work(ADAPTER_LAYERS, 3)]
            assert ledger.steps == steps
        assert ledger.choose(4) == [Work(LAST, 4)]
        # All of the draft but its last token stands, or all of it: then a branch may lead on, one step shorter.
        stands = data.draw(st.integers(committed, plain.length))
        left = 0 if not steps or stands < ledger.base else steps - (stands - ledger.base)
        kept = data.draw(st.integers(0, left))
        ledger.commit(stands, kept)
        plain.keep(stands)
        plain.length += 1 + kept
        if kept:
            plain.ran, plain.adapted = set(range(plain.length - 1)), set(range(plain.length - 1))
        committed = stands + 1
        assert (ledger.length, ledger.ran, ledger.adapted) == (plain.length, len(plain.ran), len(plain.adapted))
        assert plain.ran == set(range(len(plain.ran)))
        assert ledger.steps == 0


def test_what_is_run_already_is_no_work() -> None:
    ledger = Ledger(FIRST, 0)
    ledger.begin(5)
    assert ledger.adapt(5) == [Work(FIRST, 5), Work(ADAPTER_LAYERS, 5)]
    assert ledger.adapt(5) == ledger.run(3) == ledger.choose(2) == []
    ledger.begin(2)
    assert ledger.run(2) == [Work(FIRST, 2)]
