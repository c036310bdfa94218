from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cloud.engine.embedded.kv_pool import KVPool, Table, blocks_for
from runtime.model.paged_kv import BLOCK_TOKENS

PROMPT = [i % 50 for i in range(5 * BLOCK_TOKENS)]


def filled(pool: KVPool, tokens: list[int], salt: str = "") -> Table:
    """A table that was read, of tokens that stand."""
    table = Table(salt)
    pool.adopt(table, tokens)
    assert pool.grow(table, len(tokens))
    pool.wrote(table, len(tokens))
    pool.settle(table, tokens)
    return table


def test_who_begins_alike_shares_whole_blocks_but_never_the_last_token() -> None:
    pool = KVPool(20)
    one = filled(pool, PROMPT[:40])
    other = Table()
    pool.adopt(other, PROMPT[:32])
    assert (other.length, other.blocks) == (16, one.blocks[:1])
    pool.drop(other)
    pool.adopt(other, PROMPT)
    assert (other.length, other.blocks) == (32, one.blocks[:2])
    assert pool.used == 3
    pool.check_integrity([one, other])


def test_accounts_share_nothing() -> None:
    pool = KVPool(20)
    filled(pool, PROMPT, "one")
    other = Table("other")
    pool.adopt(other, PROMPT)
    assert other.length == 0


def test_what_was_let_go_is_found_until_it_is_needed() -> None:
    pool = KVPool(5)
    pool.drop(filled(pool, PROMPT))
    assert (pool.used, pool.cached, pool.available) == (0, 5, 5)
    again = Table()
    pool.adopt(again, PROMPT)
    assert again.length == 4 * BLOCK_TOKENS
    pool.drop(again)
    other = Table("other")
    assert pool.grow(other, 3 * BLOCK_TOKENS)
    assert (pool.used, pool.cached) == (3, 2)
    pool.check_integrity([other])


def test_the_longest_unused_is_taken_first() -> None:
    pool = KVPool(4)
    first, second = filled(pool, PROMPT[:33]), Table("x")
    pool.drop(first)
    assert pool.grow(second, 2 * BLOCK_TOKENS)  # the free ones
    third = Table()
    pool.adopt(third, PROMPT)
    assert third.length == 2 * BLOCK_TOKENS


def test_where_room_is_short_nothing_changes() -> None:
    pool = KVPool(4)
    table, other = filled(pool, PROMPT[:40]), Table("x")
    assert not pool.grow(other, 20)
    assert (other.blocks, pool.used) == ([], 3)
    assert pool.grow(other, 16)
    assert not pool.grow(table, 49)
    pool.check_integrity([table, other])


def test_nobody_writes_into_what_others_may_read() -> None:
    pool = KVPool(20)
    one = filled(pool, PROMPT)
    other = Table()
    pool.adopt(other, PROMPT)
    shared = list(one.blocks)
    pool.truncate(one, 40)  # in the middle of a block that the other one has
    assert (one.length, one.blocks) == (32, shared[:2])
    assert pool.grow(one, 60)
    assert not set(one.blocks[2:]) & set(other.blocks)
    pool.check_integrity([one, other])


def test_a_private_block_is_written_again() -> None:
    pool = KVPool(20)
    table = Table()
    pool.grow(table, 40)
    pool.wrote(table, 40)
    pool.settle(table, PROMPT[:20])  # the rest was a draft
    before = list(table.blocks)
    pool.truncate(table, 20)
    assert (table.length, table.blocks) == (20, before[:2])
    pool.check_integrity([table])


def test_who_reads_the_same_at_one_time_ends_with_one_copy() -> None:
    pool = KVPool(20)
    one, other = Table(), Table()
    for table in (one, other):
        assert pool.grow(table, 33)
        pool.wrote(table, 33)
        pool.settle(table, PROMPT[:33])
    assert one.blocks[:2] == other.blocks[:2]
    assert pool.used == 4
    pool.check_integrity([one, other])


def test_a_lost_block_is_noticed() -> None:
    pool = KVPool(4)
    table = filled(pool, PROMPT[:20])
    with pytest.raises(AssertionError):
        pool.check_integrity([])
    table.blocks.pop()
    with pytest.raises(AssertionError):
        pool.check_integrity([table])


@given(st.integers(0, 1000))
def test_blocks_hold_their_tokens(tokens: int) -> None:
    assert (blocks_for(tokens) - 1) * BLOCK_TOKENS < max(1, tokens) <= max(1, blocks_for(tokens)) * BLOCK_TOKENS


class Walk(RuleBasedStateMachine):
    """Sequences over an alphabet of two, so that many begin alike; each block remembers the tokens that were written to it."""

    @initialize(blocks=st.integers(1, 12))
    def begin(self, blocks: int) -> None:
        self.pool, self.tables = KVPool(blocks), list[tuple[Table, list[int]]]()
        self.written: dict[int, list[int]] = {}

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=4), salt=st.sampled_from("ab"))
    def opens(self, tokens: list[int], salt: str) -> None:
        whole = [token for token in tokens for _ in range(11)]
        table = Table(salt)
        self.pool.adopt(table, whole)
        self.tables.append((table, whole))
        self.fills(len(self.tables) - 1, 50)

    @precondition(lambda self: self.tables)
    @rule(which=st.integers(0, 99), most=st.integers(1, 50))
    def fills(self, which: int, most: int) -> None:
        table, tokens = self.tables[which % len(self.tables)]
        end = min(len(tokens), table.length + most)
        if self.pool.grow(table, end):
            for at in range(table.length, end):
                block = self.written.setdefault(table.blocks[at // BLOCK_TOKENS], [0] * BLOCK_TOKENS)
                block[at % BLOCK_TOKENS] = tokens[at]
            self.pool.wrote(table, end)

    @precondition(lambda self: self.tables)
    @rule(which=st.integers(0, 99), share=st.floats(0, 1))
    def settles(self, which: int, share: float) -> None:
        table, tokens = self.tables[which % len(self.tables)]
        self.pool.settle(table, tokens[: round(share * len(tokens))])

    @precondition(lambda self: self.tables)
    @rule(which=st.integers(0, 99), share=st.floats(0, 1), then=st.lists(st.integers(0, 1), min_size=1, max_size=3))
    def turns_back(self, which: int, share: float, then: list[int]) -> None:
        table, tokens = self.tables[which % len(self.tables)]
        kept = round(share * len(tokens))
        self.pool.truncate(table, kept)
        tokens[kept:] = [token for token in then for _ in range(9)]

    @precondition(lambda self: self.tables)
    @rule(which=st.integers(0, 99))
    def drops(self, which: int) -> None:
        self.pool.drop(self.tables[which % len(self.tables)][0])

    @precondition(lambda self: self.tables)
    @rule(which=st.integers(0, 99))
    def closes(self, which: int) -> None:
        table, _ = self.tables.pop(which % len(self.tables))
        self.pool.drop(table)

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.pool.check_integrity([table for table, _ in self.tables])
        assert self.pool.used == len(Counter(b for table, _ in self.tables for b in table.blocks))
        assert self.pool.used + self.pool.available == self.pool.blocks
        for table, tokens in self.tables:
            read = [self.written[table.blocks[at // BLOCK_TOKENS]][at % BLOCK_TOKENS] for at in range(table.length)]
            assert read == tokens[: table.length]


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
