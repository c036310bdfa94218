"""What the steps of the next rows will read, fetched while the row in hand is stepped: else most of a step is waiting for memory.

Without effect on what a step comes to. What does not live here: the step (step.py).
"""

# mypy: ignore-errors

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from synera_env.synera.kernel.formulas import inlined
from synera_env.synera.kernel.nodes import EXIT, NODE
from synera_env.synera.kernel.state import ROW

_LINE = 64  # bytes that the processor fetches together
_ROW, _NODE, _EXIT = ROW.itemsize, NODE.itemsize, EXIT.itemsize
_ROW_LINES, _EXIT_LINES = _ROW // _LINE, 8  # of exits: as many as a draft may walk, as nodes are laid


@intrinsic
def prefetch(context: Any, array: Any, offset: Any) -> Any:
    """Have the processor fetch the line that lies so many bytes into an array, without waiting for it; an address that is none is ignored."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        place = builder.gep(builder.bitcast(data, byte), [arguments[1]])
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        called = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        builder.call(called, [place, *(word(each) for each in (0, 3, 1))])  # to be read, as near as can be, as data
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@inlined
def fetch(graphs, state, row):
    """Begin to fetch, each thing a row after what says where it is: of the third next row its state, of the second its prefix, of the
    next one the nodes that its draft was read from and goes on from.
    """
    rows = len(state.rows)
    if row + 3 < rows:
        for line in range(_ROW_LINES):
            prefetch(state.rows, (row + 3) * _ROW + line * _LINE)
    if row + 2 < rows:
        at, r = row + 2, state.rows[row + 2]
        prefetch(state.path, (at * state.path.shape[1] + r.generated) * state.path.itemsize)
        prefetch(state.token, (at * state.token.shape[1] + r.generated) * state.token.itemsize)
        prefetch(state.committed_at, (at * state.committed_at.shape[1] + r.chunks) * state.committed_at.itemsize)
        prefetch(state.reached, at * state.reached.shape[1] * state.reached.itemsize)
    if row + 1 < rows:
        at, r = row + 1, state.rows[row + 1]
        prefetch(graphs.nodes, state.path[at, r.generated] * _NODE)
        prefetch(graphs.nodes, state.path[at, r.known] * _NODE)
        for line in range(_EXIT_LINES):
            prefetch(graphs.exits, state.path[at, r.known] * graphs.exits.shape[1] * _EXIT + line * _LINE)
