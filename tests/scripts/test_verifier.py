"""The verifier's process: however it behaves, it is waited for so long and no longer, watched, and gone in the end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import CloudUnavailableError
from scripts import _verifier
from scripts._verifier import verifier_process

NO_MODEL = Path("no model")
LISTENS = "print('listening on 127.0.0.1:1 (a fake)', flush=True);"
HANGS = "import time; time.sleep(600)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Every process that `verifier_process` starts."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*arguments: Any, **named: Any) -> subprocess.Popen[bytes]:
        processes.append(subprocess.Popen(*arguments, **named))
        return processes[-1]

    class Watched:
        PIPE, TimeoutExpired = subprocess.PIPE, subprocess.TimeoutExpired
        Popen = staticmethod(start)

    monkeypatch.setattr(_verifier, "subprocess", Watched)
    monkeypatch.setattr(_verifier, "_GRACE_SECONDS", 1.0)
    return processes


@pytest.fixture
def fake(started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a program in the place of the server."""

    def use(program: str) -> None:
        monkeypatch.setattr(_verifier, "_command", lambda *_: [sys.executable, "-IS", "-c", program])

    return use


def gone(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process, and all that it started, are no more (or dead and waited for by nobody).

    One that was killed may take a moment to die where much else runs.
    """
    for _ in range(100):
        listed = subprocess.run(["ps", "-A", "-o", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
        groups = [line.split() for line in listed.splitlines()]
        if not any(int(group) == process.pid and state[0] != "Z" for group, state in groups):
            return process.returncode is not None
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(
    "program",
    [
        HANGS,
        f"print('loading', flush=True); print('not listening on x', flush=True); {HANGS}",
        f"import sys; sys.stdout.buffer.write(bytes(range(256)) * 999); sys.stdout.flush(); {HANGS}",
        f"{DEAF} {HANGS}",
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', '{HANGS}']); {HANGS}",
        "while True: print('loading', flush=True)",
    ],
    ids=["says nothing", "says other things", "says rubbish", "deaf to SIGTERM", "with a child", "says without end"],
)
def test_a_verifier_that_never_listens_is_killed_and_reported(
    program: str, fake: Callable[[str], None], started: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    fake(
        f"import sys; print('one', 'two', '  ', 'three', 'no \\x1b[31m memory', sep='\\n', file=sys.stderr, flush=True)\n{program}"
    )
    log = tmp_path / "verifier.log"
    with (
        pytest.raises(CloudUnavailableError) as raised,
        verifier_process(model=NO_MODEL, pace=None, log=log, timeout_seconds=1.5),
    ):
        raise AssertionError("not reached")
    assert "did not say within 1.5 s that it listens, and was killed" in str(raised.value)
    assert f"see {log}; it ends: two | three | no \x1b[31m memory" in str(raised.value)
    assert gone(started[0])


@pytest.mark.parametrize(
    ("program", "how"), [("raise SystemExit(7)", "exit code 7"), ("import os; os.abort()", "killed by signal 6")]
)
def test_a_verifier_that_does_not_start_is_told_with_the_end_of_its_log(
    program: str, how: str, fake: Callable[[str], None], started: list[subprocess.Popen[bytes]]
) -> None:
    fake(f"import sys; print('x' * 9000, 'no model there', sep='\\n', file=sys.stderr, flush=True)\n{program}")
    with (
        pytest.raises(
            CloudUnavailableError, match=rf"ended before it was ready \({how}\); its log ends: .*no model there$"
        ) as raised,
        verifier_process(model=NO_MODEL, pace=None),
    ):
        raise AssertionError("not reached")
    assert len(str(raised.value)) < 5000
    assert gone(started[0])


def test_a_verifier_that_closes_its_output_and_hangs_is_killed(
    fake: Callable[[str], None], started: list[subprocess.Popen[bytes]]
) -> None:
    fake(f"import os; os.close(1); {HANGS}")
    with pytest.raises(CloudUnavailableError, match="its log is empty"), verifier_process(model=NO_MODEL, pace=None):
        raise AssertionError("not reached")
    assert gone(started[0])


def test_a_verifier_that_talks_on_is_read_on(fake: Callable[[str], None], started: list[subprocess.Popen[bytes]]) -> None:
    """A full pipe would stop it in the middle of an answer."""
    fake(f"{LISTENS} print('x' * 1000000, flush=True); import sys; print('done', file=sys.stderr, flush=True); {HANGS}")
    with verifier_process(model=NO_MODEL, pace=None) as verifier:
        until(lambda: "done" in verifier._log.end())
    assert gone(started[0])


def test_a_verifier_that_dies_is_noticed(fake: Callable[[str], None], started: list[subprocess.Popen[bytes]]) -> None:
    fake(f"{LISTENS} {HANGS}")

    def demo() -> None:
        with verifier_process(model=NO_MODEL, pace=None) as verifier:
            verifier.check()
            started[0].kill()
            until(lambda: started[0].poll() is not None)
            verifier.check()
            raise AssertionError("not reached")

    with pytest.raises(CloudUnavailableError, match=r"127\.0\.0\.1:1 ended by itself \(killed by signal 9\); its log is empty"):
        demo()
    assert gone(started[0])


def test_a_verifier_that_died_unseen_is_noticed_in_the_end(
    fake: Callable[[str], None], started: list[subprocess.Popen[bytes]]
) -> None:
    fake(LISTENS)
    with (
        pytest.raises(CloudUnavailableError, match=r"ended by itself \(exit code 0\)"),
        verifier_process(model=NO_MODEL, pace=None),
    ):
        until(lambda: started[0].poll() is not None)


@pytest.mark.parametrize("program", [HANGS, f"{DEAF} {HANGS}"], ids=["hears", "deaf"])
@pytest.mark.parametrize("raised", [KeyboardInterrupt, ZeroDivisionError, SystemExit])
def test_whatever_is_raised_beside_a_verifier_it_is_over(
    program: str, raised: type[BaseException], fake: Callable[[str], None], started: list[subprocess.Popen[bytes]]
) -> None:
    fake(f"{program.removesuffix(HANGS)}{LISTENS} {HANGS}")
    with pytest.raises(raised), verifier_process(model=NO_MODEL, pace=None):
        raise raised
    assert gone(started[0])


@pytest.mark.parametrize("program", [HANGS, f"{DEAF} {LISTENS} {HANGS}"], ids=["while it loads", "while it stops"])
def test_ctrl_c_at_a_bad_moment_leaves_no_process(
    program: str, fake: Callable[[str], None], started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_verifier, "_GRACE_SECONDS", 250.0)
    fake(program)
    presser = threading.Timer(1.0, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
    presser.start()
    with pytest.raises(KeyboardInterrupt), verifier_process(model=NO_MODEL, pace=None, timeout_seconds=250):
        pass
    assert gone(started[0])


def test_a_log_that_cannot_be_written_starts_nothing(started: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), verifier_process(model=NO_MODEL, pace=None, log=tmp_path):
        raise AssertionError("not reached")
    assert not started


# ---------------------------------------------------------------- the real one


def test_the_verifiers_process_stops_on_ctrl_c(
    tiny_llm: Path, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_verifier, "_GRACE_SECONDS", 10.0)

    def interrupted() -> tuple[str, int]:
        try:
            with verifier_process(model=tiny_llm, pace=None) as verifier:
                address = (verifier.target.split(":")[0], int(verifier.target.split(":")[1]))
                with socket.create_connection(address, timeout=10):
                    assert started[0].poll() is None
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            return address

    address = interrupted()
    assert len(started) == 1
    assert started[0].poll() == 0  # gracefully, not killed
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=10)


def test_the_verifiers_process_runs_no_code_of_the_current_folder(
    tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is started it has the modules of the process that starts it, and takes paths from the current folder."""
    for room in ("scripts", "cloud"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("raise SystemExit('a stranger')")
    (tmp_path / "llm").symlink_to(tiny_llm)
    monkeypatch.chdir(tmp_path)
    with verifier_process(model=Path("llm"), pace=None, log=tmp_path / "log") as verifier:
        assert verifier.target.startswith("127.0.0.1:")
    assert "a stranger" not in (tmp_path / "log").read_text()


def test_a_verifier_without_a_model_says_so_and_where_to_look(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    log = tmp_path / "verifier.log"
    with (
        pytest.raises(CloudUnavailableError, match=rf"exit code 2\); see {log}; it ends: error: no model at {tmp_path}"),
        verifier_process(model=tmp_path, pace=None, log=log),
    ):
        raise AssertionError("not reached")
    assert started[0].poll() == 2
    assert f"no model at {tmp_path}" in log.read_text()


def until(reached: Callable[[], bool]) -> None:
    """Wait for what another process does; the test's own limit ends it."""
    while not reached():
        time.sleep(0.01)
