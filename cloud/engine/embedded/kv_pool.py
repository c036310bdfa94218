"""Which sequence holds which blocks of the KV pool. Pure bookkeeping: the keys and values are in runtime/model/paged_kv.py.

A block is `BLOCK_TOKENS` places. Who owns what:

| block | held by | content | leaves it |
|---|---|---|---|
| free | nobody | nothing of use | `grow` of a table |
| private | one table | what a forward wrote, or is to write; also drafts and half of a block | full of tokens that stand: shared; `truncate`, `drop`: free |
| shared | one table or more | tokens that stand, all of the block; nobody writes | the last table lets go: cached |
| cached | nobody | as shared; found by its tokens | `adopt`: shared; taken when no block is free, the longest unused first |

Shared and cached blocks are found by a hash of all tokens up to their end, and of the account, beyond which nothing is shared: how fast
an answer comes would tell others what was asked. What does not live here: which table has to yield when the pool is full (memory.py).
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Collection, Sequence

from runtime.model.paged_kv import BLOCK_TOKENS

_HASH_BYTES = 16


def blocks_for(tokens: int) -> int:
    """How many blocks hold so many tokens."""
    return -(-tokens // BLOCK_TOKENS)


class Table:
    """The blocks of one sequence, in order; changed by its pool alone."""

    __slots__ = ("blocks", "keys", "length", "root")

    def __init__(self, salt: str = "") -> None:
        """Hold nothing; only tables of the same salt share blocks."""
        self.root = hashlib.blake2b(salt.encode(), digest_size=_HASH_BYTES).digest()
        self.blocks: list[int] = []
        self.length = 0
        """Places, from the first, whose keys and values are there."""
        self.keys: list[bytes] = []
        """Hashes of its blocks that are shared; these are its first."""


class KVPool:
    """Hands out blocks. Not thread-safe: the engine's thread owns it."""

    def __init__(self, blocks: int) -> None:
        """All blocks are free.

        Args:
            blocks: at least 1.
        """
        if blocks < 1:
            raise ValueError(f"a KV pool of {blocks} blocks holds nothing")
        self.blocks = blocks
        self._free = list(range(blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()  # the longest unused first
        self._found: dict[bytes, int] = {}  # hash to block, of all shared and cached ones
        self._keys: dict[int, bytes] = {}  # and back
        self._holders: Counter[int] = Counter()  # tables of each block that is held

    @property
    def cached(self) -> int:
        """Blocks that nobody holds and that may be found again."""
        return len(self._cached)

    @property
    def used(self) -> int:
        """Blocks that tables hold."""
        return self.blocks - len(self._free) - len(self._cached)

    @property
    def available(self) -> int:
        """Blocks that can be handed out."""
        return len(self._free) + len(self._cached)

    def adopt(self, table: Table, tokens: Sequence[int]) -> None:
        """Begin an empty table with the blocks that are there of these tokens' beginning, but never with all of the tokens.

        Args:
            table: empty.
            tokens: what its sequence begins with.
        """
        key = table.root
        for start in range(0, len(tokens) - BLOCK_TOKENS, BLOCK_TOKENS):
            key = _hash(key, tokens[start : start + BLOCK_TOKENS])
            block = self._found.get(key)
            if block is None:
                break
            self._hold(block)
            table.blocks.append(block)
            table.keys.append(key)
            table.length += BLOCK_TOKENS

    def grow(self, table: Table, tokens: int) -> bool:
        """Give a table blocks for so many tokens in all; False, and nothing changes, where there are too few."""
        needed = blocks_for(tokens) - len(table.blocks)
        if needed > self.available:
            return False
        for _ in range(needed):
            block = self._take()
            self._holders[block] = 1
            table.blocks.append(block)
        return True

    def wrote(self, table: Table, length: int) -> None:
        """Take note that a forward has filled a table up to there."""
        table.length = length

    def settle(self, table: Table, tokens: Sequence[int]) -> None:
        """Let others find the blocks that are full of tokens that stand.

        Args:
            table: what to share.
            tokens: those of its sequence that stand, from the first.
        """
        for place in range(len(table.keys), min(table.length, len(tokens)) // BLOCK_TOKENS):
            before = table.keys[-1] if table.keys else table.root
            key = _hash(before, tokens[place * BLOCK_TOKENS : (place + 1) * BLOCK_TOKENS])
            own = table.blocks[place]
            there = self._found.get(key)
            if there is None:
                self._found[key], self._keys[own] = own, key
            else:  # somebody read the same beside it
                self._release(own)
                self._hold(there)
                table.blocks[place] = there
            table.keys.append(key)

    def truncate(self, table: Table, length: int) -> None:
        """Forget what a table holds from a length on.

        Of a shared block that the length falls into nothing is kept, as nobody may write there.
        """
        if length >= table.length:
            return
        kept = length // BLOCK_TOKENS
        if kept < len(table.keys):
            length = kept * BLOCK_TOKENS
            del table.keys[kept:]
        table.length = length
        while len(table.blocks) > blocks_for(length):
            self._release(table.blocks.pop())

    def drop(self, table: Table) -> None:
        """Take all blocks of a table."""
        while table.blocks:
            self._release(table.blocks.pop())
        table.keys.clear()
        table.length = 0

    def check_integrity(self, tables: Collection[Table]) -> None:
        """Do nothing while every block is in one state, and held by just the tables that name it.

        Args:
            tables: all that there are.

        Raises:
            AssertionError: a block is lost, or held by another number of tables.
        """
        named = Counter(block for table in tables for block in table.blocks)
        assert +self._holders == named, f"held {self._holders - named} more, {named - self._holders} less than named"
        states = [*self._free, *self._cached, *named]
        assert sorted(states) == list(range(self.blocks)), "a block is in no state, or in two"
        assert {block: key for key, block in self._found.items()} == self._keys, "a hash leads to another block than its own"
        assert not self._keys.keys() & set(self._free), "a free block can be found"
        assert self._cached.keys() <= self._keys.keys(), "a cached block cannot be found"
        for table in tables:
            assert blocks_for(table.length) <= len(table.blocks), "a table is longer than its blocks"
            shared, private = table.blocks[: len(table.keys)], table.blocks[len(table.keys) :]
            assert [self._keys.get(block) for block in shared] == table.keys, "a hash is not its block's"
            assert all(named[block] == 1 and block not in self._keys for block in private), "a private block is shared"

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        block, _ = self._cached.popitem(last=False)
        del self._found[self._keys.pop(block)]
        return block

    def _hold(self, block: int) -> None:
        self._cached.pop(block, None)
        self._holders[block] += 1

    def _release(self, block: int) -> None:
        self._holders[block] -= 1
        if self._holders[block]:
            return
        del self._holders[block]
        if block in self._keys:
            self._cached[block] = None
        else:
            self._free.append(block)


def _hash(before: bytes, tokens: Sequence[int]) -> bytes:
    return hashlib.blake2b(before + array("q", tokens).tobytes(), digest_size=_HASH_BYTES).digest()
