"""Policies that no exporter made: each is refused before it is run, with the reason; none hangs, reads or grows."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from agents import onnx_policy
from agents.bundle import Bundle, BundleError
from agents.onnx_policy import MOST_STATES, OPERATORS, WIDEST_STATE, OnnxController
from synera_env import synera_schema

SCHEMA = synera_schema(2)
ENTRIES, KNOBS = len(SCHEMA.low), len(SCHEMA.rows)
FLOAT = TensorProto.FLOAT
WEIGHT = numpy_helper.from_array(np.zeros((ENTRIES, KNOBS), np.float32), "weight")
GEMM = helper.make_node("Gemm", ["observation", "weight"], ["action"])


def tensor(name: str, shape: tuple[Any, ...], kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


IN, OUT = tensor("observation", ("batch", ENTRIES)), tensor("action", ("batch", KNOBS))


def model(
    *nodes: Any,
    given: tuple[Any, ...] = (IN,),
    made: tuple[Any, ...] = (OUT,),
    weights: tuple[Any, ...] = (WEIGHT,),
    **more: Any,
) -> Any:
    graph = helper.make_graph([*nodes], "policy", given, made, weights)
    return helper.make_model(graph, **{"opset_imports": [helper.make_opsetid("", 20)], "ir_version": 10, **more})


def values(name: str, *shape: int, fill: float = 0.0) -> Any:
    return numpy_helper.from_array(np.full(shape, fill, np.float32), name)


SIZES = numpy_helper.from_array(np.array([-1, KNOBS], np.int64), "to")


def endless() -> Any:
    """A loop whose condition stays true, for 2**62 rounds."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [tensor("i", (), TensorProto.INT64), tensor("on", (), TensorProto.BOOL), tensor("x", ("b", KNOBS))],
        [tensor("still", (), TensorProto.BOOL), tensor("y", ("b", KNOBS))],
    )
    rounds = numpy_helper.from_array(np.array(2**62, np.int64), "rounds")
    on = numpy_helper.from_array(np.array(True), "yes")
    gemm = helper.make_node("Gemm", ["observation", "weight"], ["start"])
    loop = helper.make_node("Loop", ["rounds", "yes", "start"], ["action"], body=body)
    return model(gemm, loop, weights=(WEIGHT, rounds, on))


def branch() -> Any:
    then = helper.make_graph([helper.make_node("Identity", ["a"], ["one"])], "then", [], [tensor("one", ("batch", KNOBS))])
    gemm = helper.make_node("Gemm", ["observation", "weight"], ["a"])
    node = helper.make_node("If", ["yes"], ["action"], then_branch=then, else_branch=then)
    return model(gemm, node, weights=(WEIGHT, numpy_helper.from_array(np.array(True), "yes")))


def external() -> Any:
    elsewhere = TensorProto(name="weight", data_type=FLOAT, dims=[ENTRIES, KNOBS], data_location=TensorProto.EXTERNAL)
    elsewhere.external_data.add(key="location", value="/etc/passwd")
    return model(GEMM, weights=(elsewhere,))


def with_function() -> Any:
    body = [helper.make_node("Tanh", ["x"], ["y"])]
    function = helper.make_function("ours", "Tanh", ["x"], ["y"], body, [helper.make_opsetid("", 20)])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ours", 1)]
    tanh = helper.make_node("Tanh", ["a"], ["action"], domain="ours")
    gemm = helper.make_node("Gemm", ["observation", "weight"], ["a"])
    return model(gemm, tanh, functions=[function], opset_imports=opsets)


def widening() -> Any:
    """Two small parameters whose difference has 10**10 entries, folded together when a session is made."""
    grow = helper.make_node("Sub", ["tall", "wide"], ["huge"])
    return model(GEMM, grow, weights=(WEIGHT, values("tall", 100_000, 1), values("wide", 1, 100_000)))


def with_attribute(name: str, value: Any) -> Any:
    found = model(GEMM)
    found.graph.node[0].attribute.append(helper.make_attribute(name, value))
    return found


HOSTILE: dict[str, tuple[Callable[[], Any], str]] = {
    "an endless loop": (endless, "has the operator 'Loop'"),
    "a branch": (branch, "has the operator 'If'"),
    "chance": (lambda: model(helper.make_node("RandomNormal", [], ["action"], shape=[1, KNOBS])), "operator 'RandomNormal'"),
    "another domain": (
        lambda: model(helper.make_node("Gemm", ["observation", "weight"], ["action"], domain="ai.x")),
        "operator 'Gemm'",
    ),
    "a function": (with_function, "functions of its own"),
    "operators of its own": (
        lambda: model(GEMM, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("x", 1)]),
        "of its own",
    ),
    "parameters elsewhere": (external, "another file"),
    "a graph as an attribute": (lambda: with_attribute("body", model(GEMM).graph), "an attribute that is not a number"),
    "a tensor as an attribute": (lambda: with_attribute("value", values("v", 2)), "an attribute that is not a number"),
    "an attribute of no operator": (lambda: with_attribute("colour", 1), "Unrecognized attribute"),
    "another input size": (
        lambda: model(GEMM, given=(tensor("observation", ("batch", 3)),), weights=(values("weight", 3, KNOBS),)),
        f"its input is [(None, 3)], it must be one of [batch, {ENTRIES}]",
    ),
    "another output size": (
        lambda: model(GEMM, made=(tensor("action", ("batch", 3)),), weights=(values("weight", ENTRIES, 3),)),
        f"its output is [(None, 3)], it must be one of [batch, {KNOBS}]",
    ),
    "an output that states another size": (lambda: model(GEMM, weights=(values("weight", ENTRIES, 3),)), "ShapeInferenceError"),
    "two inputs": (lambda: model(GEMM, given=(IN, tensor("more", ("batch", 1)))), "its input is"),
    "no input": (lambda: model(helper.make_node("Tanh", ["weight"], ["action"]), given=()), "its input is []"),
    "two outputs": (
        lambda: model(GEMM, helper.make_node("Tanh", ["action"], ["more"]), made=(OUT, tensor("more", ("batch", KNOBS)))),
        "its output is",
    ),
    "in double precision": (
        lambda: model(
            GEMM,
            given=(tensor("observation", ("batch", ENTRIES), TensorProto.DOUBLE),),
            made=(tensor("action", ("batch", KNOBS), TensorProto.DOUBLE),),
            weights=(numpy_helper.from_array(np.zeros((ENTRIES, KNOBS)), "weight"),),
        ),
        "its input is [None]",
    ),
    "one observation at a time": (
        lambda: model(GEMM, given=(tensor("observation", (1, ENTRIES)),), made=(tensor("action", (1, KNOBS)),)),
        f"its input is [(1, {ENTRIES})]",
    ),
    "of a higher rank": (
        lambda: model(
            helper.make_node("Tanh", ["observation"], ["action"]),
            given=(tensor("observation", ("b", 1, ENTRIES)),),
            made=(tensor("action", ("b", 1, ENTRIES)),),
        ),
        "its input is",
    ),
    "growing": (widening, "the value 'huge' has the shape (100000, 100000)"),
    "rows times rows": (
        lambda: model(
            helper.make_node("Gemm", ["observation", "observation"], ["all"], transB=1),
            helper.make_node("Softmax", ["all"], ["share"]),
            helper.make_node("MatMul", ["share", "observation"], ["mixed"]),
            helper.make_node("Gemm", ["mixed", "weight"], ["action"]),
        ),
        "the value 'all' has the shape (None, None)",
    ),
    "a shape that depends on values": (
        lambda: model(helper.make_node("Reshape", ["observation", "to"], ["action"]), weights=(SIZES,)),
        "operator 'Reshape'",
    ),
    "a state that was not stated": (
        lambda: model(
            helper.make_node("Concat", ["observation", "state_0"], ["both"], axis=1),
            helper.make_node("Gemm", ["both", "weight"], ["action"]),
            helper.make_node("Tanh", ["state_0"], ["next_state_0"]),
            given=(IN, tensor("state_0", ("batch", 4))),
            made=(OUT, tensor("next_state_0", ("batch", 4))),
            weights=(values("weight", ENTRIES + 4, KNOBS),),
        ),
        f"its input is [(None, {ENTRIES}), (None, 4)], it must be one of [batch, {ENTRIES}] float32",
    ),
    "a value from nowhere": (lambda: model(helper.make_node("Tanh", ["nowhere"], ["action"])), "nowhere"),
    "no nodes": (lambda: model(), "action"),
}


def refused(content: bytes) -> str:
    with pytest.raises(BundleError, match=r"^the policy of bundle 'x' is not a usable ONNX model: ") as error:
        OnnxController(content, ENTRIES, KNOBS, "x")
    assert len(str(error.value)) < 600
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_policy_that_is_none_is_refused_with_the_reason(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before onnxruntime is given anything; its own checks come too late for some."""
    ran: list[object] = []
    monkeypatch.setattr(onnx_policy.onnxruntime, "InferenceSession", lambda *given, **_: ran.append(given))
    make, reason = HOSTILE[name]
    assert reason in refused(make().SerializeToString())
    assert not ran


def test_what_only_onnxruntime_finds_is_refused_too() -> None:
    assert "ONNXRuntimeError" in refused(model(GEMM, opset_imports=[helper.make_opsetid("", 99)]).SerializeToString())


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08", b"\x00" * 1000])
def test_what_is_no_onnx_file_is_refused(content: bytes) -> None:
    refused(content)


def test_a_policy_that_is_cut_off_is_refused(bundle: Path) -> None:
    whole = (bundle / "policy.onnx").read_bytes()
    for share in (0.01, 0.3, 0.9, 0.999):
        refused(whole[: int(share * len(whole))])


def test_a_policy_that_is_too_large_is_not_parsed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_policy, "LARGEST_BYTES", 1000)
    assert "more than 1000" in refused((bundle / "policy.onnx").read_bytes())


def test_a_hostile_policy_is_refused_in_a_bundle_that_names_its_hash(bundle: Path) -> None:
    """Who changes the policy can change its hash; so the hash is not all that is looked at."""
    content = endless().SerializeToString()
    (bundle / "policy.onnx").write_bytes(content)
    path = bundle / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"policy_sha256": sha256(content).hexdigest()}))
    loaded = Bundle.load(bundle)
    with pytest.raises(BundleError, match="Loop"):
        loaded.controller(SCHEMA)


def test_an_action_that_is_not_a_number_is_an_error() -> None:
    weight = np.zeros((ENTRIES, KNOBS), np.float32)
    weight[0, 0] = np.nan
    acts = OnnxController(
        model(GEMM, weights=(numpy_helper.from_array(weight, "weight"),)).SerializeToString(), ENTRIES, KNOBS, "x"
    )
    with pytest.raises(BundleError, match=r"gives an action that is not a number; train it again"):
        acts.predict(np.ones(ENTRIES, np.float32))
    sane = OnnxController(model(GEMM).SerializeToString(), ENTRIES, KNOBS, "x")
    assert sane.predict(np.ones(ENTRIES, np.float32))[0].tolist() == [0.0] * KNOBS
    with pytest.raises(BundleError, match=r"not a number, as the observation is none"):
        sane.predict(np.full((2, ENTRIES), np.nan, np.float32))


def test_the_operators_are_those_that_the_exporter_makes(bundle: Path) -> None:
    made = onnx.load(bundle / "policy.onnx")
    assert {node.op_type for node in made.graph.node} == {"Clip", "Div", "Gemm", "Max", "Min", "Sub", "Tanh"} < OPERATORS


def test_it_holds_for_every_batch(bundle: Path) -> None:
    acts = Bundle.load(bundle).controller(SCHEMA)
    rows = np.random.default_rng(0).uniform(-1, 1, (300, ENTRIES)).astype(np.float32)
    whole = acts.predict(rows)[0]
    for size in (1, 2, 17):
        np.testing.assert_allclose(acts.predict(rows[:size])[0], whole[:size], atol=1e-6)


# ---------------------------------------------------------------- states

STATES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], str]] = {
    "none in the file": ((4,), (), (), "it must be one of [batch, {e}], one of [batch, 4] float32"),
    "of another size": ((4,), (5,), (5,), "its input is [(None, {e}), (None, 5)]"),
    "one that does not come back": ((4,), (4,), (), "its output is [(None, {k})]"),
    "one that comes back wider": ((4,), (4,), (8,), "its output is [(None, {k}), (None, 8)]"),
    "one too many": ((4,), (4, 4), (4, 4), "its input is [(None, {e}), (None, 4), (None, 4)]"),
    "too many": ((1,) * (MOST_STATES + 1), (1,), (1,), "more than 16 or wider than 65536"),
    "too wide": ((WIDEST_STATE + 1,), (4,), (4,), "more than 16 or wider than 65536"),
    "without end": ((2**62,), (4,), (4,), "more than 16 or wider than 65536"),
}


def recurrent(given: tuple[int, ...], made: tuple[int, ...]) -> Any:
    """Adds up, in each state that it returns, those that it is given."""
    into = [tensor(f"state_{i}", ("batch", size)) for i, size in enumerate(given)]
    out = [tensor(f"next_{i}", ("batch", size)) for i, size in enumerate(made)]
    nodes = [GEMM]
    weights = [WEIGHT]
    for i, size in enumerate(made):
        one = values(f"one_{i}", given[i], size, fill=1.0)
        nodes.append(helper.make_node("MatMul", [f"state_{i}", f"one_{i}"], [f"next_{i}"]))
        weights.append(one)
    return model(*nodes, given=(IN, *into), made=(OUT, *out), weights=tuple(weights))


@pytest.mark.parametrize("name", STATES)
def test_states_that_are_not_those_that_were_stated_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stated, given, made, reason = STATES[name]
    ran: list[object] = []
    monkeypatch.setattr(onnx_policy.onnxruntime, "InferenceSession", lambda *given, **_: ran.append(given))
    with pytest.raises(BundleError) as error:
        OnnxController(recurrent(given, made).SerializeToString(), ENTRIES, KNOBS, "x", stated)
    assert reason.format(e=ENTRIES, k=KNOBS) in str(error.value)
    assert not ran


def test_a_state_that_grows_beyond_all_numbers_is_an_error() -> None:
    acts = OnnxController(recurrent((4,), (4,)).SerializeToString(), ENTRIES, KNOBS, "x", (4,))
    rows = np.ones((2, ENTRIES), np.float32)
    state: Any = (np.full((2, 4), 1e30, np.float32),)
    for _ in range(14):
        _, state = acts.predict(rows, state)
    with pytest.raises(BundleError, match="gives an action that is not a number"):
        acts.predict(rows, state)


@pytest.mark.parametrize("state", [(), (np.zeros((1, 4)),), (np.zeros((2, 3)),), (np.zeros(4),), (np.zeros((2, 4)),) * 2])
def test_a_state_of_another_policy_is_refused(state: Any) -> None:
    acts = OnnxController(recurrent((4,), (4,)).SerializeToString(), ENTRIES, KNOBS, "x", (4,))
    with pytest.raises(BundleError, match=r"the state handed to bundle 'x' has shapes .* what it returned: \[\(2, 4\)\]"):
        acts.predict(np.ones((2, ENTRIES), np.float32), state)


def test_a_policy_that_gives_fewer_rows_than_it_is_given_is_refused() -> None:
    bounds = [
        numpy_helper.from_array(np.array([value], np.int64), name) for name, value in (("from", 0), ("until", 1), ("axis", 0))
    ]
    first = helper.make_node("Slice", ["observation", "from", "until", "axis"], ["one"])
    gemm = helper.make_node("Gemm", ["one", "weight"], ["action"])
    content = model(first, gemm, weights=(WEIGHT, *bounds)).SerializeToString()
    with pytest.raises(BundleError, match=r"is not a usable ONNX model|gives 1 rows for 3 observations"):
        OnnxController(content, ENTRIES, KNOBS, "x").predict(np.ones((3, ENTRIES), np.float32))
