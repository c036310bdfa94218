"""What a recording will cost, told before it starts: nodes, time, memory and disk; and the most that fits into this machine.

Times are those of a small recording of a few of the prompts. What does not live here: the recorder (record.py).
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from runtime.errors import SettingError
from runtime.model.placement import Placement
from runtime.model.tree_kv import attends_in_place
from runtime.synera.lens import Lens
from traces.synera.graph_check import node_bytes
from traces.synera.record import FIT_NODES, Recorder
from traces.synera.record_batch import cached_bytes
from traces.synera.record_models import Models, wave_rows
from traces.tasks.splits import Prompt

_SAMPLE = 4  # prompts of the small recording
_SAMPLE_NODES = (48, 192, 768)  # of each of them, until it takes long enough; the last fill a recording's waves
_SAMPLE_SECONDS = 2.0  # that are long enough
_BATCHES = (16, 8, 4, 2, 1)  # prompts that are recorded together
_SHARE = 0.6  # of the free memory that is planned with
_SEED_SECONDS = 180.0
_FEWEST_SEED_NODES, _MOST_SEED_NODES = 16, 256


@dataclass(frozen=True)
class Pace:
    """How fast this machine records, one batch of prompts at a time."""

    node_seconds: float
    """Of a node, both models run."""
    prompt_token_seconds: float
    """Of a token of a prompt."""

    def seed_nodes(self, prompts: int, workers: int) -> int:
        """Return how many nodes of each prompt are recorded in a few minutes, 16..256: seeds, which training makes grow."""
        nodes = _SEED_SECONDS * workers / (self.node_seconds * prompts)
        return int(np.clip(nodes, _FEWEST_SEED_NODES, _MOST_SEED_NODES))


@dataclass(frozen=True)
class Cost:
    """What a recording costs at most."""

    prompts: int
    nodes: int
    seconds: float
    cache_bytes: int
    """Keys and values of both models, and what a forward works with, where the models run."""
    graph_bytes: int
    """Graphs of the largest split, or before that the hidden states that a lens is fitted on, in main memory."""
    disk_bytes: int
    batch: int
    """Prompts to record together, so that the caches fit."""

    def __str__(self) -> str:
        return (
            f"{self.prompts} prompts, at most {self.nodes} nodes, about {_duration(self.seconds)}; memory: {_size(self.cache_bytes)} "
            f"of caches ({self.batch} prompts together) and {_size(self.graph_bytes)} of graphs; disk: {_size(self.disk_bytes)}"
        )


def measure_pace(models: Models, prompts: Sequence[Prompt], max_new_tokens: int) -> Pace:
    """Time a small recording of a few prompts of all lengths; the first nodes warm up.

    It is small where models are slow. Where they are fast it grows, as a node costs less in a large wave.

    Raises:
        ContextOverflowError: one of them leaves no room for an answer.
    """
    by_length = sorted(prompts, key=lambda prompt: len(prompt.text))
    some = [by_length[i] for i in np.linspace(0, len(by_length) - 1, min(_SAMPLE, len(by_length))).astype(int)]
    tokens = sum(len(models.encode(prompt.text, max_new_tokens)) for prompt in some)
    _timed(models, some[:1], max_new_tokens, 2)
    few, few_seconds = _timed(models, some, max_new_tokens, 1)
    for nodes in _SAMPLE_NODES:
        many, many_seconds = _timed(models, some, max_new_tokens, nodes)
        if many_seconds >= _SAMPLE_SECONDS:
            break
    each = many_seconds / many
    node_seconds = max((many_seconds - few_seconds) / (many - few), each / 4) if many > few else each
    return Pace(node_seconds, max(0.0, few_seconds - few * node_seconds) / tokens)


def _timed(models: Models, prompts: Sequence[Prompt], max_new_tokens: int, nodes: int) -> tuple[int, float]:
    """Record some nodes of each prompt; return how many were run, and the seconds."""
    neutral = Lens.neutral(len(models.slm.config.exit_layers), models.slm.config.hidden)
    recorder = Recorder(models, lambda prompt, answer: 0.0, max_new_tokens, nodes, neutral)
    began = time.perf_counter()
    *_, graphs = recorder.record(prompts, "sample")
    seconds = time.perf_counter() - began
    assert not isinstance(graphs, int)  # the graphs come last
    return sum(int(np.isnan(graph.score).sum()) for graph in graphs), seconds


def cost(
    models: Models,
    pace: Pace,
    splits: Sequence[Sequence[Prompt]],
    max_new_tokens: int,
    node_budget: int,
    workers: int,
    *,
    answers: bool,
    free_bytes: int,
) -> Cost:
    """Work out what recording some splits costs at most.

    Args:
        models: the pair.
        pace: of this machine with it.
        splits: the prompts of each.
        max_new_tokens: where answers are cut.
        node_budget: most nodes of a prompt.
        workers: batches side by side.
        answers: the LLM also answers every prompt by itself.
        free_bytes: where the models run; decides how many prompts are recorded together.
    """
    lengths = [[len(models.encode(prompt.text, max_new_tokens)) for prompt in prompts] for prompts in splits]
    counts = [len(each) for each in lengths]
    nodes, tokens = sum(counts) * node_budget, sum(map(sum, lengths))
    slm = models.slm.config
    ends = node_budget * (len(slm.exit_layers) + 1)  # every node that is run may lead to so many ends
    kept = (node_budget + ends) * node_bytes(len(slm.exit_layers))
    fitted_on = 4 * min(FIT_NODES, nodes) * len(slm.exit_layers) * slm.hidden
    read = tokens * pace.prompt_token_seconds
    seconds = (nodes * pace.node_seconds + read) / workers
    if answers:  # by one thread, before the workers begin
        seconds += sum(counts) * max_new_tokens * pace.node_seconds + read
    found = Cost(
        prompts=sum(counts),
        nodes=nodes,
        seconds=seconds,
        cache_bytes=0,
        graph_bytes=2 * max(max(counts) * kept, fitted_on),  # laid end to end in a copy
        disk_bytes=sum(counts) * kept,
        batch=0,
    )
    longest = max(map(max, lengths))
    forward = _forward_bytes(models, longest + max_new_tokens)
    for batch in _BATCHES:
        together = min(batch, max(counts))
        needed = workers * (cached_bytes(models, together * longest, together * node_budget) + forward)
        found = replace(found, batch=batch, cache_bytes=needed)
        if needed <= _SHARE * free_bytes:
            break
    return found


def check_room(found: Cost, models: Models, free_bytes: int, out: Path) -> None:
    """Do nothing for a recording that fits into this machine.

    Args:
        found: what it costs.
        models: the pair.
        free_bytes: memory where the models run.
        out: the folder that graphs are written to; it need not be there yet.

    Raises:
        SettingError: memory or disk do not suffice; names what would help.
    """
    help_ = (
        "lower --max-new-tokens or --node-budget (training runs what graphs lack when it is needed: synera train --grow), give "
        "fewer or shorter prompts, or take another --dtype"
    )
    below = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    host = free_memory("cpu")
    shared = found.graph_bytes + (found.cache_bytes if models.placement.device == "cpu" else 0)
    for what, needed, free in (
        (f"memory of {models.placement.device}", found.cache_bytes, free_bytes),
        ("memory", shared, host),
        ("disk space", found.disk_bytes, shutil.disk_usage(below).free),
    ):
        if needed > free:
            raise SettingError(f"recording takes up to {_size(needed)} of {what}, and {_size(free)} are free; {help_}")


def check_weights(folders: Sequence[Path], placement: Placement) -> None:
    """Do nothing for models whose weights fit into the memory where they are to run; what cannot be read is left to the loader.

    Raises:
        SettingError: they do not; names what would help.
    """
    numbers = sum(_numbers(file) for folder in folders for file in folder.glob("*.safetensors"))
    needed, free = numbers * placement.torch_dtype.itemsize, free_memory(placement.device)
    if needed > free:
        smaller = "take --dtype bfloat16, " if placement.dtype == "float32" else ""
        raise SettingError(
            f"the weights of both models take {_size(needed)} in {placement.dtype}, and {_size(free)} of memory of {placement.device} "
            f"are free; {smaller}another --device, or smaller models"
        )


def _numbers(file: Path) -> int:
    """How many a safetensors file holds, by its header."""
    with suppress(SafetensorError, OSError), safe_open(file, framework="np") as opened:
        return sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
    return 0


def free_memory(device: str) -> int:
    """Return the bytes that are free where models run; on a CPU what the system, or its container, gives without swapping."""
    if device != "cpu":
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    free = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]  # all there is, where nothing tells more
    free += [1024 * int(line.split()[1]) for line in _read("/proc/meminfo").splitlines() if line.startswith("MemAvailable:")]
    limit, used = (_read(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    if limit.isdecimal() and used.isdecimal():
        free.append(max(0, int(limit) - int(used)))
    return min(free)


def _read(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text()
    return ""


def _forward_bytes(models: Models, longest: int) -> int:
    """What one forward works with at most: probabilities, and what it gathers of the caches where it cannot read them in place.

    Args:
        models: the pair.
        longest: tokens of the longest path.
    """
    rows, slm, placement = wave_rows(models), models.slm.config, models.placement
    probabilities = 4 * rows * slm.vocab * (len(slm.exit_layers) + 2)  # the LLM's, and logits on their way
    if attends_in_place(placement.torch_dtype, placement.torch_device):
        return probabilities
    gathered = max(
        # As they are, and for every head: of torch's kernels on CUDA only one takes groups of heads under a mask, and it widens them.
        rows * longest * model.cached_bytes // model.config.layers * (1 + model.config.heads // model.config.kv_heads)
        for model in (models.slm, models.llm)
    )
    return probabilities + gathered


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
