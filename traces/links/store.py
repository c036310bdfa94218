"""Link files: a set of traces as one JSON file.

What does not live here: the trace itself (trace.py) and readers of public trace sets.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from traces.errors import TraceError
from traces.files import write_text
from traces.links.trace import LinkTrace


def save_links(links: list[LinkTrace], path: Path) -> None:
    """Write traces as one JSON file, whole or not at all."""
    rows = [
        {
            "name": link.name,
            "family": link.family,
            "step_seconds": link.step_seconds,
            **{name: np.round(getattr(link, name), 4).tolist() for name in ("rtt_ms", "uplink_mbps", "downlink_mbps")},
        }
        for link in links
    ]
    write_text(path, json.dumps({"format": "synera-links", "version": 1, "links": rows}))


def load_links(path: str | Path) -> list[LinkTrace]:
    """Read traces written by :func:`save_links`.

    Raises:
        TraceError: the file is missing, damaged, or of another format.
    """
    try:
        stated = json.loads(Path(path).read_text())
        if (stated.get("format"), stated.get("version")) != ("synera-links", 1):
            raise TraceError("it is not a link file of version 1")
        return [
            LinkTrace(
                row["name"],
                row["family"],
                float(row["step_seconds"]),
                *(np.array(row[name], dtype=float) for name in ("rtt_ms", "uplink_mbps", "downlink_mbps")),
            )
            for row in stated["links"]
        ]
    except FileNotFoundError:
        raise TraceError(f"no link file at {path}") from None
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
        raise TraceError(f"{path} is not a link file: {error}") from None
