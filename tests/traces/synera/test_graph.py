from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from runtime.synera.lens import Lens
from traces.errors import TraceError
from traces.synera import graph as graph_module
from traces.synera.graph import FORMAT_VERSION, NODE_ARRAYS, Graph, GraphSet

Arrays = dict[str, Any]
ALL_ARRAYS = [
    *NODE_ARRAYS,
    "prompt_tokens",
    "node_offsets",
    "prompt_offsets",
    "lens.mean",
    "lens.directions",
    "lens.importance",
]


@pytest.fixture
def saved(akin_graphs: GraphSet, tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "graphs.safetensors"
    akin_graphs.save(path)
    return path


def rewrite(path: Path, change: Callable[[Arrays, dict[str, Any]], Any]) -> None:
    """Change the tensors or the description of a graph file."""
    arrays = load_file(path)
    with safe_open(path, framework="np") as opened:
        meta = json.loads(opened.metadata()["synera_graphs"])
    change(arrays, meta)
    save_file(arrays, path, metadata={"synera_graphs": json.dumps(meta)})


def toy_graph() -> Graph:
    """Root 0 with exits saying 5 and 6 and the LLM 7; child 1 is inner and agreed on, 2 to 4 are ends."""
    nodes = 5
    arrays: Arrays = {}
    for name, (dtype, tail) in NODE_ARRAYS.items():
        empty = -1 if np.issubdtype(dtype, np.integer) else 0
        arrays[name] = np.full((nodes, *(2 if s == "exits" else int(s) for s in tail)), empty, dtype)
    arrays["score"][:] = [np.nan, np.nan, 0.5, 1.0, 0.0]
    arrays["exit_token"][:2], arrays["llm_token"][:2] = [[5, 6], [9, 9]], [7, 9]
    arrays["exit_child"][:2], arrays["llm_child"][:2] = [[1, 2], [4, 4]], [3, 4]
    return Graph("prompt", "kind", np.array([1, 2], np.int32), **arrays)


# ---------------------------------------------------------------- a graph


def test_a_token_leads_to_its_child() -> None:
    graph = toy_graph()
    assert [graph.child(0, token) for token in (5, 6, 7)] == [1, 2, 3]
    assert graph.child(1, 9) == 4
    assert graph.child(0, 8) == -1, "a token that no source says"
    assert graph.child(2, 5) == -1, "the end of an answer"
    assert len(graph) == 5


def test_a_child_that_was_not_recorded_is_minus_one_and_opens_the_graph() -> None:
    graph = toy_graph()
    assert graph.closed
    graph.exit_child[0, 1] = -1
    assert graph.child(0, 6) == -1
    assert not graph.closed
    other = toy_graph()
    other.llm_child[0] = -1
    assert not other.closed


# ---------------------------------------------------------------- the file


def test_what_is_loaded_is_what_was_saved(akin_graphs: GraphSet, saved: Path) -> None:
    loaded = GraphSet.load(saved)
    assert loaded.meta == akin_graphs.meta
    assert loaded.path == saved
    assert (len(loaded), loaded.nodes) == (len(akin_graphs), akin_graphs.nodes)
    for one, other in zip(loaded, akin_graphs, strict=True):
        assert (one.prompt, one.kind, one.closed) == (other.prompt, other.kind, other.closed)
        for name in ("prompt_tokens", *NODE_ARRAYS):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)
    assert Lens.from_tensors(loaded.lens_tensors).fingerprint == Lens.from_tensors(akin_graphs.lens_tensors).fingerprint


def test_a_loaded_set_is_mapped_read_only(saved: Path) -> None:
    loaded = GraphSet.load(str(saved))
    for name in NODE_ARRAYS:
        array = getattr(loaded[3], name)
        base = array
        while base is not None and not isinstance(base, np.memmap):
            base = base.base
        assert isinstance(base, np.memmap), name
        assert not array.flags.writeable, name


def test_graphs_can_be_counted_from_the_end_and_no_further(akin_graphs: GraphSet) -> None:
    assert akin_graphs[-1].prompt == akin_graphs.meta.prompts[-1]
    for index in (6, -7):
        with pytest.raises(IndexError, match=f"graph {index} of 6"):
            akin_graphs[index]


def test_a_loaded_set_can_be_saved_over_its_own_file(akin_graphs: GraphSet, saved: Path) -> None:
    loaded = GraphSet.load(saved)
    loaded.save(saved)
    again = GraphSet.load(saved)
    np.testing.assert_array_equal(again[2].confidence, akin_graphs[2].confidence)


def test_a_save_that_breaks_leaves_the_old_file(akin_graphs: GraphSet, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full_disk(tensors: Arrays, path: Path, metadata: dict[str, str]) -> None:
        Path(path).write_bytes(before[:100])
        raise OSError("no space left")

    monkeypatch.setattr(graph_module, "save_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        akin_graphs.save(saved)
    assert saved.read_bytes() == before


# ---------------------------------------------------------------- damage


def test_a_missing_file_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"no graph file at .*none\.safetensors; record one with: synera record"):
        GraphSet.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("kept", [0.0, 0.0001, 0.02, 0.5, 0.999])
def test_a_truncated_file_is_named(saved: Path, kept: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(TraceError, match=r"graphs\.safetensors is damaged .*record it again with: synera record"):
        GraphSet.load(saved)


def test_another_safetensors_file_is_not_taken_for_graphs(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"x": np.zeros(3, np.float32)}, path)
    with pytest.raises(TraceError, match=r"weights\.safetensors is a safetensors file, but holds no token graphs"):
        GraphSet.load(path)


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, "1", None])
def test_another_format_version_names_both(saved: Path, version: Any) -> None:
    rewrite(saved, lambda arrays, meta: meta.update(format_version=version))
    with pytest.raises(
        TraceError,
        match=rf"graphs\.safetensors is of graph format {version}, this version reads {FORMAT_VERSION}; record it again",
    ):
        GraphSet.load(saved)


@pytest.mark.parametrize("stated", ["{", "[]", "3", "null", '"x"'])
def test_a_description_that_is_not_one_is_damage(saved: Path, stated: str) -> None:
    save_file(load_file(saved), saved, metadata={"synera_graphs": stated})
    with pytest.raises(TraceError, match=r"graphs\.safetensors is damaged .*record it again"):
        GraphSet.load(saved)


def test_a_file_without_tensors_is_damage(saved: Path) -> None:
    rewrite(saved, lambda arrays, meta: arrays.clear())
    with pytest.raises(TraceError, match=r"graphs\.safetensors is damaged"):
        GraphSet.load(saved)


@pytest.mark.parametrize("name", ["prompts", "kinds", "exit_layers", "layers", "coverage"])
def test_a_description_that_lacks_a_field_is_damage(saved: Path, name: str) -> None:
    rewrite(saved, lambda arrays, meta: meta.pop(name))
    with pytest.raises(TraceError, match=rf"graphs\.safetensors is damaged .*{name}.*record it again"):
        GraphSet.load(saved)


@pytest.mark.parametrize("name", ALL_ARRAYS)
def test_a_missing_tensor_is_named(saved: Path, name: str) -> None:
    rewrite(saved, lambda arrays, meta: arrays.pop(name))
    with pytest.raises(TraceError, match=rf"graphs\.safetensors is damaged \(it lacks {name}\); record it again"):
        GraphSet.load(saved)


@pytest.mark.parametrize("name", NODE_ARRAYS)
def test_a_tensor_of_another_type_or_shape_is_named(saved: Path, name: str) -> None:
    whole = saved.read_bytes()
    changes: list[Callable[[Arrays], Any]] = [
        lambda arrays: arrays.update({name: np.nan_to_num(arrays[name]).astype(np.int64)}),
        lambda arrays: arrays.update({name: arrays[name][:-1]}),
        lambda arrays: arrays.update({name: arrays[name][..., None]}),
    ]
    for change in changes:
        saved.write_bytes(whole)
        rewrite(saved, lambda arrays, meta, change=change: change(arrays))
        # The length of `token` is what the others are held against.
        blamed = r"\w+" if name == "token" else name
        with pytest.raises(
            TraceError, match=rf"graphs\.safetensors is damaged \({blamed} is \w+\[.*\], expected \w+\[.*\]\); record it again"
        ):
            GraphSet.load(saved)


@pytest.mark.parametrize("name", ["exit_child", "llm_child", "parent"])
@pytest.mark.parametrize("beyond", [-2, None])
def test_an_index_out_of_its_graph_is_damage(akin_graphs: GraphSet, saved: Path, name: str, beyond: int | None) -> None:
    """Also one that stays inside the file, but leaves its own graph."""
    first = len(akin_graphs[0])

    def change(arrays: Arrays, meta: dict[str, Any]) -> None:
        arrays[name].reshape(len(arrays["token"]), -1)[0, 0] = first if beyond is None else beyond

    rewrite(saved, change)
    with pytest.raises(TraceError, match=rf"graphs\.safetensors is damaged \({name} points outside its graph\)"):
        GraphSet.load(saved)


@pytest.mark.parametrize("name", ["node_offsets", "prompt_offsets"])
@pytest.mark.parametrize("place", [0, 1, -1])
def test_offsets_that_do_not_divide_the_prompts_are_damage(saved: Path, name: str, place: int) -> None:
    def change(arrays: Arrays, meta: dict[str, Any]) -> None:
        arrays[name][place] += 10**6

    rewrite(saved, change)
    with pytest.raises(TraceError, match=rf"{name} does not divide the 6 prompts"):
        GraphSet.load(saved)


def test_prompts_and_kinds_must_be_as_many_as_graphs(akin_graphs: GraphSet, saved: Path) -> None:
    rewrite(saved, lambda arrays, meta: meta["prompts"].pop())
    with pytest.raises(TraceError, match="6 kinds for 5 prompts"):
        GraphSet.load(saved)
    meta = replace(akin_graphs.meta, prompts=akin_graphs.meta.prompts[:-1], kinds=akin_graphs.meta.kinds[:-1])
    with pytest.raises(TraceError, match=r"the graph set is damaged .*does not divide the 5 prompts"):
        GraphSet(meta, akin_graphs._arrays)


def test_an_unknown_tensor_type_is_damage(saved: Path) -> None:
    rewrite(saved, lambda arrays, meta: arrays.update(extra=np.zeros(2, np.uint8)))
    with pytest.raises(TraceError, match=r"graphs\.safetensors is damaged .*U8"):
        GraphSet.load(saved)
