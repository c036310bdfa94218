"""Room for the sequences that are to run: whose keys and values yield when the pool is full.

What does not live here: the blocks (kv_pool.py) and who runs (runtime/scheduling.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from cloud.engine.embedded.kv_pool import KVPool, Table


class Memory:
    """Tables of sessions and streams. A table is *idle* while no request of its sequence is there, else it has a turn: a number that
    is the smaller the earlier its request came.

    Who needs room gets it first from the idle tables, the longest idle first, then from the requests that came after it and are not
    in the forward that is being planned, the latest first. So the first of all can always go on, and no two take room from each
    other for ever. What a table loses is read again from its sequence's tokens when it goes on, unless its blocks are still there.
    """

    def __init__(self, blocks: int) -> None:
        self.pool = KVPool(blocks)
        self.evicted = 0
        """How often a table lost its blocks to others."""
        self._idle: dict[Table, None] = {}  # the longest idle first
        self._turns: dict[Table, float] = {}
        self._planned: set[Table] = set()

    def takes_turn(self, table: Table, turn: float) -> None:
        """A request of the table's sequence is there."""
        self._idle.pop(table, None)
        self._turns[table] = turn

    def rests(self, table: Table) -> None:
        """No request of it is there, and it may yield to others."""
        self._turns.pop(table, None)
        self._idle[table] = None

    def frees(self, table: Table) -> None:
        """The sequence is over."""
        self._turns.pop(table, None)
        self._idle.pop(table, None)
        self.pool.drop(table)

    def clear(self) -> None:
        """All sequences are over."""
        for table in [*self._idle, *self._turns]:
            self.frees(table)

    def begins_plan(self) -> None:
        """Another forward is planned; that before is over."""
        self._planned.clear()

    def has_room(self, table: Table, tokens: int) -> bool:
        """Get room for so many tokens of a table in all, for the forward that is being planned."""
        while not self.pool.grow(table, tokens):
            victim = next(self._victims(table), None)
            if victim is None:
                return False
            self.pool.drop(victim)
            self.evicted += 1
        self._planned.add(table)
        return True

    def check_integrity(self) -> None:
        """Do nothing while all is accounted for; see :meth:`KVPool.check_integrity`."""
        assert not self._idle.keys() & self._turns.keys(), "a table is idle and has a turn"
        self.pool.check_integrity([*self._idle, *self._turns])

    def _victims(self, table: Table) -> Iterator[Table]:
        yield from (idle for idle in self._idle if idle.blocks)
        turn = self._turns[table]
        later = [each for each, its in self._turns.items() if its > turn and each.blocks and each not in self._planned]
        yield from sorted(later, key=lambda each: -self._turns[each])
