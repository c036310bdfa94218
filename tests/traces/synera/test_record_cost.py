"""The cost that is told beforehand: it bounds what a recording takes, and what does not fit is one sentence with a way out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from runtime.errors import SettingError
from runtime.model import tree_kv
from runtime.model.placement import Placement
from runtime.synera.lens import Lens
from tests.support.graphs import record_tiny, text_score, tiny_prompts
from traces.synera import record_cost
from traces.synera.graph import GraphSet
from traces.synera.record import Recorder
from traces.synera.record_batch import Batch
from traces.synera.record_cost import Cost, Pace, check_room, check_weights, cost, free_memory, measure_pace
from traces.synera.record_models import Models
from traces.tasks.splits import Prompt

PACE = Pace(node_seconds=0.01, prompt_token_seconds=0.001)
GIGABYTE = 10**9


def of(models: Models, budget: int = 40, free: int = GIGABYTE, answers: bool = False) -> Cost:
    return cost(models, PACE, [tiny_prompts()], 6, budget, 2, answers=answers, free_bytes=free)


def test_the_pace_is_measured_on_the_prompts_themselves(tiny_models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.cumsum([0.0, 1.0, 0.0, 2.0, 0.0, 12.0]))  # the warm-up takes 1 s, one node a prompt 2 s, many 12 s
    monkeypatch.setattr(record_cost.time, "perf_counter", lambda: float(next(clock)))
    pace = measure_pace(tiny_models, tiny_prompts(), 6)
    some = 4 * record_cost._SAMPLE_NODES[0]
    assert pace.node_seconds == pytest.approx(10 / (some - 4))
    assert pace.prompt_token_seconds > 0


def test_where_nodes_take_no_time_more_are_timed_so_that_waves_are_full(
    tiny_models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets = list[int]()

    def timed(models: Models, prompts: object, max_new_tokens: int, nodes: int) -> tuple[int, float]:
        budgets.append(nodes)
        return 4 * nodes, 0.01 * nodes + 0.5

    monkeypatch.setattr(record_cost, "_timed", timed)
    pace = measure_pace(tiny_models, tiny_prompts(), 6)
    assert budgets[1:] == [1, 48, 192], "1 s is too short, 2.4 s is not"
    assert pace.node_seconds == pytest.approx(0.01 / 4)


def test_caches_are_bounds_of_what_a_batch_takes(tiny_models: Models) -> None:
    found = of(tiny_models, budget=400)
    neutral = Lens.neutral(len(tiny_models.slm.config.exit_layers), tiny_models.slm.config.hidden)
    batch = Batch(tiny_models, neutral, tiny_prompts(), 6, 400 * 6)
    longest = max(len(tiny_models.encode(prompt.text, 6)) for prompt in tiny_prompts())
    caches = found.cache_bytes / 2 - record_cost._forward_bytes(tiny_models, longest)  # there are two workers
    assert caches / 2 < batch.cached_bytes <= caches


def test_what_a_forward_gathers_is_counted_where_it_cannot_read_caches_in_place(
    tiny_slm: Path, tiny_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole path of each row of a wave, whatever the batch: so long prompts take memory even one by one."""
    models, prompt = Models.load(tiny_slm, tiny_llm, Placement("cpu", "bfloat16")), Prompt("Bill " * 200, "free")
    gathered, attend = list[int](), tree_kv.F.scaled_dot_product_attention

    def watched(q: Tensor, keys: Tensor, values: Tensor, **options: Any) -> Tensor:
        gathered.append(keys.untyped_storage().nbytes())
        return attend(q, keys, values, **options)

    monkeypatch.setattr(tree_kv.F, "scaled_dot_product_attention", watched)
    neutral = Lens.neutral(len(models.slm.config.exit_layers), models.slm.config.hidden)
    batch = Batch(models, neutral, [prompt], 6, 40)
    batch.expand()
    found = cost(models, PACE, [[prompt]], 6, 40, 1, answers=False, free_bytes=GIGABYTE)
    longest = len(models.encode(prompt.text, 6)) + 6
    forward, in_place = (
        record_cost._forward_bytes(each, longest) for each in (models, replace(models, placement=Placement("cpu")))
    )
    assert forward - in_place >= max(gathered) > batch.cached_bytes
    assert found.cache_bytes >= forward + batch.cached_bytes


def test_nodes_and_disk_are_bounds_of_what_is_recorded(tiny_models: Models, tmp_path: Path) -> None:
    found = of(tiny_models)
    graphs = record_tiny(tiny_models, 6, 40)
    assert found.nodes == 40 * 6
    assert sum(int(np.isnan(graph.score).sum()) for graph in graphs) <= found.nodes
    graphs.save(tmp_path / "graphs.safetensors")
    arrays = sum(array.nbytes for name, array in graphs._arrays.items() if not name.startswith("lens"))
    assert arrays / 3 < found.disk_bytes
    assert arrays <= found.disk_bytes + 10_000
    read = sum(len(g.prompt_tokens) for g in graphs) * 0.001
    assert found.seconds == pytest.approx((240 * 0.01 + read) / 2)
    answered = of(tiny_models, answers=True).seconds - found.seconds
    assert answered == pytest.approx(6 * 6 * 0.01 + read), "of six prompts six tokens each, by one worker"


def test_fewer_prompts_go_together_where_memory_is_short(tiny_models: Models) -> None:
    roomy = of(tiny_models)
    assert roomy.batch == 16
    short = of(tiny_models, free=roomy.cache_bytes)
    assert short.batch < 16
    assert short.cache_bytes < roomy.cache_bytes
    assert of(tiny_models, free=0).batch == 1


def test_the_batch_that_is_planned_records_what_any_other_does(tiny_models: Models) -> None:
    recorder = Recorder(tiny_models, text_score, 3)
    *_, graphs = recorder.record(tiny_prompts(), "train", batch=of(tiny_models, free=0).batch)
    assert isinstance(graphs, GraphSet)
    assert len(graphs) == 6


@pytest.mark.parametrize("which", ["cache_bytes", "graph_bytes", "disk_bytes"])
def test_what_does_not_fit_is_one_sentence_that_names_what_would_help(tiny_models: Models, tmp_path: Path, which: str) -> None:
    found = of(tiny_models)
    check_room(found, tiny_models, GIGABYTE, tmp_path / "not" / "there" / "yet")
    with pytest.raises(
        SettingError, match=r"recording takes up to .* are free; lower --max-new-tokens or --node-budget"
    ) as error:
        check_room(replace(found, **{which: 10**18}), tiny_models, GIGABYTE, tmp_path)
    for way_out in ("synera train --grow", "fewer or shorter prompts", "--dtype"):
        assert way_out in str(error.value)
    assert ("disk" in str(error.value)) == (which == "disk_bytes")


def test_the_caches_must_fit_where_the_models_run(tiny_models: Models, tmp_path: Path) -> None:
    found = of(tiny_models)
    with pytest.raises(SettingError, match="of memory of cpu, and 1 kB are free"):
        check_room(found, tiny_models, 1000, tmp_path)


@pytest.mark.parametrize(("dtype", "each"), [("float32", 4), ("bfloat16", 2)])
def test_weights_that_do_not_fit_are_refused_before_they_are_loaded(
    tiny_slm: Path, tiny_llm: Path, tiny_models: Models, monkeypatch: pytest.MonkeyPatch, dtype: str, each: int
) -> None:
    needed = (tiny_models.slm.weight_bytes + tiny_models.llm.weight_bytes) // 4 * each
    monkeypatch.setattr(record_cost, "free_memory", lambda device: needed)
    check_weights((tiny_slm, tiny_llm), Placement("cpu", dtype))
    monkeypatch.setattr(record_cost, "free_memory", lambda device: needed - 1)
    with pytest.raises(SettingError, match=f"the weights of both models take .* in {dtype}, and .* another --device") as error:
        check_weights((tiny_slm, tiny_llm), Placement("cpu", dtype))
    assert ("--dtype bfloat16" in str(error.value)) == (dtype == "float32")


def test_weights_that_cannot_be_read_are_left_to_the_loader(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"none")
    check_weights((tmp_path, tmp_path / "missing"), Placement())


@pytest.mark.parametrize(("node_seconds", "nodes"), [(1e-6, 256), (0.036, 100), (100.0, 16)])
def test_seeds_take_a_few_minutes_within_bounds(node_seconds: float, nodes: int) -> None:
    assert Pace(node_seconds, 0.0).seed_nodes(prompts=100, workers=2) == nodes


def test_free_memory_is_less_than_all_there_is() -> None:
    total = free_memory("cpu")
    assert 10**7 < total < 10**14


def test_the_cost_reads_as_a_line() -> None:
    line = str(Cost(40, 10_240, 4000.0, 15_400_000, 3_610_000, 2_580, 8))
    assert line == (
        "40 prompts, at most 10240 nodes, about 67 min; memory: 15.4 MB of caches (8 prompts together) and 3.61 MB of graphs; "
        "disk: 2.58 kB"
    )
    assert "about 2.0 h" in str(Cost(1, 1, 7200.0, 0, 0, 0, 1))
    assert "about 60 s" in str(Cost(1, 1, 60.0, 0, 0, 0, 1))
