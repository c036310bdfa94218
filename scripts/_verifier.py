"""A verifier as a process of its own: started, waited for, and stopped whatever happens."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from runtime.errors import CloudUnavailableError


@contextlib.contextmanager
def verifier_process(*, model: Path, pace: Path | None, threads: int = 1, log: Path | None = None) -> Iterator[str]:
    """Run `synera serve` on a free port of the loopback interface.

    Args:
        model: the LLM's folder.
        pace: cloud profile to emulate; None runs as fast as it can.
        threads: CPU threads of a forward.
        log: file for its standard error; None discards it.

    Yields:
        `host:port`. On exit the process is asked to stop, and killed if it does not within ten seconds.

    Raises:
        CloudUnavailableError: it ended before it was ready.
    """
    command = [sys.executable, "-P", "-m", "scripts.serve", "--model", str(model), "--port", "0", "--threads", str(threads)]
    command += ["--pace", str(pace)] if pace else []
    # The same modules as this process has, wherever it was started, and not what the current folder may hold.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(log.open("w")) if log else subprocess.DEVNULL
        # A process group of its own, so that Ctrl-C reaches it through its owner, after the answers in flight.
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True, env=environment
        )
        stack.callback(_stop, process)
        assert process.stdout is not None
        for line in process.stdout:
            if ready := re.match(r"listening on (\S+)", line):
                yield ready[1]
                return
        raise CloudUnavailableError(
            f"the verifier ended before it was ready (exit code {process.wait()}); see {log or 'its standard error'}"
        )


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
