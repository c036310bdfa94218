"""Measures timing profiles of this machine: an SLM as a device runs it, an LLM as the verifier runs it.

What does not live here: the profiles' form (profile.py). Energy is not measured, as no meter is read: it is taken over from
another profile, and the source says so.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch

from runtime.model.decoder import Decoder
from runtime.model.kv import SequenceKV
from runtime.synera.drafter import read
from traces.fitting import fit_costs, fit_errors
from traces.profile import CloudProfile, DeviceProfile

_CONTEXT = 64  # tokens already in the cache
_FEW_TOKENS = 8
"""A check's."""


def _time(model: Decoder, work: Callable[[], object], repetitions: int) -> float:
    """Median milliseconds until the model's device is done, after one warm-up."""

    def done() -> None:
        work()
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)

    done()
    taken = []
    for _ in range(repetitions):
        began = time.perf_counter()
        done()
        taken.append(1e3 * (time.perf_counter() - began))
    return median(taken)


def _source(what: str) -> str:
    return f"Measured by synera measure-profiles on {platform.machine()} with {torch.get_num_threads()} thread(s): {what}."


def _kind(model: Decoder) -> str:
    dtype = str(model.dtype).removeprefix("torch.")
    where = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "the CPU"
    return f"decoder of {model.config.layers} layers, hidden {model.config.hidden}, {dtype} on {where}"


def _forward(model: Decoder, cache: SequenceKV, positions: int, stop: int) -> torch.Tensor:
    cache.truncate(_CONTEXT)
    ids = torch.arange(positions) % model.config.vocab
    return model.run(model.embed(ids), torch.arange(_CONTEXT, _CONTEXT + positions), cache, 0, stop)


def _warm_cache(model: Decoder) -> SequenceKV:
    cache = model.new_cache()
    ids = torch.arange(_CONTEXT) % model.config.vocab
    model.run(model.embed(ids), torch.arange(_CONTEXT), cache)
    return cache


def measure_device(slm: Decoder, name: str, energy: DeviceProfile, repetitions: int = 30) -> DeviceProfile:
    """Time an SLM by layers and positions, and fit the device cost formula by non-negative least squares.

    Args:
        slm: the model to time.
        name: of the profile.
        energy: the profile whose watts and radio energy are taken over.
        repetitions: timings behind each point; the median counts.
    """
    cache, rows, taken, groups = _warm_cache(slm), [], [], list[str]()
    layers = slm.config.layers
    for stop in sorted({*slm.config.exit_layers, 1, layers}):
        for positions in (1, 2, 4, 8, 16, 32):
            rows.append([1.0, stop, stop * (positions - 1), 0.0])
            taken.append(_time(slm, partial(_forward, slm, cache, positions, stop), repetitions))
            groups.append("one position (call_ms, layer_ms)" if positions == 1 else "batches (position_ms)")
    hidden = _forward(slm, cache, 1, layers)
    rows.append([0.0, 0.0, 0.0, 1.0])
    taken.append(_time(slm, lambda: read(slm.logits(hidden), hidden[0]), repetitions))
    groups.append("head (head_ms)")
    call, layer, position, head = costs = fit_costs(rows, taken)
    source = f"{_source(_kind(slm))} Energy is not measured: watts and radio energy are those of the profile {energy.name!r}."
    powers = (energy.busy_watts, energy.wait_watts, energy.radio_joules_per_mb)
    return DeviceProfile(name, source, call, layer, position, head, *powers, fit=fit_errors(rows, taken, costs, groups))


def measure_cloud(llm: Decoder, name: str, repetitions: int = 30) -> CloudProfile:
    """Time an LLM's forward by tokens, all layers and the head, and fit the cloud cost formula."""
    cache, rows, taken, groups = _warm_cache(llm), [], [], list[str]()

    def check(tokens: int) -> torch.Tensor:
        return llm.logits(_forward(llm, cache, tokens, llm.config.layers)).argmax(-1)

    for tokens in (1, 2, 4, 8, 16, 32, 64):
        rows.append([1.0, tokens])
        taken.append(_time(llm, partial(check, tokens), repetitions))
        groups.append(f"at most {_FEW_TOKENS} tokens (forward_ms)" if tokens <= _FEW_TOKENS else "more tokens (token_ms)")
    forward, token = costs = fit_costs(rows, taken)
    return CloudProfile(name, _source(_kind(llm)), forward, token, fit=fit_errors(rows, taken, costs, groups))
