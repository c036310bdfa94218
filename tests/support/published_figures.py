"""A folder of published figures, round and made up, in the form of the public data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

HEAD = (
    "model,hardware,prompt_size,batch_size,token_size,peak_power,average_power,prompt_time,token_time,e2e_time,tensor_parallel"
)


def _numbers() -> dict[str, Any]:
    """Round figures in the form of the public file."""
    device = {"device": "Samsung Galaxy S25 Ultra", "model": "Qwen2.5-1.5B", "quant": "Q4_K_M", "backend": "CPU", "source": "a"}
    serving = {"model": "Llama-3.1-70B-Instruct", "gpu": "H100", "num_gpus": 4, "source": "c"}
    return {
        "about": "made up",
        "device_decode": [
            device | {"prefill_tok_s": 100.0, "decode_tok_s": 25.0},
            device | {"decode_tok_s": 25.0},
            device | {"model": "unknown", "prefill_tok_s": 100.0, "decode_tok_s": 25.0},
            device | {"device": "Another", "prefill_tok_s": 50.0, "decode_tok_s": 20.0},
        ],
        "device_energy_fit": {"device": "Samsung Galaxy S25 Ultra", "b_W": 10.0, "source": "a"},
        "radio_power_linear_fit": [
            {"network": "LTE", "direction": "uplink", "intercept_mw": 9000.0, "slope_mw_per_mbps": 99.0, "source": "b"},
            {"network": "NSALow", "direction": "uplink", "intercept_mw": 3000.0, "slope_mw_per_mbps": 32.0, "source": "b"},
        ],
        "cloud_serving": [serving | {"avg_batch": b, "itl_ms_p50": 15 + 0.1 * b} for b in (8.0, 64.0, 256.0)],
        "sources": {
            "a": {"repo": "x/y", "what": "a notebook"},
            "b": {"repo": "r/s", "what": "radio"},
            "c": {"repo": None, "what": "page"},
        },
    }


def published_figures(tmp_path: Path, change: Callable[[dict[str, Any]], Any] = lambda stated: None, rows: str = "") -> Path:
    """Write the folder.

    Args:
        tmp_path: it.
        change: alters the figures of devices and servers.
        rows: lines of the timings of Splitwise.
    """
    stated = _numbers()
    change(stated)
    (tmp_path / "device_cloud_numbers.json").write_text(json.dumps(stated))
    (tmp_path / "splitwise").mkdir(exist_ok=True)
    (tmp_path / "splitwise" / "perf_model.csv").write_text(f"{HEAD}\n{rows}")
    return tmp_path
