"""The check of the emulated link: what it runs, what it says, and, where namespaces are allowed, all of it."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from runtime.errors import CloudError, SettingError
from scripts import check_link
from scripts._link_worker import CHECKS
from scripts._namespaces import CLOUD, DEVICE, ConstantLink, NotPossibleError, traffic
from scripts.check_link import Arguments, Row, inside, summary, table

ROOT = Path(__file__).resolve().parents[2]
MESSAGES = ["Open", *(f"Verify {context}+{draft}" for context, draft in CHECKS)]


@cache
def why_not() -> str:
    """The reason why this machine cannot run the check; empty where it can."""
    try:
        check_link.require_tools()
    except NotPossibleError as error:
        return str(error)
    done = subprocess.run(inside(["true"], root=os.geteuid() == 0), capture_output=True, text=True, check=False)
    return " ".join(done.stderr.split()) or f"exit code {done.returncode}" if done.returncode else ""


@pytest.fixture
def allowed() -> None:
    if reason := why_not():
        pytest.skip(f"no real link here: {reason}")


def in_namespace(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(inside(command, root=os.geteuid() == 0), capture_output=True, text=True, check=False)


# ---------------------------------------------------------------- the real thing


def test_a_whole_check_against_a_real_link(allowed: None, capsys: pytest.CaptureFixture[str]) -> None:
    """A slow link, so that what both sides must take at least is far above what a busy machine adds."""
    link, mine = ConstantLink(40.0, 0.2, 0.2), Path("/proc/net/dev").read_text().count(":")
    rows = list[Row]()
    with check_link._worker(Arguments((str(link),), rounds=1)) as worker:
        first, connects, *found = check_link._read(worker)
        rows += map(Row.of, found)
    assert first["shaper"] in ("netem", "tap")
    assert [row.message for row in rows] == MESSAGES
    assert connects["connect_seconds"][0] >= 2 * link.rtt_ms / 1e3  # TCP, then the call: two round trips or more
    for row in rows:
        up, down = (counted - 120 for counted in row.counted)  # without the estimate of what is put around a message
        least = link.rtt_ms + 8e-3 * up / link.uplink_mbps + 8e-3 * down / link.downlink_mbps
        assert row.real[0] >= least
        assert row.emulated[0] >= least
        assert row.seen[0] >= up
        assert row.seen[1] >= down
    assert rows[1].counted[0] > 5 * rows[0].counted[0]
    assert Path("/proc/net/dev").read_text().count(":") == mine  # no interface of this machine came or went


@pytest.mark.parametrize(("how", "when"), [(signal.SIGINT, "real link: "), (signal.SIGKILL, "link 20/10/10")])
def test_however_it_ends_nothing_is_left(allowed: None, how: signal.Signals, when: str) -> None:
    line = [sys.executable, "-m", "scripts", "check-link", "--links", "20/10/10", "--rounds", "1000"]
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(said.startswith(when) for said in process.stdout)
        started = set(descendants(process.pid))
        assert len(started) >= (2 if how is signal.SIGINT else 4)  # unshare and the worker; then two verifiers
        process.send_signal(how)
        _, said = process.communicate(timeout=60)
    if how is signal.SIGINT:
        assert (process.returncode, said) == (130, "stopped\n")
    ends = time.monotonic() + 60
    while left := [pid for pid in started if alive(pid)]:
        assert time.monotonic() < ends, f"still there: {left}"
        time.sleep(0.05)


def descendants(pid: int) -> Iterator[int]:
    """Processes below one."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child)
            yield from descendants(int(child))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_tc_reads_what_netem_is_asked_for(allowed: None) -> None:
    """Up to the kernel, which may know no netem."""
    for end in (DEVICE, CLOUD):
        words = ConstantLink(61.5, 0.25, 8.0).netem(end)
        done = in_namespace(*["lo" if word == end else word for word in words])
        assert done.returncode == 0 or "Specified qdisc kind is unknown" in done.stderr, done.stderr
    assert "Specified qdisc" not in in_namespace("tc", "qdisc", "replace", "dev", "lo", "root", "netem", "delay", "x").stderr


def test_a_kernel_without_netem_says_so(allowed: None) -> None:
    if in_namespace("tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "0us").returncode == 0:
        pytest.skip("this kernel has netem")
    with pytest.raises(NotPossibleError, match=r"has no netem; load it \(modprobe sch_netem\), or take --shaper tap"):
        check_link.main(Arguments(shaper="netem"))


# ---------------------------------------------------------------- where it cannot be


@pytest.mark.parametrize("missing", [("tc",), ("ip", "tc"), ("unshare", "ip", "tc")])
def test_a_missing_program_is_named_with_its_package(
    missing: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in {"unshare", "ip", "tc"} - set(missing):
        program(tmp_path / name, "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotPossibleError, match=f"no {' and no '.join(missing)} on this machine; install .*iproute2"):
        check_link.main(Arguments())


REFUSED = "echo 'unshare: unshare failed: Operation not permitted' >&2; exit 1"
NO_TUN = """echo '{"error": "no /dev/net/tun", "possible": false}'; exit 1"""
LOST = """echo '{"shaper": "tap"}'; echo '{"error": "no verifier answers", "possible": true}'; exit 1"""
CUT_SHORT = """echo '{"shaper": "tap"}'; echo 'Traceback: boom' >&2; exit 1"""


@pytest.mark.parametrize(
    ("says", "wrong", "words"),
    [
        (REFUSED, NotPossibleError, r"not allowed here \(unshare: .* not permitted\); run it as root"),
        (NO_TUN, NotPossibleError, "no /dev/net/tun"),
        (LOST, CloudError, "no verifier answers"),
        (CUT_SHORT, CloudError, "ended before its time.*Traceback: boom"),
        ("exit 0", CloudError, "ended before its time.*nothing"),
    ],
)
def test_what_goes_wrong_in_there_is_one_error(
    says: str, wrong: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "unshare", says)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(check_link, "require_tools", lambda: None)
    with pytest.raises(wrong, match=words):
        check_link.main(Arguments())


def program(path: Path, does: str) -> None:
    path.write_text(f"#!{shutil.which('sh')}\n{does}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


# ---------------------------------------------------------------- its pure parts


def test_half_the_round_trip_and_one_rate_each_way() -> None:
    link = ConstantLink.parse("61.5/0.25/8")
    assert (link, str(link)) == (ConstantLink(61.5, 0.25, 8.0), "61.5/0.25/8")
    assert link.netem(DEVICE)[-4:] == ["delay", "30750us", "rate", "250000bit"]
    assert link.netem(CLOUD)[-4:] == ["delay", "30750us", "rate", "8000000bit"]
    assert link.tap(3, 4)[-5:] == ["3", "4", "0.03075", "250000.0", "8000000.0"]
    assert link.trace.uplink_seconds(0.0, 1000) == pytest.approx(0.03075 + 8000 / 250000)
    assert link.trace.downlink_seconds(0.0, 1000) == pytest.approx(0.03075 + 8000 / 8e6)


@pytest.mark.parametrize("text", ["", "20", "20/1", "20/1/1/1", "a/b/c", "nan/1/1", "-1/1/1", "20/0/1", "20/1/inf"])
def test_what_is_no_link_is_refused(text: str) -> None:
    with pytest.raises(SettingError):
        ConstantLink.parse(text)


def test_commands_touch_the_link_alone() -> None:
    for end in (DEVICE, CLOUD):
        assert ConstantLink(1.0, 1.0, 1.0).netem(end)[:5] == ["tc", "qdisc", "replace", "dev", end]


def test_only_who_is_not_root_needs_a_user_namespace() -> None:
    one, other = inside(["x", "-y"], root=True), inside(["x", "-y"], root=False)
    assert one == ["unshare", "--net", "--pid", "--fork", "--kill-child", "--", "x", "-y"]
    assert other == ["unshare", "--user", "--map-root-user", *one[1:]]


def test_traffic_is_read_off_the_links_device_end(tmp_path: Path) -> None:
    table = "Inter-| Receive | Transmit\n face |bytes packets\n    lo: 1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0\n"
    (tmp_path / "dev").write_text(table + f" {DEVICE}: 300 4 0 0 0 0 0 0 700 9 0 0 0 0 0 0\n")
    assert traffic(tmp_path / "dev") == (700, 300)


def found(message: str, real: list[float], emulated: list[float]) -> dict[str, object]:
    return {
        "link": "60/2/8",
        "message": message,
        "counted": [907, 154],
        "seen": [[1000, 200], [1100, 300], [1050, 310]],
        "real": real,
        "emulated": emulated,
    }


def test_a_row_states_medians_and_the_difference() -> None:
    row = Row.of(found("Open", [0.060, 0.100, 0.080], [0.060, 0.060, 0.060]))
    assert row.real == pytest.approx((80.0, 98.0))
    assert row.emulated == pytest.approx((60.0, 60.0))
    assert row.difference == pytest.approx((-20.0, -0.25))
    assert (row.counted, row.seen) == ((907, 154), (1050.0, 300.0))
    other = Row.of(found("Verify 1+4", [0.1], [0.105]))
    assert summary([row, other]) == "The emulated link's medians are off by 15.0% on average, by -25.0% at most."


def test_the_table_names_each_link_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    rows = [Row.of(found(message, [0.08], [0.06])) for message in ("Open", "Verify 1+4")]
    into = io.StringIO()
    Console(file=into, width=150).print(table(rows, 1))
    text = into.getvalue()
    assert text.count("60/2/8") == 1
    assert "907 (1050)" in text
    assert "80.0 (80.0)" in text
    assert "-20.0 (-25.0%)" in text


def test_main_prints_table_summary_and_what_is_not_emulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"shaper": "netem"}, {"link": "60/2/8", "connect_seconds": [0.2, 0.001]}]
    lines += [found(message, [0.08], [0.06]) for message in ("Open", "Verify 1+4")]
    said = "\n".join(json.dumps(line) for line in [*lines, {"done": True}])
    program(tmp_path / "unshare", f"cat <<'END'\n{said}\nEND")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(check_link, "require_tools", lambda: None)
    check_link.main(Arguments())
    out = capsys.readouterr().out
    assert "real link: veth pair, tc netem\n" in out
    assert "makes the connection (60/2/8: 200 ms)" in out
    assert "off by 25.0% on average, by -25.0% at most" in out
    assert out.endswith("next: synera deploy   # answers over an emulated link\n")
