"""Measure timing profiles of this machine and store them as JSON: one of a device, one of a cloud.

Energy cannot be measured here: it is taken over from another profile, and the profile says so. With --published nothing is measured:
profiles are derived from figures that others published, the bundled `phone` and `gpu` among them.

Examples:
    synera measure-profiles                                 # the bundled pair, into runs/profiles
    synera measure-profiles --slm /models/small --llm /models/large --out profiles
    synera measure-profiles --published data/profiles       # of phones and GPUs, with device_cloud_numbers.json and splitwise/
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from runtime.settings import within
from scripts._cli import Dtype, check_output, console, launch, next_step, say
from scripts._text import harmless
from traces import bundled
from traces.profile import CloudProfile, DeviceProfile


@dataclass(frozen=True)
class Arguments:
    """Measure timing profiles."""

    slm: Path = bundled.PAIR / "slm"
    """Hugging Face folder of the SLM."""
    llm: Path = bundled.PAIR / "llm"
    """Hugging Face folder of the LLM."""
    out: Path = Path("runs/profiles")
    """Folder for measured-device.json and measured-cloud.json, or for the derived ones."""
    published: Path | None = None
    """Folder of published figures (device_cloud_numbers.json, splitwise/perf_model.csv) to derive profiles from, instead of measuring."""
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
    """Measure or derive, print, store."""
    check_output(arguments.out, folder=True)
    device, cloud = _measured(arguments) if arguments.published is None else _derived(arguments.published, arguments.out)
    say(
        "next",
        next_step("train", device_profile=arguments.out / f"{device}.json", cloud_profile=arguments.out / f"{cloud}.json"),
    )


def _derived(figures: Path, out: Path) -> tuple[str, str]:
    """Derive and store; returns the names of a device and a cloud."""
    from traces.published import published

    devices, clouds = published(figures)
    profiles: list[DeviceProfile | CloudProfile] = [*devices, *clouds]
    for profile in profiles:
        _store(profile, out)
    return devices[0].name, clouds[0].name


def _measured(arguments: Arguments) -> tuple[str, str]:
    """Measure and store; returns the names of the device and the cloud."""
    import torch

    from runtime.model.loading import load_decoder
    from runtime.model.placement import Placement
    from traces.record_profile import measure_cloud, measure_device

    energy = DeviceProfile.load(arguments.energy_from)
    if not energy.has_energy:
        console.print(f"note: {arguments.energy_from} states no energy; a reward that weighs energy will charge none")
    torch.set_num_threads(arguments.threads)
    placement = Placement.of(arguments.device, arguments.dtype)
    slm, llm = load_decoder(arguments.slm, placement), load_decoder(arguments.llm, placement)
    device = measure_device(slm, "measured-device", energy, arguments.repetitions)
    cloud = measure_cloud(llm, "measured-cloud", arguments.repetitions)
    profiles: tuple[DeviceProfile, CloudProfile] = (device, cloud)
    for profile in profiles:
        _store(profile, arguments.out)
    return device.name, cloud.name


def _store(profile: DeviceProfile | CloudProfile, folder: Path) -> None:
    """Write a profile; print its coefficients, and how well they give back what they were fitted to."""
    path = folder / f"{profile.name}.json"
    profile.save(path)
    stated = {name: value for name, value in asdict(profile).items() if isinstance(value, float)}
    console.print(f"{harmless(str(path))}: {', '.join(f'{name} {value:g}' for name, value in stated.items())}")
    for error in profile.fit:
        console.print(f"  {error}")


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
