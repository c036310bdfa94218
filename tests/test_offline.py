"""No part of this project calls home: every room is imported and a policy runs where the kernel ends who asks for a socket."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOCKET_CALL = {"x86_64": 41, "aarch64": 198}
"""The number of socket() in Linux."""
LINGER_SECONDS = 12.0
"""What reports from the background does not begin at once; onnxruntime's telemetry waits nine seconds."""


def forbid_internet_sockets() -> None:
    """Let the kernel kill this process once it, or native code in it, asks for an AF_INET or AF_INET6 socket; for good."""
    load, equal, give = 0x20, 0x15, 0x06  # of a seccomp filter: load a word, jump if equal, return
    call, family, kill, allow = 0, 16, 0x80000000, 0x7FFF0000
    program = [
        (load, 0, 0, call),
        (equal, 0, 4, SOCKET_CALL[platform.machine()]),
        (load, 0, 0, family),
        (equal, 1, 0, 2),  # AF_INET
        (equal, 0, 1, 10),  # AF_INET6
        (give, 0, 0, kill),
        (give, 0, 0, allow),
    ]

    class Filter(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_char_p))

    libc = ctypes.CDLL(None, use_errno=True)
    packed = Filter(len(program), b"".join(struct.pack("HBBI", *line) for line in program))
    no_new_privileges, seccomp, by_filter = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(seccomp, by_filter, ctypes.byref(packed), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp is not permitted here")


def run(code: str, home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, without the variable that this one may have set, and with an empty home."""
    kept = {
        name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY" and not name.startswith("XDG_")
    }
    environment = kept | {"HOME": str(home), "PYTHONPATH": str(ROOT)}
    begin = "from tests.test_offline import forbid_internet_sockets; forbid_internet_sockets()\n"
    command = [sys.executable, "-c", begin + code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture(scope="module", autouse=True)
def permitted(tmp_path_factory: pytest.TempPathFactory) -> None:
    if platform.system() != "Linux" or platform.machine() not in SOCKET_CALL:
        pytest.skip("the kernel is asked as on Linux")
    if (done := run("print('on')", tmp_path_factory.mktemp("home"))).stdout != "on\n":
        pytest.skip(f"a process cannot forbid itself sockets here: {done.stderr.splitlines()[-1:]}")


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
def test_who_asks_for_a_socket_is_ended(tmp_path: Path, family: str) -> None:
    """The check itself, for Python and for native code; a local socket is no call home."""
    done = run(
        f"import socket; socket.socket(socket.AF_UNIX); print('local', flush=True)\nsocket.socket(socket.{family})", tmp_path
    )
    assert (done.stdout, done.returncode) == ("local\n", -signal.SIGSYS)
    native = f"import ctypes, socket; ctypes.CDLL(None).socket(int(socket.{family}), 1, 0)"
    assert run(native, tmp_path).returncode == -signal.SIGSYS


def test_one_module_imports_onnxruntime_as_who_imports_it_must_switch_its_reports_off_first() -> None:
    rooms = (
        path
        for room in ("synera_env", "agents", "runtime", "cloud", "traces", "scripts")
        for path in (ROOT / room).rglob("*.py")
    )
    found = [
        path.relative_to(ROOT).as_posix()
        for path in rooms
        if re.search(r"^\s*(import|from) onnxruntime", path.read_text(), re.M)
    ]
    assert found == ["agents/onnx_policy.py"]


EVERYTHING = """
import sys, time
from importlib import import_module
from pathlib import Path

import numpy as np

from agents.bundle import Bundle
from synera_env import synera_schema

began = time.monotonic()
schema = synera_schema(2)
controller = Bundle.load(sys.argv[1]).controller(schema)
assert np.isfinite(controller.predict(np.zeros(len(schema.low), np.float32))[0]).all()
for room in ("synera_env", "agents", "runtime", "cloud", "traces", "scripts"):
    for path in sorted(Path(room).rglob("*.py")):
        if path.stem != "__main__":
            import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
assert "torch" in sys.modules and "onnxruntime" in sys.modules
time.sleep(max(0.0, float(sys.argv[2]) - (time.monotonic() - began)))
print("quiet")
"""


def test_nothing_calls_home(bundle: Path, tmp_path: Path) -> None:
    done = run(EVERYTHING, tmp_path, bundle, LINGER_SECONDS)
    assert (done.returncode, done.stdout) == (0, "quiet\n"), done.stderr[-2000:]
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file() and "onnxruntime" in str(p))
    assert left == []  # where its telemetry keeps what it is to send, from the import on


@pytest.fixture
def bundle(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support.recorded import trained

    return Path(shutil.copytree(trained(tiny_llm) / "bundle", tmp_path_factory.mktemp("offline") / "bundle"))
