"""Hold the emulated link of live runs against a real one, in network namespaces of their own (Linux).

A verifier is put behind a link that the kernel shapes (`tc netem` on a veth pair; where the kernel has no netem, a process that
computes the same between two TAP devices), another on loopback behind the emulator. The device's real calls go to both, in
turn: Open, and Verify of several sizes. Printed is what a round trip takes beside the time in the cloud.

Nothing of this machine's network is touched: everything lives in namespaces that end with the processes in them. Needs `unshare`
(util-linux), `ip` and `tc` (iproute2), and either root or a kernel that lets users make namespaces.

Examples:
    synera check-link
    synera check-link --links 60/2/8 300/0.2/0.8 --rounds 50
    sudo $(which synera) check-link --shaper netem
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal

import numpy as np
from rich.table import Table

from runtime.errors import CloudError, SettingError
from runtime.settings import plain, within
from scripts._cli import console, launch, next_step, say
from scripts._namespaces import ConstantLink, NotPossibleError

_MOST_ROUNDS = 10_000
_TOOLS = {"unshare": "util-linux", "ip": "iproute2", "tc": "iproute2"}
_WAY_OUT = (
    "run it as root (sudo), in a container with --privileged, or allow user namespaces "
    "(sysctl kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0)"
)


@dataclass(frozen=True)
class Arguments:
    """Arguments of `check_link.py`."""

    links: tuple[str, ...] = ("20/10/10", "60/2/8", "150/0.5/1", "300/0.2/0.8")
    """Links that never change: RTT/UP/DOWN in ms and Mbit/s."""
    rounds: int = 20
    """Sessions over each link, on each side."""
    shaper: Literal["auto", "netem", "tap"] = "auto"
    """What makes the real link: the kernel, or a process of ours where the kernel cannot."""

    def __post_init__(self) -> None:
        within("rounds", self.rounds, 1, _MOST_ROUNDS)
        if not self.links:
            raise SettingError("links must name one link or more, as RTT/UP/DOWN")
        for link in self.links:
            ConstantLink.parse(link)


@dataclass(frozen=True)
class Row:
    """One message over one link, both ways of making that link."""

    link: str
    message: str
    counted: tuple[int, int]
    """Bytes up and down, as the project counts them."""
    seen: tuple[float, float]
    """Bytes up and down on the real link, medians."""
    real: tuple[float, float]
    """Round trip beside the time in the cloud, ms: median and 95th percentile."""
    emulated: tuple[float, float]

    @classmethod
    def of(cls, found: dict[str, Any]) -> Row:
        """Summarise what the worker found."""
        real, emulated = (np.percentile(np.array(found[side]) * 1e3, [50, 95]).tolist() for side in ("real", "emulated"))
        seen = np.median(found["seen"], axis=0).tolist()
        return cls(found["link"], found["message"], tuple(found["counted"]), tuple(seen), tuple(real), tuple(emulated))

    @property
    def difference(self) -> tuple[float, float]:
        """Of the medians, emulated minus real: in ms, and as a share of the real one."""
        apart = self.emulated[0] - self.real[0]
        return apart, apart / self.real[0]


def main(arguments: Arguments) -> None:
    """Measure and print.

    Raises:
        NotPossibleError: this machine lacks what it needs, or does not allow it.
        CloudError: a verifier, or a call over the link, fails.
    """
    require_tools()
    rows, connects, shaper = list[Row](), list[str](), ""
    with _worker(arguments) as lines:
        for found in _read(lines):
            if "shaper" in found:
                shaper = found["shaper"]
                console.print(_shaped_by(shaper))
            elif "message" in found:
                rows.append(Row.of(found))
            else:
                real, _ = found["connect_seconds"]
                connects.append(f"{found['link']}: {1e3 * real:.0f} ms")
                console.print(f"link {found['link']}")
    console.print(table(rows, arguments.rounds))
    console.print(f"Not emulated: the first call of a channel, which makes the connection ({', '.join(connects)}).")
    console.print(summary(rows))
    say("next", f"{next_step('deploy')}   # answers over an emulated link")


def require_tools() -> None:
    """Do nothing where every program is there.

    Raises:
        NotPossibleError: one is not.
    """
    if missing := [name for name in _TOOLS if shutil.which(name) is None]:
        packages = " and ".join(sorted({_TOOLS[name] for name in missing}))
        raise NotPossibleError(f"no {' and no '.join(missing)} on this machine; install {packages} (Linux only)")


def inside(command: Sequence[str], *, root: bool) -> list[str]:
    """Return the command that runs another one in namespaces of its own, which end with it.

    Args:
        command: to run as the first process in there.
        root: who asks is root; anyone else becomes root inside of a user namespace.
    """
    user = [] if root else ["--user", "--map-root-user"]
    return ["unshare", *user, "--net", "--pid", "--fork", "--kill-child", "--", *command]


def table(rows: Sequence[Row], rounds: int) -> Table:
    """Message by message, grouped by link."""
    out = Table(
        title=f"round trip beside the time in the cloud, ms: median (95th percentile) of {rounds}", title_justify="left"
    )
    for heading in ("link", "message", "bytes up", "bytes down", "real", "emulated", "difference"):
        out.add_column(heading, justify="left" if heading in ("link", "message") else "right", no_wrap=True)
    for before, row in zip([None, *rows], rows, strict=False):
        first = before is None or before.link != row.link
        up, down = (f"{counted} ({seen:.0f})" for counted, seen in zip(row.counted, row.seen, strict=True))
        real, emulated = (f"{median:.1f} ({high:.1f})" for median, high in (row.real, row.emulated))
        ms, share = row.difference
        if first and before is not None:
            out.add_section()
        out.add_row(row.link if first else "", row.message, up, down, real, emulated, f"{ms:+.1f} ({share:+.1%})")
    out.caption = (
        "link: RTT ms/up/down Mbit/s; Verify: new tokens of context + tokens of the draft; bytes: as counted (as seen)"
    )
    return out


def summary(rows: Sequence[Row]) -> str:
    """One sentence over all rows."""
    shares = sorted((row.difference[1] for row in rows), key=abs)
    mean = sum(map(abs, shares)) / len(shares)
    return f"The emulated link's medians are off by {mean:.1%} on average, by {shares[-1]:+.1%} at most."


def _shaped_by(shaper: str) -> str:
    if shaper == "netem":
        return "real link: veth pair, tc netem"
    return "real link: TAP pair, netem's formula in a process of ours, as this kernel has no netem (or as asked for)"


@contextmanager
def _worker(arguments: Arguments) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Run _link_worker.py in its namespaces; yields its output and errors. However this is left, all in there is over."""
    shaper = None if arguments.shaper == "auto" else arguments.shaper
    setting = {"links": arguments.links, "rounds": arguments.rounds, "shaper": shaper}
    program = [sys.executable, "-P", "-m", "scripts._link_worker", json.dumps(setting)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    with tempfile.TemporaryFile() as errors:
        # A session of its own, so that Ctrl-C reaches only this process, which ends that one.
        process = subprocess.Popen(
            inside(program, root=os.geteuid() == 0),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            env=environment,
        )
        try:
            assert process.stdout is not None
            yield process.stdout, errors
        finally:
            process.kill()  # its child goes with it, and with that, as the first of its namespace, every other process
            process.communicate()


def _read(worker: tuple[IO[bytes], IO[bytes]]) -> Iterator[dict[str, Any]]:
    """Yield what the worker prints, up to the line that says that it is done.

    Raises:
        NotPossibleError: it could not be put into namespaces, or not lay a link there.
        CloudError: something else went wrong in there.
    """
    output, errors = worker
    for line in output:
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise (CloudError if found["possible"] else NotPossibleError)(found["error"])
        if found.get("done"):
            return
        yield found
    errors.seek(0)
    said = " ".join(errors.read().decode(errors="replace").split())
    if said.startswith("unshare: "):
        raise NotPossibleError(f"network namespaces are not allowed here ({plain(said, 200)}); {_WAY_OUT}")
    raise CloudError(f"the check ended before its time; the last that it said: {plain(said[-300:], 300) or 'nothing'}")


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
