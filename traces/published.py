"""Profiles derived from figures that others published; each names its source and the rule, which is ours.

What does not live here: the figures, which are read from a folder of public data (`device_cloud_numbers.json` with rows of devices and
servers, `splitwise/perf_model.csv` with timings of GPUs); the profiles' form (profile.py).
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
from pydantic import ConfigDict

from traces.errors import TraceError
from traces.fitting import fit_costs, fit_errors
from traces.profile import CloudProfile, DeviceProfile
from traces.schemas import read_file, read_json
from traces.workload.generators import poisson
from traces.workload.shared_cloud import CHECK_TOKENS, SharedCloud

SLM_LAYERS = 4
"""Of the bundled SLM, which stands for the published model: its layers together take the time of all of the published one's."""
PHONE = ("Samsung Galaxy S25 Ultra", "Qwen2.5-1.5B", "Q4_K_M")
"""Device, model and quantisation of the bundled profile `phone`."""
GPU = ("Llama-3.1-70B-Instruct", "H100", "x4")
"""Model, hardware and number of GPUs of the bundled profile `gpu`."""
BACKGROUND_RATE = 0.5
"""Requests a second, Poisson, that keep a derived cloud busy; ours."""
_RADIO = ("NSALow", "uplink")
"""The radio whose power is taken: 5G, low band. Devices of this project send more than they receive."""
_SCREEN_WATTS = 2.3525
"""Of the phone whose radio was measured, with the radio idle: middle of the 2.210 to 2.495 W that the same source states."""
_LONGEST_PROMPT = 1024
"""Timings of longer prompts are left out: a forward of several requests has at most 512 tokens."""
_READ_AND_HEAD = {
    "Qwen2-0.5B": (0.494, 0.136),
    "Qwen2.5-1.5B": (1.544, 0.233),
    "Qwen2.5-3B": (3.086, 0.311),
    "Qwen2.5-7B": (7.071, 0.545),
    "Phi-2-2.8B": (2.649, 0.131),
    "Llama-3.1-8B": (7.505, 0.525),
    "Gemma-2-9B": (9.242, 0.918),
    "Llama-3.2-1B": (1.236, 0.263),
    "Llama-3.2-3B": (3.213, 0.394),
}
"""1e9 parameters that a model reads for a token, and those of its head, from its public configuration: its head has one for each entry of
the vocabulary and each of the hidden size; one that is not tied to it, the input embedding, is not read."""


_Machine = tuple[str, str, str]
"""Model, hardware, and `x` with the number of GPUs."""
_Point = tuple[str, float, float]
"""Kind of a forward, its tokens, and its milliseconds."""


@dataclass(frozen=True)
class _Numbers:
    """The parts of `device_cloud_numbers.json` that are used."""

    __pydantic_config__ = ConfigDict(extra="ignore")

    device_decode: list[dict[str, object]]
    device_energy_fit: dict[str, object]
    radio_power_linear_fit: list[dict[str, object]]
    cloud_serving: list[dict[str, object]]
    sources: dict[str, dict[str, object]]


def published_devices(folder: Path) -> Iterator[DeviceProfile]:
    """Derive a profile of each device whose speed at reading and at decoding a known model is stated.

    With T = 1 / (decoded tokens a second), R = 1 / (read tokens a second) and h the share of the parameters read for a token that are the
    head's: the head takes h T, and the layers (1 - h) T, as decoding is bound by reading weights; each further position of a batch takes
    R. There is no further cost of a call. Power while drafting is the net power that the energy of whole runs was fitted to, of the same phone where it
    is stated for it, else a stand-in. Power while waiting is that of a connected radio above the idle phone.

    Raises:
        TraceError: a file is missing or not as expected.
    """
    numbers = _numbers(folder)
    busy = numbers.device_energy_fit
    radio = next((r for r in numbers.radio_power_linear_fit if (r.get("network"), r.get("direction")) == _RADIO), None)
    if radio is None:
        raise TraceError(f"{folder}: no power is stated of the radio {' '.join(_RADIO)}")
    wait_watts = _number(radio, "intercept_mw") / 1e3 - _SCREEN_WATTS
    radio_joules = _number(radio, "slope_mw_per_mbps") * 8 / 1e3
    for row in numbers.device_decode:
        model = next((name for name in _READ_AND_HEAD if str(row.get("model")).startswith(name)), None)
        if model is None or "decode_tok_s" not in row or "prefill_tok_s" not in row:
            continue
        read, head = _READ_AND_HEAD[model]
        token_ms, position_ms = (1e3 / _number(row, name) for name in ("decode_tok_s", "prefill_tok_s"))
        words = [str(row[name]) for name in ("device", "model", "quant") if name in row]
        own = "as fitted" if row["device"] == busy["device"] else f"as fitted for the {busy['device']}, a stand-in"
        source = (
            f"Derived from published figures: {', '.join(words)}, {row.get('backend')}; reads {row['prefill_tok_s']} and decodes "
            f"{row['decode_tok_s']} tokens/s ({_named(numbers, row)}). Rule (ours): the head's {head / read:.1%} of the parameters read for a "
            f"token have that share of its time, the {SLM_LAYERS} layers of the bundled SLM stand for all layers of the model and have the rest; a "
            f"further position takes what reading a token does. {busy['b_W']} W while drafting, {own} ({_named(numbers, busy)}); "
            f"while waiting {radio['intercept_mw']} mW of a phone with its {_RADIO[0]} radio up, less {_SCREEN_WATTS} W idle, and "
            f"{radio['slope_mw_per_mbps']} mW per Mbit/s ({_named(numbers, radio)})."
        )
        yield DeviceProfile(
            _slug(words),
            source,
            call_ms=0.0,
            layer_ms=round((1 - head / read) * token_ms / SLM_LAYERS, 3),
            position_ms=round(position_ms / SLM_LAYERS, 3),
            head_ms=round(head / read * token_ms, 3),
            busy_watts=_number(busy, "b_W"),
            wait_watts=round(wait_watts, 3),
            radio_joules_per_mb=round(radio_joules, 3),
        )


def published_clouds(folder: Path) -> Iterator[CloudProfile]:
    """Derive a profile of each model on so many GPUs of which at least three forwards of different sizes are timed.

    A forward of decoding has a token of each request of the batch, one of reading has those of a prompt; the cost formula is fitted to
    both, as far as they are stated. The wait and the load are what a check meets in the model of a shared cloud
    (traces/workload/shared_cloud.py) with these forwards, under Poisson arrivals of requests as long as those of the Azure trace `conv`.

    Raises:
        TraceError: a file is missing or not as expected.
    """
    for machine, (stated, points) in {**_served(folder), **_timed(folder)}.items():
        taken = [milliseconds for *_, milliseconds in points]
        rows = [[1.0, tokens] for _, tokens, _ in points]
        if len(points) < 3:
            continue
        forward_ms, token_ms = costs = fit_costs(rows, taken)
        source = (
            f"Derived from published timings: {stated}. Rule (ours): a forward's time is fitted to its tokens by non-negative least squares of "
            f"relative errors. Wait and load: of a check of {CHECK_TOKENS} tokens in a model of a batching server with these forwards under "
            f"{BACKGROUND_RATE:g} requests/s, Poisson, of lengths as in the Azure LLM inference trace conv of 2023."
        )
        errors = fit_errors(rows, taken, costs, [kind for kind, *_ in points])
        yield with_background(CloudProfile(_slug(machine), source, forward_ms, token_ms, fit=errors), BACKGROUND_RATE)


def _served(folder: Path) -> dict[_Machine, tuple[str, list[_Point]]]:
    """Times between tokens by batch (medians), from `device_cloud_numbers.json`."""
    numbers = _numbers(folder)
    found: dict[_Machine, tuple[str, list[_Point]]] = {}
    for row in numbers.cloud_serving:
        machine = str(row.get("model")), str(row.get("gpu")), f"x{row.get('num_gpus')}"
        stated = f"{machine[0]} on {row.get('num_gpus')} x {machine[1]}, median time between tokens by batch ({_named(numbers, row)})"
        point = "decoding", _number(row, "avg_batch"), _number(row, "itl_ms_p50")
        found.setdefault(machine, (stated, []))[1].append(point)
    return found


def _timed(folder: Path) -> dict[_Machine, tuple[str, list[_Point]]]:
    """Times of decoding and reading that Splitwise measured: medians of repetitions."""
    path = folder / "splitwise" / "perf_model.csv"
    timings: dict[_Machine, dict[tuple[str, float], list[float]]] = defaultdict(lambda: defaultdict(list))
    for machine, kind, tokens, milliseconds in _timings(path):
        timings[machine][kind, tokens].append(milliseconds)
    return {
        machine: (
            f"{machine[0]} on {machine[2][1:]} x {machine[1]}, medians of decoding by batch and of reading up to {_LONGEST_PROMPT} tokens "
            "(Splitwise, ISCA 2024; Mutinifni/splitwise-sim: data/perf_model.csv)",
            [(kind, tokens, median(each)) for (kind, tokens), each in points.items()],
        )
        for machine, points in timings.items()
    }


def with_background(cloud: CloudProfile, rate: float) -> CloudProfile:
    """Return a cloud whose wait and load are those of a check among generated requests, at 101 quantiles each.

    The server reads prompts whole, as those did whose timings these are. The two are taken at the same quantile where they are drawn,
    so their joint course is lost; a workload keeps it. In the place of the largest stands the 99.5th percentile: a hundredth of all
    checks would be drawn up to it.
    """
    shared = SharedCloud.of(poisson(rate, 1800.0), cloud, policy="fcfs_whole")
    met = [shared.meets(at, CHECK_TOKENS) for at in np.linspace(0.0, shared.seconds, 50_000, endpoint=False)]
    at = np.minimum(np.linspace(0, 1, 101), 0.995)
    waits, loads = np.quantile([1e3 * m.queue_seconds for m in met], at), np.quantile([m.load - 1 for m in met], at)
    return replace(cloud, queue_ms_quantiles=tuple(np.round(waits, 1).tolist()), load_quantiles=tuple(np.round(loads).tolist()))


def published(folder: Path) -> tuple[list[DeviceProfile], list[CloudProfile]]:
    """Derive all; `phone` and `gpu`, the bundled ones, come first.

    Raises:
        TraceError: a file is missing or not as expected, or has not the rows of those two.
    """
    devices, clouds = list(published_devices(folder)), list(published_clouds(folder))
    phone, gpu = _slug(PHONE), _slug(GPU)
    for wanted, found in ((phone, devices), (gpu, clouds)):
        if wanted not in [profile.name for profile in found]:
            raise TraceError(f"{folder} has no figures of {wanted}")
    devices = [*(replace(each, name="phone") for each in devices if each.name == phone), *devices]
    return devices, [*(replace(each, name="gpu") for each in clouds if each.name == gpu), *clouds]


def _timings(path: Path) -> Iterator[tuple[_Machine, str, float, float]]:
    """Machine, kind of forward, its tokens and milliseconds, of each row that has them."""
    text = read_file(path, f"no Splitwise timings at {path}").decode(errors="replace")
    for number, row in enumerate(csv.DictReader(io.StringIO(text)), 2):
        try:
            machine = row["model"], row["hardware"], f"x{int(row['tensor_parallel'])}"
            prompt, batch = int(row["prompt_size"]), int(row["batch_size"])
            reading, decoding = float(row["prompt_time"]), float(row["token_time"])
        except (KeyError, TypeError, ValueError) as error:
            raise TraceError(f"{path}, line {number}: it is no timing ({type(error).__name__}: {error})") from None
        yield machine, "decoding", batch, decoding
        if batch == 1 and prompt <= _LONGEST_PROMPT:
            yield machine, "reading", prompt, reading


def _numbers(folder: Path) -> _Numbers:
    return read_json(folder / "device_cloud_numbers.json", _Numbers, f"no device_cloud_numbers.json in {folder}")


def _number(row: Mapping[str, object], name: str) -> float:
    value = row.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e9:
        raise TraceError(f"{name}={value!r} of {row.get('device') or row.get('network')} must be a number above 0")
    return float(value)


def _named(numbers: _Numbers, row: Mapping[str, object]) -> str:
    """Where a row comes from."""
    source = numbers.sources.get(str(row.get("source")), {})
    return f"{source.get('repo') or 'web page'}: {source.get('what')}"


def _slug(words: Sequence[str]) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", "-".join(words).lower()).strip("-")
