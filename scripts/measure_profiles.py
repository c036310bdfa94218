"""Measure timing profiles of this machine and store them as JSON: one of a device, one of a cloud.

Examples:
    synera measure-profiles                                 # the bundled pair, into runs/profiles
    synera measure-profiles --slm /models/small --llm /models/large --out profiles
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scripts._cli import Dtype, console, launch
from traces import bundled


@dataclass(frozen=True)
class Arguments:
    """Measure timing profiles."""

    slm: Path = bundled.PAIR / "slm"
    """Hugging Face folder of the SLM."""
    llm: Path = bundled.PAIR / "llm"
    """Hugging Face folder of the LLM."""
    out: Path = Path("runs/profiles")
    """Folder for measured-device.json and measured-cloud.json."""
    repetitions: int = 30
    """Timings behind each point; the median counts."""
    threads: int = 1
    """CPU threads."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: CUDA where it is there, else the CPU."""
    dtype: Dtype = "float32"
    """Arithmetic type."""


def main(arguments: Arguments) -> None:
    """Measure, print, store."""
    import torch

    from runtime.model.loading import load_decoder
    from runtime.model.placement import Placement
    from traces.record_profile import measure_cloud, measure_device

    torch.set_num_threads(arguments.threads)
    placement = Placement.of(arguments.device, arguments.dtype)
    device, device_fit = measure_device(load_decoder(arguments.slm, placement), "measured-device", arguments.repetitions)
    cloud, cloud_fit = measure_cloud(load_decoder(arguments.llm, placement), "measured-cloud", arguments.repetitions)
    for profile, fit in ((device, device_fit), (cloud, cloud_fit)):
        path = arguments.out / f"{profile.name}.json"
        profile.save(path)
        console.print(f"{path}: {profile}")
        console.print(f"  fits {fit.points} timings with a mean relative error of {fit.mean_relative_error:.3f}")
    console.print(
        f"next: synera train --device-profile {arguments.out}/measured-device.json --cloud-profile {arguments.out}/measured-cloud.json"
    )


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
