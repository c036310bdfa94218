"""What every script shares: argument parsing, one clear line for a user's mistake, the console, the progress bar."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from typing import Literal, TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Where output is not a terminal there is no width to respect; tables of results need about this much.
console = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 150)
USER_ERROR = 2
"""Exit code of a user's mistake."""
INTERRUPTED = 130
"""Exit code after Ctrl-C."""

Dtype = Literal["float32", "bfloat16", "float16"]
"""Arithmetic types of models, as arguments; :data:`runtime.model.placement.DTYPES`."""
Arguments = TypeVar("Arguments")
_WRONG_PATH = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


def launch(arguments: type[Arguments], main: Callable[[Arguments], None], description: str | None) -> None:
    """Parse the command line into `arguments` and run `main`; end with one line, not a trace, on a user's mistake."""
    from runtime.errors import SyneraError

    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        main(tyro.cli(arguments, description=description))
    except (SyneraError, *_WRONG_PATH) as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(INTERRUPTED)


def progress() -> Progress:
    """Return a progress bar with count, elapsed and remaining time."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)
