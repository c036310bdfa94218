"""Two networks of their own, joined by a link that is shaped: made inside a namespace, gone with the processes in it.

What does not live here: what is measured over it (_link_worker.py) and how one comes into the first namespace (check_link.py).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from runtime.errors import SettingError, SyneraError
from runtime.settings import shown
from traces.links.generators import constant_link
from traces.links.trace import LinkTrace

Shaper = Literal["netem", "tap"]
DEVICE, CLOUD = "device0", "cloud0"
"""Names of the link's two ends."""
CLOUD_HOST = "192.0.2.2"
"""Address of the cloud's end, of a range that is for documentation (RFC 5737)."""
_DEVICE_HOST = "192.0.2.1"
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET of sched.h
_SET_NAME = 0x400454CA  # TUNSETIFF of linux/if_tun.h
_TAP_WITHOUT_HEADER = 0x1002  # IFF_TAP | IFF_NO_PI
_TUN = "/dev/net/tun"
_Result = TypeVar("_Result")


class NotPossibleError(SyneraError):
    """What a real link needs is missing or not allowed here."""


@dataclass(frozen=True)
class ConstantLink:
    """A link that never changes; written RTT/UP/DOWN."""

    rtt_ms: float
    uplink_mbps: float
    downlink_mbps: float

    def __post_init__(self) -> None:
        _ = self.trace  # refuses what no link may be

    @classmethod
    def parse(cls, text: str) -> ConstantLink:
        """Read `RTT/UP/DOWN`, in milliseconds and 1e6 bit/s.

        Raises:
            SettingError: it is written in another way, or a value is out of the range that a link trace states.
        """
        try:
            rtt, up, down = map(float, text.split("/"))
        except ValueError:
            raise SettingError(f"link={shown(text)} must be RTT/UP/DOWN in ms and Mbit/s, such as 60/2/8") from None
        return cls(rtt, up, down)

    def __str__(self) -> str:
        return f"{self.rtt_ms:g}/{self.uplink_mbps:g}/{self.downlink_mbps:g}"

    @property
    def trace(self) -> LinkTrace:
        """The same link, for the emulator."""
        return constant_link(self.rtt_ms, self.uplink_mbps, self.downlink_mbps)

    @property
    def _delay_us(self) -> int:
        return round(self.rtt_ms * 500)

    def netem(self, end: str) -> list[str]:
        """The command that makes what leaves one end late and slow; half the round trip each way."""
        mbps = self.uplink_mbps if end == DEVICE else self.downlink_mbps
        shape = ["delay", f"{self._delay_us}us", "rate", f"{round(mbps * 1e6)}bit"]
        return ["tc", "qdisc", "replace", "dev", end, "root", "netem", *shape]

    def tap(self, device: int, cloud: int) -> list[str]:
        """The command of the process that does the same between two TAP devices, given as file descriptors."""
        rates = [str(mbps * 1e6) for mbps in (self.uplink_mbps, self.downlink_mbps)]
        delay = str(self._delay_us / 1e6)
        return [sys.executable, "-P", "-m", "scripts._tap_shaper", str(device), str(cloud), delay, *rates]


class Networks:
    """The device's network, which is this process's own, and the cloud's, which is that of one thread."""

    def __init__(self, thread: ThreadPoolExecutor, shaper: Shaper) -> None:
        self._thread, self.shaper = thread, shaper
        self._ends: tuple[int, int] = (-1, -1)

    def in_cloud(self, work: Callable[..., _Result], *arguments: object) -> _Result:
        """Call from within the cloud's network; a process that is started there stays there."""
        return self._thread.submit(work, *arguments).result()

    def join(self) -> None:
        """Lay the link, unshaped as yet."""
        if self.shaper == "netem":
            tid = str(self.in_cloud(threading.get_native_id))
            _run(["ip", "link", "add", DEVICE, "type", "veth", "peer", "name", CLOUD, "netns", tid])
        else:
            self._ends = _tap(DEVICE), self.in_cloud(_tap, CLOUD)
        _set_up(DEVICE, _DEVICE_HOST)
        self.in_cloud(_set_up, CLOUD, CLOUD_HOST)

    @contextmanager
    def shaped(self, link: ConstantLink) -> Iterator[None]:
        """Make it the link that is asked for.

        Raises:
            NotPossibleError: it cannot be made, or did not last.
        """
        if self.shaper == "netem":
            _run(link.netem(DEVICE))
            self.in_cloud(_run, link.netem(CLOUD))
            yield
            return
        process = subprocess.Popen(link.tap(*self._ends), pass_fds=self._ends)
        try:
            yield
            if process.poll() is not None:
                raise NotPossibleError(f"the process that shapes the link ended by itself (exit code {process.returncode})")
        finally:
            process.kill()
            process.wait()


@contextmanager
def networks(shaper: Shaper | None) -> Iterator[Networks]:
    """Make two networks with a link between them. This process must be alone in a network namespace already.

    Args:
        shaper: what shapes the link; None takes netem where the kernel has it.

    Raises:
        NotPossibleError: something is missing or not allowed.
    """
    _run(["ip", "link", "set", "lo", "up"])
    with ThreadPoolExecutor(1, thread_name_prefix="cloud's network") as thread:
        thread.submit(_leave_network).result()
        has_netem = shaper != "tap" and _has_netem()
        if shaper == "netem" and not has_netem:
            raise NotPossibleError("this kernel has no netem; load it (modprobe sch_netem), or take --shaper tap")
        found = Networks(thread, shaper or ("netem" if has_netem else "tap"))
        found.join()
        yield found


def traffic(path: Path = Path("/proc/net/dev")) -> tuple[int, int]:
    """Bytes that have left and reached the device's end of the link, Ethernet headers included."""
    line = next(line for line in path.read_text().splitlines() if line.strip().startswith(f"{DEVICE}:"))
    fields = line.partition(":")[2].split()
    return int(fields[8]), int(fields[0])


def _has_netem() -> bool:
    """Try it on the loopback device of this network, which is put back."""
    try:
        _run(["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "0us"])
    except NotPossibleError:
        return False
    _run(["tc", "qdisc", "del", "dev", "lo", "root"])
    return True


def _leave_network() -> None:
    """Give the calling thread a network of its own."""
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK) != 0:
        raise NotPossibleError(f"a second network namespace is not allowed ({os.strerror(ctypes.get_errno())})")


def _tap(name: str) -> int:
    """Make a TAP device; it goes with its file descriptor, which is returned."""
    try:
        opened = os.open(_TUN, os.O_RDWR)
        fcntl.ioctl(opened, _SET_NAME, struct.pack("16sH22x", name.encode(), _TAP_WITHOUT_HEADER))
    except OSError as error:
        raise NotPossibleError(f"the kernel has no netem, and {_TUN} cannot be used instead ({error.strerror})") from None
    return opened


def _set_up(end: str, host: str) -> None:
    _run(["ip", "link", "set", "lo", "up"])
    _run(["ip", "link", "set", "dev", end, "addrgenmode", "none"])  # no IPv6, which would talk on its own
    _run(["ip", "address", "add", f"{host}/30", "dev", end])
    _run(["ip", "link", "set", "dev", end, "up"])


def _run(command: Sequence[str]) -> None:
    """Run a command of iproute2.

    Raises:
        NotPossibleError: it fails, with what it says.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise NotPossibleError(f"`{' '.join(command)}` fails: {said}")
