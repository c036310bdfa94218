"""A folder of files that are not what a command wants: missing, damaged, of another format, or hostile.

What does not live here: which command is given which (tests/scripts/test_bad_inputs.py).
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from runtime.telemetry import Begun, Ended, line
from traces import bundled

LONG = "x" * 300
"""Longer than a file system's names."""
PROFILES: dict[str, Callable[[dict[str, object]], object]] = {
    "list": lambda p: [p],
    "number": lambda p: 3,
    "null": lambda p: None,
    "missing-field": lambda p: {k: v for k, v in p.items() if k != "name"},
    "unknown-field": lambda p: p | {"more": 1},
    "wrong-type": lambda p: p | {"name": 3},
    "text-for-number": lambda p: p | {_number(p): "fast"},
    "list-for-number": lambda p: p | {_number(p): [1.0]},
    "bool": lambda p: p | {_number(p): True},
    "none": lambda p: p | {_number(p): None},
    "negative": lambda p: p | {_number(p): -1.0},
    "nan": lambda p: p | {_number(p): float("nan")},
    "infinity": lambda p: p | {_number(p): float("inf")},
    "1e308": lambda p: p | {_number(p): 1e308},
    "10-400": lambda p: p | {_number(p): 10**400},
}
"""What may be wrong with the JSON of a profile, by name."""
RAW = {
    "empty.json": b"",
    "garbage.json": bytes(range(256)),
    "half.json": b'{"name": "x", "source": ',
    "deep.json": b"[" * 100_000,
    "latin1.json": '{"name": "für"}'.encode("latin-1"),
}
"""What is no JSON at all, by name."""


JSON_LINES = {
    "half": b'{"prompt": "fo',
    "list": b'["four"]',
    "number": b'{"prompt": 4}',
    "blank": b'{"prompt": " "}',
    "unknown-field": b'{"prompt": "four", "answer": "4"}',
    "twice": b'{"prompt": "one", "reference": "1"}',
    "no-utf8": b'{"prompt": "f\xfcr"}',
    "deep": b"[" * 100_000,
}
"""What may be wrong with a line of prompts, by name."""


LINKS = {
    "half.gz": gzip.compress(b"0 1\n1 2\n2 3\n", mtime=0)[:-8],
    "row": b"0 1\n1 2\n2 3\n3 fast\n",
    "back": b"0 1\n2 2\n1 3\n",
    "unit.csv": b"1,Mbits/sec\n2,Tbits/sec\n",
    "column.csv": b"time,uplink_kbps\n0,1\n1,2\n",
    "outage.csv": b"time,uplink_mbps\n0,0\n1,0\n",
    "nan.csv": b"time,rtt_ms\n0,nan\n1,2\n",
    "ours.json": b'{"format": "synera-links", "version": 9, "links": []}',
    "hostile": b"\x1b[2J[bold]\n",
}
"""What may be wrong with a file of link traces, by name."""


def _number(profile: dict[str, object]) -> str:
    return next(name for name, value in profile.items() if isinstance(value, float | int))


def make(folder: Path, slm: Path, llm: Path, bundle: Path, graphs: Path) -> None:
    """Fill a folder.

    Args:
        folder: a new one.
        slm: a good model folder.
        llm: another that shares its tokenizer.
        bundle: a good bundle, trained with `graphs`.
        graphs: a good graph file.
    """
    for name, content in RAW.items():
        (folder / name).write_bytes(content)
    (folder / "file").write_text("a file\n")
    (folder / "empty").touch()
    (folder / "workload.csv").write_text("arrival_seconds,context_tokens,generated_tokens\n0,10,2\n3,20,1\n")
    (folder / "workload-row.csv").write_text("arrival_seconds,context_tokens,generated_tokens\n0,10,2\n3,many,1\n")
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "dangling").symlink_to(folder / "nowhere")
    _device(folder / "device")
    for kind in ("phone", "gpu"):
        profile = json.loads(bundled.profile(kind).read_text())
        for name, change in PROFILES.items():
            (folder / f"{kind}-{name}.json").write_text(json.dumps(change(profile)))
    for name, content in LINKS.items():
        (folder / f"links-{name}").write_bytes(content)
    (folder / "links-parts" / "train").mkdir(parents=True)
    (folder / "links-short").write_text("0 1\n1 2\n2 3\n")
    _texts(folder)
    _runs(folder)
    _graph_files(folder, graphs)
    _models(folder, slm, llm)
    _bundles(folder, bundle)


def _runs(folder: Path) -> None:
    """Live runs of one answer that was given up, or of which a line is wrong."""
    begun = line(
        Begun(
            **{"answer": 1, "run": "r", "time": "t", "system": "synera", "schema_hash": "h", "controller": "c"},
            **{"preference": {}, "fingerprints": {}, "seed": 0, "link": "real", "prompt_tokens": 1, "prompt_sha256": ""},
        )
    )
    wrong = {
        "none-whole": begun + line(Ended(answer=1, steps=0, metrics={}, error="KeyboardInterrupt")),
        "twice": begun + begun,
        "version": begun.replace(b'"format_version":1', b'"format_version":9'),
        "system": begun.replace(b"synera", b"tea"),
        "event": begun.replace(b'"begin"', b'"\\u001b[2J"'),
        "step": begun + b'{"event":"step","answer":1,"number":1,"record":{}}\n',
        "blank": begun + b"\n",
        "garbage": bytes(range(256)) * 2,
    }
    for name, content in wrong.items():
        (folder / f"run-{name}").mkdir()
        (folder / f"run-{name}" / "decisions.jsonl").write_bytes(content)


def _device(path: Path) -> None:
    """Something that is no regular file; a device of its own where that may be made, as /dev/null is everyone's."""
    with suppress(PermissionError):
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        return
    os.mkfifo(path)


def _texts(folder: Path) -> None:
    (folder / "two-prompts.txt").write_text("one\ntwo\n")
    (folder / "blank.txt").write_text("\n  \n\t\n")
    (folder / "latin1.txt").write_bytes("für\nüber\ngrün\nschön\n".encode("latin-1"))
    (folder / "long-prompt.txt").write_text(f"one\ntwo\n{'river ' * 5000}\n")
    (folder / "same.txt").write_text("one\n" * 10)
    (folder / "json.txt").write_text('{"prompt": "one"}\n')
    (folder / "some.jsonl").write_text('{"prompt": "one", "reference": "1"}\n{"prompt": "two"}\n{"prompt": "three"}\n')
    for name, content in JSON_LINES.items():
        (folder / f"{name}.jsonl").write_bytes(b'{"prompt": "one"}\n{"prompt": "two"}\n{"prompt": "three"}\n' + content)


def _graph_files(folder: Path, graphs: Path) -> None:
    whole = graphs.read_bytes()
    middle = len(whole) // 2
    for name, content in {
        "whole": whole,
        "empty": b"",
        "garbage": bytes(range(256)) * 8,
        "half": whole[:middle],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :],
        "headless": whole[8:],
        "endless-header": (2**62).to_bytes(8, "little") + whole[8:],
        "text": b"a text\n" * 100,
        "json": b'{"graphs": []}',
    }.items():
        (folder / f"graphs-{name}").mkdir()
        for split in ("train", "validation", "test"):
            (folder / f"graphs-{name}" / f"{split}.safetensors").write_bytes(content)
    (folder / "graphs-model").mkdir()
    for split in ("train", "validation", "test"):
        shutil.copy(bundled.PAIR / "slm" / "model.safetensors", folder / "graphs-model" / f"{split}.safetensors")


def _models(folder: Path, slm: Path, llm: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(slm, folder / f"model-{name}"))

    def configured(name: str, **changes: object) -> None:
        path = copy(name) / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    (copy("no-config") / "config.json").unlink()
    (copy("no-weights") / "model.safetensors").unlink()
    (copy("no-tokenizer") / "tokenizer.json").unlink()
    for name, content in {
        "garbage": bytes(range(256)),
        "empty": b"",
        "list": b"[]",
        "null": b"null",
        "deep": b"[" * 100_000,
    }.items():
        (copy(f"config-{name}") / "config.json").write_bytes(content)
        (copy(f"tokenizer-{name}") / "tokenizer.json").write_bytes(content)
    for name, content in {"garbage": bytes(range(256)), "empty": b"", "text": b"x" * 999}.items():
        (copy(f"weights-{name}") / "model.safetensors").write_bytes(content)
    weights = copy("weights-half") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    configured("architecture", architectures=["GPT2LMHeadModel"], model_type="gpt2")
    configured("no-layers", num_hidden_layers=0)
    configured("layers-text", num_hidden_layers="two")
    configured("more-layers", num_hidden_layers=9)
    configured("huge", hidden_size=10**400)
    configured("negative", num_attention_heads=-4)
    configured("nan", rms_norm_eps=float("nan"))
    configured("exits", exit_layers=[7, 3])
    configured("exits-text", exit_layers="all")

    for name in ("no-config", "config-garbage", "weights-half", "tokenizer-null"):
        for model in ("slm", "llm"):
            shutil.copytree(folder / f"model-{name}", folder / f"pair-{name}" / model)


def _bundles(folder: Path, bundle: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(bundle, folder / f"bundle-{name}"))

    def stated(kind: str, /, **changes: object) -> None:
        path = copy(kind) / "bundle.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    (copy("no-json") / "bundle.json").unlink()
    (copy("no-policy") / "policy.onnx").unlink()
    (copy("no-tables") / "tables.safetensors").unlink()
    for name, content in {"garbage": bytes(range(256)), "empty": b"", "list": b"[]", "null": b"null", "number": b"3"}.items():
        (copy(f"json-{name}") / "bundle.json").write_bytes(content)
    for part, short in (("policy.onnx", "policy"), ("tables.safetensors", "tables")):
        whole = (bundle / part).read_bytes()
        middle = len(whole) // 2
        (copy(f"{short}-garbage") / part).write_bytes(bytes(range(256)))
        (copy(f"{short}-half") / part).write_bytes(whole[:middle])
        (copy(f"{short}-flipped") / part).write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    stated("version", format_version=1)
    stated("version-text", format_version="2")
    stated("schema", schema_hash="0" * 16)
    stated("name", name=3)
    stated("tokens", max_new_tokens="many")
    stated("infinite", max_new_tokens=float("inf"))
    stated("unknown", more=1)
