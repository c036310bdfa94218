"""Measures timing profiles of this machine: an SLM as a device runs it, an LLM as the verifier runs it.

What does not live here: the profiles' form (profile.py). Energy is not measured, as no meter is read: it is taken over from
another profile, and the source says so.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np
import torch
from scipy.optimize import nnls

from runtime.model.decoder import Decoder
from runtime.model.kv import SequenceKV
from runtime.synera.drafter import read
from traces.profile import CloudProfile, DeviceProfile

_CONTEXT = 64  # tokens already in the cache


@dataclass(frozen=True)
class Fit:
    """A fitted profile's agreement with what was timed."""

    mean_relative_error: float
    points: int


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


def measure_device(slm: Decoder, name: str, energy: DeviceProfile, repetitions: int = 30) -> tuple[DeviceProfile, Fit]:
    """Time an SLM by layers and positions, and fit the device cost formula by non-negative least squares.

    Args:
        slm: the model to time.
        name: of the profile.
        energy: the profile whose watts and radio energy are taken over.
        repetitions: timings behind each point; the median counts.
    """
    cache, rows, taken = _warm_cache(slm), [], []
    layers = slm.config.layers
    for stop in sorted({*slm.config.exit_layers, 1, layers}):
        for positions in (1, 2, 4, 8, 16, 32):
            rows.append([1.0, stop, stop * (positions - 1), 0.0])
            taken.append(_time(slm, partial(_forward, slm, cache, positions, stop), repetitions))
    hidden = _forward(slm, cache, 1, layers)
    rows.append([0.0, 0.0, 0.0, 1.0])
    taken.append(_time(slm, lambda: read(slm.logits(hidden), hidden[0]), repetitions))
    call, layer, position, head = _fit(rows, taken)
    source = f"{_source(_kind(slm))} Energy is not measured: watts and radio energy are those of the profile {energy.name!r}."
    powers = (energy.busy_watts, energy.wait_watts, energy.radio_joules_per_mb)
    profile = DeviceProfile(name, source, call, layer, position, head, *powers)
    return profile, _quality(rows, taken, [call, layer, position, head])


def measure_cloud(llm: Decoder, name: str, repetitions: int = 30) -> tuple[CloudProfile, Fit]:
    """Time an LLM's forward by tokens, all layers and the head, and fit the cloud cost formula."""
    cache, rows, taken = _warm_cache(llm), [], []

    def check(tokens: int) -> torch.Tensor:
        return llm.logits(_forward(llm, cache, tokens, llm.config.layers)).argmax(-1)

    for tokens in (1, 2, 4, 8, 16, 32, 64):
        rows.append([1.0, tokens])
        taken.append(_time(llm, partial(check, tokens), repetitions))
    forward, token = _fit(rows, taken)
    profile = CloudProfile(name, _source(_kind(llm)), forward, token)
    return profile, _quality(rows, taken, [forward, token])


def _fit(rows: list[list[float]], taken: list[float]) -> list[float]:
    # Weighted by 1/t, so that the fit is good in relative terms for short and long work alike.
    weights = 1.0 / np.array(taken)
    solution, _ = nnls(np.array(rows) * weights[:, None], np.array(taken) * weights)
    return [round(float(x), 4) for x in solution]


def _quality(rows: list[list[float]], taken: list[float], solution: list[float]) -> Fit:
    predicted = np.array(rows) @ np.array(solution)
    return Fit(float(np.mean(np.abs(predicted - taken) / np.array(taken))), len(taken))
