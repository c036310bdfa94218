"""What Python's garbage collector is told by a process that serves.

What does not live here: who calls it (process.py, engine/process/worker.py).
"""

from __future__ import annotations

import gc


def settle() -> None:
    """Take all that is there now, which stays for the life of the process, out of what garbage is looked for in.

    With torch and gRPC loaded full looks took a fifth of the time of a server under load, and held up all its calls.
    """
    gc.collect()
    gc.freeze()
