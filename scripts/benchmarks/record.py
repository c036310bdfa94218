"""The recorder: against the one before it and against transformers over the same nodes, and where its time goes.

Recorders take turns in processes of their own, each with the same prompts. What does not live here: those processes
(_recorders.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from time import perf_counter
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from runtime.errors import CheckpointError
from runtime.model.decoder import Decoder
from runtime.model.tree_kv import TreeKV
from runtime.synera.lens import Lens
from scripts._cli import console
from scripts.benchmarks._recorders import ROOT, RecorderProcess, Task, before, recorder_at
from scripts.benchmarks.harness import Figure, Setting, compare
from traces import bundled
from traces.synera.growing_graph import GrowingGraph
from traces.synera.record_batch import Batch
from traces.synera.record_models import Models
from traces.tasks.splits import Prompt, bundled_prompts

_PER_KIND = 16
_NODES = 200  # a prompt
_FEW = 4  # prompts that transformers runs, too
_FEW_NODES = 50
_PROMPTS, _SECONDS = 1000, 600  # that are to be recorded in so many seconds


def measure(setting: Setting) -> list[Figure]:
    """Measure every figure of the area.

    Raises:
        CheckpointError: the pair cannot be used.
        SettingError: there is no such state of the project to compare with.
    """
    torch.set_num_threads(1)
    models = Models.load(setting.pair / "slm", setting.pair / "llm")
    prompts = bundled_prompts("test", _PER_KIND)
    task = Task(setting.pair, prompts, _room(models, prompts), _NODES, setting.threads)
    return [*_against_before(task, setting), _against_transformers(models, task, setting), _outside_models(models, task)]


def _room(models: Models, prompts: Sequence[Prompt]) -> int:
    """Where answers are cut: as the bundled ones, or what a small model takes."""
    longest = max(len(models.encode(prompt.text, 1)) for prompt in prompts)
    return min(bundled.MAX_NEW_TOKENS, models.context - longest)


# ---------------------------------------------------------------- the recorder before


def _against_before(task: Task, setting: Setting) -> list[Figure]:
    with before(setting.before) as found, ExitStack() as stack:
        ours = stack.enter_context(recorder_at(ROOT, task, "this recorder"))
        figures = []
        if found is None:
            console.print("the recorder before this one is left out: its history is not here; name a folder with --before")
            taken: Sequence[float] = _seconds(ours, setting.repetitions)
        else:
            peer = stack.enter_context(recorder_at(found.root, task, found.name))
            turns = compare(ours, peer, setting.repetitions)
            taken, each = turns.ours, turns.per_unit(ours.nodes, peer.nodes)
            rates = [1 / median(seconds) for seconds in (each.peer, each.ours)]
            told = f"the recorder of {found.name}: {rates[0]:.0f} nodes/s, ours {rates[1]:.0f}"
            name = f"recording {len(task.prompts)} prompts, by the node"
            figures = [Figure(name, each.speedup, "x as fast", 2.0, "higher", told)]
        rate = ours.nodes / median(taken)
        name = f"nodes for each of {_PROMPTS} prompts in {_SECONDS // 60} minutes"
        told = f"{rate:.0f} nodes/s with {task.threads} worker(s), at {ours.nodes} nodes of {len(task.prompts)} prompts"
        return [*figures, Figure(name, rate * _SECONDS / _PROMPTS, "nodes", 300, "higher", told)]


def _seconds(work: RecorderProcess, repetitions: int) -> list[float]:
    work()
    taken = []
    for _ in range(repetitions):
        began = perf_counter()
        work()
        taken.append(perf_counter() - began)
    return taken


# ---------------------------------------------------------------- transformers


def _against_transformers(models: Models, task: Task, setting: Setting) -> Figure:
    exits = models.slm.config.exit_layers
    batch = _expanded(models, task)
    nodes = sum(int(graph.ran.sum()) for graph in batch.graphs)
    some = [(graph, _beginning(graph)) for graph in batch.graphs[:: max(1, len(batch.graphs) // _FEW)][:_FEW]]
    transformers.utils.logging.disable_progress_bar()
    slm, llm = (
        AutoModelForCausalLM.from_pretrained(setting.pair / name, dtype=torch.float32).eval() for name in ("slm", "llm")
    )

    def peer() -> None:
        for graph, chosen in some:
            _walk(graph, chosen, slm, llm, exits)

    found = compare(lambda: _expanded(models, task), peer, setting.repetitions)
    theirs = sum(len(chosen) for _, chosen in some)
    each = found.per_unit(nodes, theirs)
    rates = [1 / median(seconds) for seconds in (each.peer, each.ours)]
    told = (
        f"transformers {transformers.__version__}, both models node by node over {theirs} of the nodes, depth first, a cropped "
        f"DynamicCache: {rates[0]:.0f} nodes/s, ours {rates[1]:.0f}"
    )
    return Figure(f"recording {nodes} nodes, by the node, one thread", each.speedup, "x as fast", 10.0, "higher", told)


def _expanded(models: Models, task: Task) -> Batch:
    """All prompts recorded in one batch, here, by this thread."""
    neutral = Lens.neutral(len(models.slm.config.exit_layers), models.slm.config.hidden)
    batch = Batch(models, neutral, task.prompts, task.max_new_tokens, task.node_budget * len(task.prompts))
    batch.expand()
    return batch


def _beginning(graph: GrowingGraph) -> list[int]:
    """Some nodes that are kept, depth first: each after the node that it follows."""
    found, todo = list[int](), [0]
    while todo and len(found) < _FEW_NODES:
        found.append(node := todo.pop())
        todo += {int(child) for child in (*graph.exit_child[node], graph.llm_child[node]) if graph.ran[child]}
    return found


@torch.inference_mode()
def _walk(graph: GrowingGraph, nodes: Sequence[int], slm: PreTrainedModel, llm: PreTrainedModel, exits: Sequence[int]) -> None:
    """Run both models over nodes of a graph, in an order that :func:`_beginning` gives.

    Raises:
        CheckpointError: they say other tokens there.
    """
    prompt, caches = torch.from_numpy(graph.prompt_tokens[None].astype("int64")), (DynamicCache(), DynamicCache())
    for model, cache in zip((slm, llm), caches, strict=True):
        if prompt.shape[1] > 1:
            model(prompt[:, :-1], past_key_values=cache, logits_to_keep=1)
    for node in nodes:
        token = torch.tensor([[graph.token[node]]], dtype=torch.int64) if node else prompt[:, -1:]
        for cache in caches:
            if (beyond := cache.get_seq_length() - (prompt.shape[1] - 1 + int(graph.depth[node]))) > 0:
                cache.crop(-beyond)
        felt = slm(token, past_key_values=caches[0], output_hidden_states=True)
        earlier = [slm.lm_head(slm.model.norm(felt.hidden_states[layer][0, -1:])) for layer in exits[:-1]]
        said = _figures(torch.cat([*earlier, felt.logits[0, -1:]]))
        judged = llm(token, past_key_values=caches[1]).logits[0, -1].softmax(-1)
        told = judged[said].tolist(), said.tolist(), int(judged.argmax())
        if told[1:] != (graph.exit_token[node].tolist(), int(graph.llm_token[node])):
            raise CheckpointError(
                f"transformers {transformers.__version__} says other tokens than this recorder; there is nothing to compare"
            )


def _figures(logits: Tensor) -> Tensor:
    """Work out what a graph stores of the exits' logits [exits, vocab], and return their tokens [exits]."""
    probabilities = logits.softmax(-1)
    best, ids = probabilities.topk(2, -1)
    torch.cat([best, torch.special.entr(probabilities).sum(-1, keepdim=True)], 1).tolist()
    return ids[:, 0]


# ---------------------------------------------------------------- where time goes


def _outside_models(models: Models, task: Task) -> Figure:
    """One batch, taken apart."""
    spent = {"attention": 0.0, "SLM layers": 0.0, "LLM layers": 0.0, "heads": 0.0}
    _expanded(models, task)
    with _timed(TreeKV, "attend", lambda _: "attention", spent), _timed(Decoder, "logits", lambda _: "heads", spent):
        layers = {id(models.slm): "SLM layers", id(models.llm): "LLM layers"}
        with _timed(Decoder, "run", lambda decoder: layers[id(decoder)], spent, inner="attention"):
            began = perf_counter()
            _expanded(models, task)
            whole = perf_counter() - began
    shares = {name: 100 * seconds / whole for name, seconds in spent.items()}
    told = ", ".join(f"{name} {share:.0f} %" for name, share in shares.items())
    return Figure(
        "the recorder's time outside layers and heads", 100 - sum(shares.values()), "%", 20, "lower", f"of one batch: {told}"
    )


@contextmanager
def _timed(owner: type, method: str, part: Callable[[Any], str], spent: dict[str, float], inner: str = "") -> Iterator[None]:
    """Add up the seconds of a method, by what `part` calls its object; without those of `inner`, which go on within it."""
    plain = getattr(owner, method)

    def timed(self: Any, *arguments: Any, **named: Any) -> Any:
        began, within = perf_counter(), spent.get(inner, 0.0)
        try:
            return plain(self, *arguments, **named)
        finally:
            spent[part(self)] += perf_counter() - began - (spent.get(inner, 0.0) - within)

    setattr(owner, method, timed)
    try:
        yield
    finally:
        setattr(owner, method, plain)
