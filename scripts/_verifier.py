"""A verifier as a process of its own: started, waited for, watched, and stopped whatever happens."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from runtime.errors import CloudUnavailableError

_GRACE_SECONDS = 10.0
"""How long a verifier that was asked to stop may take."""
_TAIL_BYTES, _TAIL_LINES = 4000, 3
"""How much of the end of its log is told."""


@dataclass(frozen=True)
class Verifier:
    """A verifier that listens."""

    target: str
    """`host:port`."""
    _process: subprocess.Popen[bytes]
    _log: _Log

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def check(self) -> None:
        """Do nothing while it runs.

        Raises:
            CloudUnavailableError: it has ended; with the end of its log.
        """
        if (code := self._process.poll()) is not None:
            raise CloudUnavailableError(f"the verifier {self.target} ended by itself ({_ended(code)}); {self._log.end()}")


@contextlib.contextmanager
def verifier_process(
    *,
    model: Path,
    pace: Path | None,
    threads: int = 1,
    host: str = "127.0.0.1",
    options: Sequence[str] = (),
    log: Path | None = None,
    timeout_seconds: float = 120.0,
) -> Iterator[Verifier]:
    """Run `synera serve` on a free port, in plaintext.

    Args:
        model: the LLM's folder.
        pace: cloud profile to emulate; None runs as fast as it can.
        threads: CPU threads of a forward.
        host: address to listen on; another than loopback must be of a network that is trusted.
        options: more of `synera serve`.
        log: file for its standard error; None keeps it only as long as it runs.
        timeout_seconds: how long it may take until it listens; then it is killed.

    Yields:
        The verifier. On exit the process is asked to stop, and killed if it does not within ten seconds.

    Raises:
        CloudUnavailableError: it did not listen in time, or ended by itself, even if only noticed at the end.
    """
    with contextlib.ExitStack() as stack:
        opened = log.open("w+b") if log else tempfile.TemporaryFile()  # noqa: SIM115 - the stack closes it
        errors = _Log(stack.enter_context(opened), log)
        process = stack.enter_context(_running([*_command(model, pace, threads, host), *options], errors.file))
        verifier = Verifier(_announced(process, errors, timeout_seconds), process, errors)
        yield verifier
        verifier.check()


@dataclass(frozen=True)
class _Log:
    """What a process writes to its standard error."""

    file: IO[bytes]
    path: Path | None

    def end(self) -> str:
        """Where it is and how it ends, on one line."""
        handle = self.file.fileno()
        size = os.fstat(handle).st_size
        # Read at a place of its own, as the process writes on at the file's.
        text = os.pread(handle, _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        where = "its log" if self.path is None else f"see {self.path}; it"
        return f"{where} ends: {' | '.join(lines[-_TAIL_LINES:])}" if lines else f"{where} is empty"


def _command(model: Path, pace: Path | None, threads: int, host: str) -> list[str]:
    command = [sys.executable, "-P", "-m", "scripts.serve", "--model", str(model), "--port", "0", "--threads", str(threads)]
    command += ["--host", host, "--allow-plaintext"]
    return command + (["--pace", str(pace)] if pace else [])


@contextlib.contextmanager
def _running(command: Sequence[str], errors: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process; when the block is left in whatever way, it is over."""
    # The same modules as this process has, wherever it was started, and not what the current folder may hold.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    # A process group of its own, so that Ctrl-C reaches it through its owner, after the answers in flight.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, start_new_session=True, env=environment)
    try:
        yield process
    finally:
        _stop(process, _GRACE_SECONDS)


def _announced(process: subprocess.Popen[bytes], log: _Log, timeout_seconds: float) -> str:
    """Wait for the line that names the address, and return the address."""
    said: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        """Look for the line; then go on reading, as a full pipe would stop the process."""
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                if ready := re.match(r"listening on (\S+)", line.decode(errors="replace")):
                    said.put(ready[1])
        said.put(None)

    threading.Thread(target=read, name="verifier's output", daemon=True).start()
    try:
        target = said.get(timeout=timeout_seconds)
    except queue.Empty:
        _stop(process, 0.0)
        raise CloudUnavailableError(
            f"the verifier did not say within {timeout_seconds:g} s that it listens, and was killed; {log.end()}"
        ) from None
    if target is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
        _stop(process, 0.0)
        raise CloudUnavailableError(f"the verifier ended before it was ready ({_ended(process.wait())}); {log.end()}")
    return target


def _ended(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by signal {-code}"


def _stop(process: subprocess.Popen[bytes], grace_seconds: float) -> None:
    """Ask a process to stop; kill it, and what it started, when the time is over or a second Ctrl-C comes."""
    try:
        if process.poll() is None and grace_seconds:
            process.terminate()
            process.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
