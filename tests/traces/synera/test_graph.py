from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from runtime.synera.lens import Lens
from traces.errors import TraceError
from traces.synera import graph_file
from traces.synera.graph import Graph, GraphMeta, GraphSet
from traces.synera.graph_check import NODE_ARRAYS
from traces.synera.graph_file import FORMAT_VERSION

Arrays = dict[str, Any]
ALL_ARRAYS = [
    *NODE_ARRAYS,
    "prompt_tokens",
    "node_offsets",
    "prompt_offsets",
    "lens.mean",
    "lens.directions",
    "lens.rejection",
    "lens.importance",
]


@pytest.fixture
def saved(akin_graphs: GraphSet, tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "graphs.safetensors"
    akin_graphs.save(path)
    return path


def rewrite(path: Path, change: Callable[[Arrays, dict[str, Any]], Any]) -> None:
    """Change the tensors or the description of a graph file, as a writer would that means it: the checksum is right."""
    arrays = load_file(path)
    with safe_open(path, framework="np") as opened:
        meta = json.loads(opened.metadata()["synera_graphs"])["description"]
    change(arrays, meta)
    graph_file.save(arrays, meta, path)


def restate(path: Path, stated: str) -> None:
    """Replace all that a graph file says of itself."""
    save_file(load_file(path), path, metadata={"synera_graphs": stated})


def toy_graph() -> Graph:
    """Root 0 with exits saying 5 and 6 and the LLM 7; child 1 is inner and agreed on, 2 to 4 are ends."""
    nodes = 5
    arrays: Arrays = {}
    for name, (dtype, tail) in NODE_ARRAYS.items():
        empty = -1 if np.issubdtype(dtype, np.integer) else 0
        arrays[name] = np.full((nodes, *(2 if s == "exits" else int(s) for s in tail)), empty, dtype)
    arrays["score"][:] = [np.nan, np.nan, 0.5, 1.0, 0.0]
    arrays["token"][:], arrays["parent"][:], arrays["depth"][:] = [-1, 5, 6, 7, 9], [-1, 0, 0, 0, 1], [0, 1, 1, 1, 2]
    arrays["exit_token"][:2], arrays["llm_token"][:2] = [[5, 6], [9, 9]], [7, 9]
    arrays["runner_up"][:2] = 3
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


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux says what of a file is resident")
def test_what_is_loaded_is_resident_only_once_it_is_read_again(saved: Path) -> None:
    def resident_kib() -> int:
        of_file = Path("/proc/self/smaps").read_text().split(str(saved), 1)[1]
        return int(of_file.split("\nRss:", 1)[1].split()[0])

    loaded = GraphSet.load(saved)
    before = resident_kib()
    assert before <= 64  # a page, and those around it that the system maps with it
    for name in NODE_ARRAYS:
        np.asarray(loaded.arrays[name]).sum()
    assert resident_kib() > before


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

    monkeypatch.setattr(graph_file, "save_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        akin_graphs.save(saved)
    assert saved.read_bytes() == before


def test_how_answers_were_scored_and_prompts_read_is_kept(akin_graphs: GraphSet, tmp_path: Path) -> None:
    references = tuple(f"reference\n{n}" for n in range(len(akin_graphs)))
    frame = {"before": "<", "after": ">", "special_tokens": False, "ends": [2]}
    meta = replace(akin_graphs.meta, scorer="token-f1", references=references, frame=frame)
    akin_graphs.with_meta(meta).save(tmp_path / "scored.safetensors")
    assert GraphSet.load(tmp_path / "scored.safetensors").meta == meta


def test_a_file_that_states_neither_is_read(akin_graphs: GraphSet, tmp_path: Path) -> None:
    """As those of before are."""
    description = asdict(akin_graphs.meta)
    for name in ("scorer", "references", "frame"):
        del description[name]
    graph_file.save(akin_graphs._arrays, description, tmp_path / "old.safetensors")
    meta = GraphSet.load(tmp_path / "old.safetensors").meta
    assert (meta.scorer, meta.references, meta.frame) == ("", (), {})


def test_there_is_a_reference_for_each_prompt_or_none(akin_graphs: GraphSet) -> None:
    with pytest.raises(TraceError, match="references holds 2 texts for 6 prompts; give one each, or none"):
        replace(akin_graphs.meta, references=("a", "b"))


# ---------------------------------------------------------------- what is said


def test_text_is_that_of_its_tokens_and_shows_the_id_of_an_unknown_one(akin_graphs: GraphSet) -> None:
    texts = {"5": " The", "6": " sum", "7": ".", "8": " 1", "9": " 2", "10": "<eos>"}
    graphs = GraphSet(replace(akin_graphs.meta, texts=texts, joined=(8, 9)), akin_graphs._arrays)
    assert graphs.text([5, 6, 8, 9, 8, 7, 10]) == " The sum 121.<eos>"
    assert graphs.text([8, 6, 9, 77]) == " 1 sum 2<77>"
    assert graphs.text([]) == ""


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


@pytest.mark.parametrize("version", [0, 1, 2, FORMAT_VERSION + 1, "2", None, 2.5, [2]])
def test_another_format_version_names_both(saved: Path, version: Any) -> None:
    restate(saved, json.dumps({"format_version": version}))
    with pytest.raises(
        TraceError,
        match=rf"graphs\.safetensors is of graph format {re.escape(repr(version))}, this version reads {FORMAT_VERSION}; record it again",
    ):
        GraphSet.load(saved)


@pytest.mark.parametrize("stated", ["{", "", "[" * 100_000, '{"format_version": 3}', '{"format_version": 3, "sha256": "0"}'])
def test_a_description_that_is_not_one_is_damage(saved: Path, stated: str) -> None:
    restate(saved, stated)
    with pytest.raises(TraceError, match=r"graphs\.safetensors is damaged .*record it again"):
        GraphSet.load(saved)


@pytest.mark.parametrize("stated", ["[]", "3", "null", '"x"', "{}"])
def test_a_description_without_a_version_is_of_none(saved: Path, stated: str) -> None:
    restate(saved, stated)
    with pytest.raises(TraceError, match=r"graphs\.safetensors is of graph format None, this version reads 3"):
        GraphSet.load(saved)


def test_a_file_without_tensors_is_damage(saved: Path) -> None:
    rewrite(saved, lambda arrays, meta: arrays.clear())
    with pytest.raises(TraceError, match=r"graphs\.safetensors is damaged"):
        GraphSet.load(saved)


@pytest.mark.parametrize("name", ["prompts", "kinds", "exit_layers", "layers", "coverage", "tokenizer_hash"])
def test_a_description_that_lacks_a_field_is_named(saved: Path, name: str) -> None:
    rewrite(saved, lambda arrays, meta: meta.pop(name))
    with pytest.raises(TraceError, match=rf"graphs\.safetensors is not a GraphMeta: {name}: Field required"):
        GraphSet.load(saved)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("exit_layers", [], "exit_layers: .*at least 1 item"),
        ("exit_layers", [2, 1], r"exit_layers=\(2, 1\) must rise and end with the last layer, 2"),
        ("exit_layers", [1, 3], r"exit_layers=\(1, 3\) must rise and end with the last layer, 2"),
        ("exit_layers", [0, 2], r"exit_layers\.0"),
        ("exit_layers", [1.0, 2], r"exit_layers\.0: .*valid integer, not 1\.0"),
        ("exit_layers", ["1", "2"], r"exit_layers\.0"),
        ("layers", 10**9, "layers: .*1024"),
        ("layers", True, "layers: .*valid integer, not True"),
        ("eos_ids", [-1], r"eos_ids\.0"),
        ("eos_ids", [2**31], r"eos_ids\.0"),
        ("eos_ids", 2, "eos_ids: .*valid array"),
        ("max_new_tokens", 0, "max_new_tokens"),
        ("max_new_tokens", 10**400, "max_new_tokens"),
        ("context", 2**21, "context: .*1048576"),
        ("context", 10, "exceed the context of 10"),
        ("split", 3, "split: .*valid string"),
        ("slm_fingerprint", "", "slm_fingerprint: .*at least 1 character"),
        ("prompts", [], "prompts: .*at least 1 item"),
        ("prompts", [1, 2], r"prompts\.0: .*valid string"),
        ("kinds", "fact", "kinds: .*valid array"),
        ("coverage", {"random": 1.5}, r"coverage\.random: .* 1, not 1\.5"),
        ("coverage", {"random": float("nan")}, r"coverage\.random: .*finite"),
        ("coverage", [1], "coverage: .*valid dictionary|coverage: .*object"),
        ("notes", {"a": {"b": 1}}, "notes"),
        ("texts", {"1": 2}, r"texts\.1: .*valid string, not 2"),
        ("joined", [-4], r"joined\.0"),
        ("more", 1, "more: Unexpected keyword argument"),
    ],
)
def test_a_description_that_makes_no_sense_names_the_field(saved: Path, name: str, value: Any, message: str) -> None:
    rewrite(saved, lambda arrays, meta: meta.update({name: value}))
    with pytest.raises(TraceError, match=message) as error:
        GraphSet.load(saved)
    assert str(error.value).startswith(str(saved))
    assert len(str(error.value)) < 500


def test_a_description_made_by_hand_is_held_to_the_same(akin_graphs: GraphSet) -> None:
    for change in ({"layers": 0}, {"eos_ids": (-1,)}, {"coverage": {"random": 2.0}}, {"exit_layers": (1,)}):
        with pytest.raises(TraceError, match=next(iter(change))):
            replace(akin_graphs.meta, **change)


@pytest.mark.parametrize("name", ALL_ARRAYS)
def test_a_missing_tensor_is_named(saved: Path, name: str) -> None:
    rewrite(saved, lambda arrays, meta: arrays.pop(name))
    with pytest.raises(TraceError, match=rf"graphs\.safetensors is damaged \(it lacks {name}\); record it again"):
        GraphSet.load(saved)


@pytest.mark.parametrize("name", ALL_ARRAYS)
def test_a_tensor_of_another_type_or_shape_is_named(saved: Path, name: str) -> None:
    whole = saved.read_bytes()
    changes: list[Callable[[Arrays], Any]] = [
        lambda arrays: arrays.update({name: np.nan_to_num(arrays[name]).astype(other_type(arrays[name]))}),
        lambda arrays: arrays.update({name: arrays[name][:-1]}),
        lambda arrays: arrays.update({name: arrays[name][..., None]}),
        lambda arrays: arrays.update({name: arrays[name].ravel()[0]}),
        lambda arrays: arrays.update({name: arrays[name][:0]}),
    ]
    for change in changes:
        saved.write_bytes(whole)
        rewrite(saved, lambda arrays, meta, change=change: change(arrays))
        # The length of `token` and the size of the lens's mean are what others are held against.
        blamed = rf"({name}|\w+_offsets|lens\.\w+)" if name != "token" else r"\w+"
        with pytest.raises(TraceError, match=rf"graphs\.safetensors is damaged \({blamed} (is \w+\[.*\], expected|does not)"):
            GraphSet.load(saved)


def other_type(array: Any) -> Any:
    return np.int64 if array.dtype != np.int64 else np.int32


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


def test_an_unknown_tensor_is_damage(saved: Path) -> None:
    whole = saved.read_bytes()
    for extra, said in ((np.zeros(2, np.uint8), "extra is stored as U8"), (np.zeros(2, np.float32), "it holds 'extra'")):
        saved.write_bytes(whole)
        rewrite(saved, lambda arrays, meta, extra=extra: arrays.update(extra=extra))
        with pytest.raises(TraceError, match=rf"graphs\.safetensors is damaged \({said}"):
            GraphSet.load(saved)


# ---------------------------------------------------------------- structure


def whole(graphs: GraphSet) -> Arrays:
    return {name: np.array(array) for name, array in graphs._arrays.items()}


def node_of(graphs: GraphSet, wanted: str) -> int:
    """A node of the second graph, as it is counted in the whole file, and not its first."""
    graph, first = graphs[1], len(graphs[0])
    inner = np.isnan(graph.score)
    inner[0] = False
    return first + int(np.flatnonzero(inner if wanted == "inner" else ~np.isnan(graph.score))[3])


def spoil(name: str, value: Any, of: str = "inner", **more: Any) -> Callable[[GraphSet, Arrays], None]:
    """Write a value to a node."""

    def apply(graphs: GraphSet, arrays: Arrays) -> None:
        arrays[name].reshape(len(arrays["token"]), -1)[node_of(graphs, of), -1] = value

    return apply


def cycle(graphs: GraphSet, arrays: Arrays) -> None:
    """A node whose child is its own parent, said by all four arrays alike but for the order of the two."""
    node, first = node_of(graphs, "inner"), len(graphs[0])
    parent = arrays["parent"][node]
    arrays["llm_child"][node], arrays["llm_token"][node] = parent, arrays["token"][first + parent]


def itself(graphs: GraphSet, arrays: Arrays) -> None:
    node = node_of(graphs, "inner")
    arrays["llm_child"][node], arrays["llm_token"][node] = node - len(graphs[0]), arrays["token"][node]


def stolen(graphs: GraphSet, arrays: Arrays) -> None:
    """A node that leads to the child of a later one."""
    node, first = node_of(graphs, "inner"), len(graphs[0])
    later = int(np.flatnonzero(graphs[1].parent > node - first)[0])
    arrays["llm_child"][node], arrays["llm_token"][node] = later, arrays["token"][first + later]


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (cycle, "llm_child points back"),
        (itself, "llm_child points back"),
        (stolen, "llm_child points to a node of another parent"),
        (spoil("exit_child", 1), "exit_child points (back|to a node of another parent)"),
        (spoil("exit_child", 0), "exit_child points back"),
        (spoil("parent", 10**6), "parent points outside its graph"),
        (spoil("parent", -1), "a node that is not the prompt's has no parent"),
        (spoil("parent", 0, "ended"), "depth is not one more|another parent"),
        (spoil("token", -1), "has no parent or no token"),
        (spoil("token", 4), "points to a node of another token"),
        (spoil("depth", 9), "depth is not one more than the parent's"),
        (spoil("depth", -3), "depth is not one more than the parent's"),
        (spoil("llm_token", 4), "llm_child points to a node of another token than llm_token"),
        (spoil("exit_token", 4), "exit_child points to a node of another token than exit_token"),
        (spoil("score", NAN, "ended"), "is negative"),
        (spoil("score", 0.5), "an answer goes on after its score"),
        (spoil("score", 1.5, "ended"), r"a score is outside 0\.\.1"),
        (spoil("score", -0.1, "ended"), r"a score is outside 0\.\.1"),
        (spoil("score", INFINITE, "ended"), r"a score is outside 0\.\.1"),
        (spoil("confidence", NAN), r"confidence has values outside 0\.\.1"),
        (spoil("confidence", 1.01), r"confidence has values outside 0\.\.1"),
        (spoil("confidence", NAN, "ended"), r"confidence has values outside 0\.\.1"),
        (spoil("margin", -0.01), r"margin has values outside 0\.\.1"),
        (spoil("margin", 1.0), "a margin exceeds its confidence"),
        (spoil("llm_probability", INFINITE), r"llm_probability has values outside 0\.\.1"),
        (spoil("entropy", INFINITE), r"entropy has values outside 0\.\.100"),
        (spoil("entropy", NAN), r"entropy has values outside 0\.\.100"),
        (spoil("sketch", NAN), r"sketch has values outside -8\.\.8"),
        (spoil("sketch", 9.0), r"sketch has values outside -8\.\.8"),
        (spoil("runner_up", -2), "runner_up is negative"),
        (lambda graphs, arrays: arrays["prompt_tokens"].__setitem__(0, -5), "prompt_tokens is negative"),
        (lambda graphs, arrays: arrays["score"].__setitem__(0, 0.5), "an answer goes on after its score"),
        (lambda graphs, arrays: arrays["token"].__setitem__(0, 5), "a prompt's own node has a parent, a token or a depth"),
        (lambda graphs, arrays: arrays["depth"].__setitem__(0, 1), "a prompt's own node has a parent, a token or a depth"),
        (lambda graphs, arrays: arrays["lens.mean"].__setitem__((0, 0), NAN), r"lens\.mean has values that are not finite"),
        (
            lambda graphs, arrays: arrays["lens.rejection"].__setitem__((0, 0), NAN),
            r"lens\.rejection has values that are not finite",
        ),
        (lambda graphs, arrays: arrays["lens.importance"].__setitem__((3, 0), 2.0), r"lens\.importance has values outside"),
    ],
)
def test_graphs_that_contradict_themselves_are_refused(
    akin_graphs: GraphSet, tmp_path: Path, apply: Callable[[GraphSet, Arrays], None], message: str
) -> None:
    """Whether they were made in Python or come from a file whose checksum is right."""
    arrays = whole(akin_graphs)
    GraphSet(akin_graphs.meta, arrays)
    apply(akin_graphs, arrays)
    with pytest.raises(TraceError, match=rf"the graph set is damaged \(.*{message}.*\); record it again"):
        GraphSet(akin_graphs.meta, arrays)
    path = tmp_path / "graphs.safetensors"
    graph_file.save(arrays, asdict(akin_graphs.meta), path)
    with pytest.raises(TraceError, match=rf"graphs\.safetensors is damaged \(.*{message}.*\); record it again"):
        GraphSet.load(path)


def test_an_answer_longer_than_the_limit_is_damage(akin_graphs: GraphSet) -> None:
    with pytest.raises(TraceError, match="depth is not one more than the parent's, up to 13"):
        GraphSet(replace(akin_graphs.meta, max_new_tokens=13), akin_graphs._arrays)


def test_another_lens_changes_its_tables_alone(akin_graphs: GraphSet) -> None:
    lens = {name: table / 2 for name, table in akin_graphs.lens_tensors.items()}
    changed = akin_graphs.with_lens(lens)
    assert changed.meta == akin_graphs.meta
    for name in ALL_ARRAYS:
        same = akin_graphs._arrays[name] if name not in lens else lens[name]
        assert np.array_equal(changed._arrays[name], same, equal_nan=name == "score")


# ---------------------------------------------------------------- checksum


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of the toy graph, about 8 kB."""
    path, graph = tmp_path_factory.mktemp("small") / "graphs.safetensors", toy_graph()
    arrays = {name: getattr(graph, name) for name in (*NODE_ARRAYS, "prompt_tokens")}
    GraphSet.build(toy_meta(), [arrays], Lens.neutral(2, 2).tensors()).save(path)
    return path.read_bytes()


def toy_meta() -> GraphMeta:
    shares = {"closed": 1.0, "random": 1.0}
    return GraphMeta((1, 2), 2, (9,), 4, 32, "slm", "llm", "hash", "train", ("prompt",), ("kind",), shares, texts={"5": "x"})


def refused(folder: Path, content: bytes) -> bool:
    """Whether a file is refused, with the one error that there is for it."""
    path = folder / "graphs.safetensors"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=r"graphs\.safetensors (is damaged|is of graph format|is a safetensors file)"):
        GraphSet.load(path)
    return True


def test_the_small_file_is_whole(small: bytes, tmp_path: Path) -> None:
    path = tmp_path / "graphs.safetensors"
    path.write_bytes(small)
    assert GraphSet.load(path)[0].closed


def test_a_byte_that_changed_is_found_wherever_it_is(small: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every other byte of the header and every fifth of the tensors, each changed to some other value."""
    folder, rng = tmp_path_factory.mktemp("flipped"), np.random.default_rng(0)
    header = 8 + int.from_bytes(small[:8], "little")
    for place in (*range(0, header, 2), *range(header, len(small), 5)):
        content = bytearray(small)
        content[place] ^= int(rng.integers(1, 256))
        assert refused(folder, bytes(content))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_bytes_that_changed_are_found(small: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any few, or a part that is lost, or more at the end."""
    places = data.draw(st.lists(st.integers(0, len(small) - 1), max_size=4, unique=True))
    content = bytearray(small)
    for place in places:
        content[place] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(small)))
    more = data.draw(st.binary(max_size=3))
    content = content[:cut] if data.draw(st.booleans()) else content + more
    if bytes(content) != small:
        assert refused(tmp_path_factory.getbasetemp(), bytes(content))


def test_two_files_of_the_same_graphs_are_the_same(akin_graphs: GraphSet, tmp_path: Path) -> None:
    for name in ("one", "other"):
        akin_graphs.save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
