"""Measure timing profiles of this machine and store them as JSON: one of a device, one of a cloud.

Energy cannot be measured here: it is taken over from another profile, and the profile says so.

Examples:
    synera measure-profiles                                 # the bundled pair, into runs/profiles
    synera measure-profiles --slm /models/small --llm /models/large --out profiles
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from runtime.settings import within
from scripts._cli import Dtype, check_output, console, launch, next_step, say
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
    energy_from: Path = field(default_factory=lambda: bundled.profile("phone"))
    """Device profile whose watts and radio energy are taken over, as no meter is read."""
    repetitions: int = 30
    """Timings behind each point; the median counts."""
    threads: int = 1
    """CPU threads."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: CUDA where it is there, else the CPU."""
    dtype: Dtype = "float32"
    """Arithmetic type."""

    def __post_init__(self) -> None:
        within("repetitions", self.repetitions, 1, 10_000)
        within("threads", self.threads, 1, 1024)


def main(arguments: Arguments) -> None:
    """Measure, print, store."""
    import torch

    from runtime.model.loading import load_decoder
    from runtime.model.placement import Placement
    from traces.profile import DeviceProfile
    from traces.record_profile import measure_cloud, measure_device

    check_output(arguments.out, folder=True)
    energy = DeviceProfile.load(arguments.energy_from)
    if not energy.has_energy:
        console.print(f"note: {arguments.energy_from} states no energy; a reward that weighs energy will charge none")
    torch.set_num_threads(arguments.threads)
    placement = Placement.of(arguments.device, arguments.dtype)
    slm, llm = load_decoder(arguments.slm, placement), load_decoder(arguments.llm, placement)
    device, device_fit = measure_device(slm, "measured-device", energy, arguments.repetitions)
    cloud, cloud_fit = measure_cloud(llm, "measured-cloud", arguments.repetitions)
    for profile, fit in ((device, device_fit), (cloud, cloud_fit)):
        path = arguments.out / f"{profile.name}.json"
        profile.save(path)
        console.print(f"{path}: {profile}")
        console.print(f"  fits {fit.points} timings with a mean relative error of {fit.mean_relative_error:.3f}")
    device_profile, cloud_profile = (arguments.out / f"{profile.name}.json" for profile in (device, cloud))
    say("next", next_step("train", device_profile=device_profile, cloud_profile=cloud_profile))


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
