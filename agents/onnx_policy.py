"""A policy as an ONNX file: held to what an exported policy looks like, then run. The one module that imports onnxruntime.

What does not live here: what the policy was made for (bundle.py), what its choices are and which cannot be done (choices.py), and
how it is made (export.py).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import checker, shape_inference

from agents.errors import BundleError
from runtime.settings import shown

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read by the next import, which else calls home
import onnxruntime

LARGEST_BYTES = 64 * 2**20
"""Of a file; a policy of the default size has 50 thousand."""
OPERATORS = frozenset(
    {
        *("Abs", "Add", "Div", "Mul", "Neg", "Sub", "Exp", "Log", "Sqrt", "Clip", "Max", "Min"),
        *("Elu", "LeakyRelu", "Mish", "Relu", "Sigmoid", "Softmax", "Tanh", "LayerNormalization"),
        *("Gemm", "MatMul", "Concat", "Slice", "Split"),
    }
)
"""Arithmetic on the entries of a row, and what layers of networks are made of; none loops, branches, draws, or reads anything."""
MOST_STATES, WIDEST_STATE = 16, 65_536
"""Tensors that a recurrent policy carries from one decision to the next, at most; and the entries of each."""
_WIDEST = 2**20  # numbers in any value on the way, beside the batch
_Shape = tuple[int | None, ...]
State = tuple[NDArray[np.float32], ...]
"""What a recurrent policy carries from one decision to the next: float32 [batch, size] each; () for one that carries nothing."""


class OnnxPolicy:
    """A network that runs. Thread-safe."""

    def __init__(self, content: bytes, entries: int, outputs: int, name: str, state: Sequence[int] = ()) -> None:
        """Check the policy, and make it ready.

        Args:
            content: of the ONNX file: float32 [batch, entries], then [batch, size] for each state, to float32 [batch, outputs], then
                the next states.
            entries: of an observation.
            outputs: knobs of an action, or choices.
            name: what messages call it.
            state: entries of each tensor that it carries from one decision to the next.

        Raises:
            BundleError: it is not a usable ONNX model, or another than is exported for these sizes.
        """
        self.name, self._outputs, self._state = name, outputs, tuple(state)
        if wrong := _wrong(content, (entries, *state), (outputs, *state)):
            raise BundleError(f"the policy of bundle {name!r} is not a usable ONNX model: {wrong}; export it again")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # a tiny network; leave the cores to the models
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no public base class
            raise BundleError(
                f"the policy of bundle {name!r} is not a usable ONNX model: {shown(str(error).strip(), 200)}"
            ) from None
        self._inputs = [each.name for each in self._session.get_inputs()]

    def run(self, observation: Any, state: Any, episode_start: NDArray[np.bool_] | None) -> tuple[NDArray[np.float32], Any]:
        """Return what the network says of observations, [batch, outputs], and the next state.

        Args:
            observation: float32 [entries] or [batch, entries].
            state: what the last call returned, or None at a start; handed back as it is by a network that carries nothing.
            episode_start: bool [batch], True where an episode begins and so nothing is carried over; None is nowhere.

        Raises:
            BundleError: the state is of another policy, or what the network says is not a number.
        """
        batch = np.atleast_2d(np.asarray(observation, np.float32))
        carried = self._carried(state, episode_start, len(batch))
        outputs, *following = self._session.run(None, dict(zip(self._inputs, (batch, *carried), strict=True)))
        if outputs.shape != (len(batch), self._outputs):
            raise BundleError(
                f"the policy of bundle {self.name!r} gives {len(outputs)} rows for {len(batch)} observations; export it again"
            )
        if not all(np.isfinite(each).all() for each in (outputs, *following)):
            met = "" if np.isfinite(batch).all() else ", as the observation is none"
            raise BundleError(f"the policy of bundle {self.name!r} gives an action that is not a number{met}; train it again")
        return outputs, tuple(following) if self._state else state

    def _carried(self, state: Any, episode_start: NDArray[np.bool_] | None, rows: int) -> State:
        """What is carried over into a call, zeros where an episode begins."""
        if not self._state:
            return ()
        if state is None:
            return tuple(np.zeros((rows, size), np.float32) for size in self._state)
        wanted = [(rows, size) for size in self._state]
        if (found := [np.shape(each) for each in state]) != wanted:
            raise BundleError(
                f"the state handed to bundle {self.name!r} has shapes {found}, it must be what it returned: {wanted}"
            )
        if episode_start is None:
            return tuple(state)
        keep = ~np.asarray(episode_start, bool).reshape(rows, 1)
        return tuple(np.where(keep, each, np.float32(0)) for each in state)


class OnnxController(OnnxPolicy):
    """A policy whose network gives the action itself; implements :class:`agents.base.Controller`. Thread-safe."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`; always the most likely action.

        Raises:
            BundleError: see :meth:`OnnxPolicy.run`.
        """
        outputs, state = self.run(observation, state, episode_start)
        actions = np.clip(outputs, -1.0, 1.0)
        return (actions if np.ndim(observation) > 1 else actions[0]), state


def _wrong(content: bytes, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> str:
    """Say what an exported policy of these sizes would not be like; empty for one that is fit to be run."""
    if len(inputs) - 1 > MOST_STATES or any(size > WIDEST_STATE for size in inputs[1:]):
        return f"it carries states of {inputs[1:]} entries, more than {MOST_STATES} or wider than {WIDEST_STATE}"
    if len(content) > LARGEST_BYTES:
        return f"it has {len(content)} bytes, more than {LARGEST_BYTES}"
    try:
        model = onnx.load_model_from_string(content)
        if found := _forbidden(model):
            return found  # before the checks, which would follow external data and go down into subgraphs
        checker.check_model(model)
        model = shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except (DecodeError, checker.ValidationError, shape_inference.InferenceError, ValueError, RuntimeError) as error:
        return shown(str(error).strip(), 200)
    return _wrong_shape(model.graph, inputs, outputs)


def _forbidden(model: Any) -> str:
    """Name what no exported policy has."""
    if any(imported.domain != "" for imported in model.opset_import) or model.functions or model.training_info:
        return "it has operators or functions of its own"
    if model.graph.sparse_initializer:
        return "it has sparse parameters"
    for node in model.graph.node:
        if node.domain or node.op_type not in OPERATORS:
            return f"it has the operator {node.op_type[:40]!r}, a policy has only {', '.join(sorted(OPERATORS))}"
        if any(not _is_plain(attribute) for attribute in node.attribute):
            return f"its operator {node.op_type} has an attribute that is not a number"
    if any(tensor.external_data or tensor.data_location for tensor in model.graph.initializer):
        return "its parameters lie in another file"
    return ""


def _is_plain(attribute: Any) -> bool:
    return attribute.type in (onnx.AttributeProto.FLOAT, onnx.AttributeProto.INT) and not attribute.ref_attr_name


def _wrong_shape(graph: Any, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> str:
    """Say what of the inferred shapes is not as it should be."""
    parameters = {tensor.name for tensor in graph.initializer}
    given = [value for value in graph.input if value.name not in parameters]
    for what, values, sizes in (("input", given, inputs), ("output", list(graph.output), outputs)):
        found = [_shape(value) for value in values]
        if found != [(None, size) for size in sizes]:
            wanted = ", ".join(f"one of [batch, {size}]" for size in sizes)
            return f"its {what} is {found}, it must be {wanted} float32"
    known = {value.name: _shape(value) for value in (*graph.value_info, *graph.output)}
    for name in _made(graph):
        shape = known.get(name)
        if shape is None or None in shape[1:] or math.prod(size or 1 for size in shape) > _WIDEST:
            return f"the value {name[:40]!r} has the shape {shape}, larger than a policy needs"
    return ""


def _made(graph: Any) -> Iterator[str]:
    for node in graph.node:
        yield from node.output


def _shape(value: Any) -> _Shape | None:
    """Sizes of a float32 tensor, None for those that are open; None for anything else."""
    tensor = value.type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT or not tensor.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
