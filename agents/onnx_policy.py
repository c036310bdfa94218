"""A policy as an ONNX file: held to what an exported policy looks like, then run. The one module that imports onnxruntime.

What does not live here: what the policy was made for (bundle.py), and how it is made (export.py).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
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
OPERATORS = frozenset({"Clip", "Div", "Gemm", "Max", "Min", "Softmax", "Sub", "Tanh"})
"""What export.py makes policies of; none of them loops, branches, or reads anything."""
_WIDEST = 2**20  # numbers in any value on the way, beside the batch
_Shape = tuple[int | None, ...]


class OnnxController:
    """A policy that acts; implements :class:`agents.base.Controller`. Thread-safe."""

    def __init__(self, content: bytes, entries: int, knobs: int, name: str) -> None:
        """Check the policy, and make it ready.

        Args:
            content: of the ONNX file: float32 [batch, entries] to float32 [batch, knobs].
            entries: of an observation.
            knobs: of an action.
            name: what messages call it.

        Raises:
            BundleError: it is not a usable ONNX model, or another than is exported for these sizes.
        """
        self._name = name
        if wrong := _wrong(content, entries, knobs):
            raise BundleError(f"the policy of bundle {name!r} is not a usable ONNX model: {wrong}; export it again")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # a tiny network; leave the cores to the models
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no public base class
            raise BundleError(
                f"the policy of bundle {name!r} is not a usable ONNX model: {shown(str(error).strip(), 200)}"
            ) from None
        self._input = self._session.get_inputs()[0].name

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`; always the most likely action.

        Raises:
            BundleError: the action is not a number.
        """
        batch = np.atleast_2d(np.asarray(observation, np.float32))
        (actions,) = self._session.run(None, {self._input: batch})
        if not np.isfinite(actions).all():
            met = "" if np.isfinite(batch).all() else ", as the observation is none"
            raise BundleError(f"the policy of bundle {self._name!r} gives an action that is not a number{met}; train it again")
        actions = np.clip(actions, -1.0, 1.0)
        return (actions if np.ndim(observation) > 1 else actions[0]), state


def _wrong(content: bytes, entries: int, knobs: int) -> str:
    """Say what an exported policy would not be like; empty for one that is fit to be run."""
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
    return _wrong_shape(model.graph, entries, knobs)


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


def _wrong_shape(graph: Any, entries: int, knobs: int) -> str:
    """Say what of the inferred shapes is not as it should be."""
    parameters = {tensor.name for tensor in graph.initializer}
    given = [value for value in graph.input if value.name not in parameters]
    for what, values, size in (("input", given, entries), ("output", list(graph.output), knobs)):
        found = [_shape(value) for value in values]
        if found != [(None, size)]:
            return f"its {what} is {found}, it must be one of [batch, {size}] float32"
    known = {value.name: _shape(value) for value in (*graph.value_info, *graph.output)}
    for name in _made(graph):
        shape = known.get(name)
        if shape is None or math.prod(size for size in shape if size is not None) > _WIDEST:
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
