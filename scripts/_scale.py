"""One function over many items, side by side: each in a process of this machine, or as a task of Ray.

Function, items and results are pickled on their way. That stays among the processes that a command starts itself, or inside the Ray
cluster that its user names, whose machines run what they are sent anyway; nothing here is read from a file or sent to a verifier.

What does not live here: what is done (sweep.py, tune.py, record.py).
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Annotated, Any, Generic, TypeVar

from tyro.constructors import PrimitiveConstructorSpec

from runtime.errors import SettingError, SyneraError
from runtime.settings import shown

Item = TypeVar("Item")
Result = TypeVar("Result")
LOCAL = "local"
_TICK = 0.5
"""Seconds between two looks at what is under way."""
_GRACE = 10.0
"""Seconds in which work that is called off may end by itself."""
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class LostError(SyneraError):
    """A process that did a part of the work ended before that was done."""


class FaultError(RuntimeError):
    """A bug in what was done elsewhere; the message is its trace."""


@dataclass(frozen=True)
class Ended(Generic[Result]):
    """What came of one item."""

    number: int
    """Of the item, from 0."""
    result: Result | None
    failure: Exception | None = None

    def value(self) -> Result:
        """Return the result.

        Raises:
            SyneraError: the work did.
            LostError: its process ended.
            FaultError: the work has a bug.
        """
        if self.failure is not None:
            raise self.failure
        return self.result  # type: ignore[return-value]


def spread(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    at_once: int | None = None,
    ray: str | None = None,
    *,
    fresh: bool = True,
    gpus: int = 0,
    on_wait: Callable[[], object] = lambda: None,
) -> Iterator[Ended[Result]]:
    """Do something with each of some items; yields what came of each as it ends.

    What is under way when the iterator is closed, or its process ends, is called off: a `KeyboardInterrupt` is raised in it, and it
    is killed if that does not end it. In a process, torch and what it is built on take one thread.

    Args:
        work: a function of a module, or a `functools.partial` of one; it is pickled, as are items and results.
        items: what with.
        at_once: most that are under way; None is one for each core of this machine, or of the cluster.
        ray: None for processes of this machine, each of one item; else as :func:`connected` takes it.
        fresh: whether each task of Ray has a process of its own.
        gpus: of each task of Ray.
        on_wait: called about twice a second.

    Raises:
        SettingError: there is no such cluster, or no Ray.
    """
    if ray is None:
        return _by_processes(work, items, at_once or os.cpu_count() or 1, on_wait)
    options = {"max_calls": int(fresh), "num_gpus": gpus}
    return _by_ray(work, items, at_once, ray, options, on_wait)


def in_order(ended: Iterator[Ended[Result]]) -> Iterator[Result]:
    """Yield results in the order of their items.

    Raises:
        Exception: as :meth:`Ended.value`, of what ends first.
    """
    found: dict[int, Result] = {}
    following = 0
    for each in ended:
        found[each.number] = each.value()
        while following in found:
            yield found.pop(following)
            following += 1


def _outcome(work: Callable[[Item], Result], item: Item) -> tuple[Result | None, Exception | None]:
    """Do it, wherever this is; exceptions go back to who asked for it."""
    try:
        return work(item), None
    except SyneraError as mistake:
        return None, mistake
    except Exception:
        return None, FaultError(traceback.format_exc())


# ---------------------------------------------------------------- processes of this machine


def _by_processes(
    work: Callable[[Item], Result], items: Sequence[Item], at_once: int, on_wait: Callable[[], object]
) -> Iterator[Ended[Result]]:
    context, waiting = get_context("spawn"), deque(enumerate(items))
    running: dict[Any, tuple[int, Any]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                number, item = waiting.popleft()
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs,))
                process.start()
                theirs.close()
                running[ours] = number, process
                with suppress(BrokenPipeError):  # it ended at once, as will be seen
                    ours.send((work, item))
            for end in wait(list(running), _TICK):
                number, process = running.pop(end)
                yield Ended(number, *_received(end, process))
            on_wait()
    finally:
        for ours in running:
            ours.close()  # which calls it off
        for _, process in running.values():
            process.join()


def _received(ours: Any, process: Any) -> tuple[Any, Exception | None]:
    """What a process sent before it ended."""
    try:
        found = ours.recv()
    except (EOFError, ConnectionResetError):
        found = None
    process.join()
    ours.close()
    if found is not None:
        return found
    code = process.exitcode
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return None, LostError(f"a process ended by itself ({how}); SIGKILL often means that memory ran out")


def _serve(theirs: Connection) -> None:
    """The life of a process: one item, and none beyond that of the process which sent it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is for that other one, which calls this one off
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.update(_ONE_THREAD)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    with suppress(KeyboardInterrupt, EOFError, BrokenPipeError):
        work, item = theirs.recv()
        threading.Thread(target=_end_with, args=(theirs,), daemon=True).start()
        theirs.send(_outcome(work, item))


def _end_with(theirs: Connection) -> None:
    """End this process when the other end of its pipe is closed, be it that the other process was killed."""
    with suppress(EOFError, OSError):
        theirs.recv()
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)  # wherever that thread is, it wakes
    time.sleep(_GRACE)
    os._exit(1)


# ---------------------------------------------------------------- Ray


def _address(words: list[str]) -> str:
    """Read what follows `--ray`."""
    address = words[0] if words else LOCAL
    host, colon, port = address.rpartition(":")
    if len(words) > 1 or not (address in (LOCAL, "auto") or (host and colon and port.isdecimal() and 0 < int(port) < 65_536)):
        raise SettingError(f"ray={shown(' '.join(words))} must be nothing, auto, or HOST:PORT of a Ray cluster")
    return address


RayAddress = Annotated[
    str | None,
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="[ADDRESS]",
        instance_from_str=_address,
        is_instance=lambda value: value is None or isinstance(value, str),
        str_from_instance=lambda value: [] if value is None else [value],
    ),
]
"""The argument: None without `--ray`; :data:`LOCAL` where no address follows it."""


def check_ray(address: str | None) -> None:
    """Do nothing where no Ray is asked for, or Ray is there; it is not imported yet.

    Raises:
        SettingError: it is not installed, or no cluster answers at its address.
    """
    if address is None:
        return
    if find_spec("ray") is None:
        raise SettingError("--ray needs Ray, which is not installed here: pip install 'synera-env[ray]'")
    if address not in (LOCAL, "auto"):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), 5.0).close()
        except (OSError, UnicodeError):
            raise _nobody(address) from None


def _nobody(address: str) -> SettingError:
    return SettingError(
        f"no Ray cluster answers at {shown(address)}; start one with: ray start --head, or leave the address out"
    )


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Yield the module `ray`, connected; as it is where it is connected already.

    Args:
        address: `local` starts a Ray that ends with the block: reached from this machine alone, without dashboard and usage
            statistics; `auto` finds the one that runs here; else HOST:PORT of a cluster, whose machines have this package and
            see the current folder under the same path.

    Raises:
        SettingError: there is no such cluster, or no Ray.
    """
    check_ray(address)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray takes these from the environment alone, when it is imported
    if address == LOCAL:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # addresses of this machine alone, whatever its system
    import ray

    if ray.is_initialized():
        yield ray
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address != LOCAL:
        try:
            ray.init(address, **quiet)
        except ConnectionError:
            raise _nobody(address) from None
        try:
            yield ray
        finally:
            ray.shutdown()
        return
    with tempfile.TemporaryDirectory(prefix="synera-ray-", ignore_cleanup_errors=True) as folder:
        ray.init(LOCAL, include_dashboard=False, _temp_dir=folder, **quiet)
        try:
            yield ray
        finally:
            ray.shutdown()


def _by_ray(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    at_once: int | None,
    address: str,
    options: dict[str, int],
    on_wait: Callable[[], object],
) -> Iterator[Ended[Result]]:
    with connected(address) as ray:
        task = ray.remote(num_cpus=1, max_retries=0, **options)(_there)
        waiting, running = deque(enumerate(items)), dict[Any, int]()
        at_once = at_once or int(ray.cluster_resources().get("CPU", 1))
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    number, item = waiting.popleft()
                    running[task.remote(os.getcwd(), work, item)] = number
                for reference in ray.wait(list(running), timeout=_TICK)[0]:
                    yield Ended(running.pop(reference), *_got(ray, reference))
                on_wait()
        finally:
            for reference in running:
                ray.cancel(reference)
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=_GRACE)


def _got(ray: Any, reference: Any) -> tuple[Any, Exception | None]:
    """What came of a task."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return None, LostError(f"a task of Ray ended by itself: {' '.join(str(error).split())[:300]}")


def _there(folder: str, work: Callable[[Item], Result], item: Item) -> tuple[Result | None, Exception | None]:
    """The life of a task."""
    try:
        os.chdir(folder)
    except OSError:
        host = socket.gethostname()
        return None, LostError(
            f"{host}, of the Ray cluster, does not see the folder {folder}; work in one that all its machines share"
        )
    return _outcome(work, item)
