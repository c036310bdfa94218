"""Every command x what may be wrong with what it is given: one line, exit code 2, no trace, and nothing written or changed.

What does not live here: the files that are wrong (tests/support/bad_files.py).
"""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts import __main__ as command
from tests.support import bad_files
from tests.support.bad_files import LONG
from tests.support.certificates import TestAuthority
from tests.support.hat import recorded_hat, split_world
from tests.support.recorded import recorded, trained

HUGE = "1" + "0" * 400
NOBODY = "127.0.0.1:1"
"""An address where no verifier listens."""
HF_ID = "meta-llama/Llama-3.2-1B"
ESCAPES = "\x1b]0;title\x07[bold]"


@dataclass(frozen=True)
class Case:
    """One bad input."""

    command: str
    words: tuple[str, ...]
    """`{f}` stands for the folder of bad files, `{slm}`, `{llm}`, `{bundle}`, `{graphs}` for good ones."""
    names: str = ""
    """What the line must name, so that it is this mistake that was found."""

    def __str__(self) -> str:
        said = " ".join((self.command, *self.words)).encode("unicode_escape").decode()
        return re.sub(r"(.)\1{9,}", r"\1...", said)


def cases() -> Iterator[Case]:
    """All of them."""
    yield from NO_COMMANDS
    for number, (name, option, allowed) in enumerate(COUNTS):
        for value in ("-1", HUGE, *(["0"] if allowed > 0 else [])):
            yield Case(name, (*AREA.get(name, ()), option, value), _field(option))
        yield Case(name, (*AREA.get(name, ()), option, NO_COUNTS[number % len(NO_COUNTS)]))
    for name, option in FRACTIONS:
        for value in ("-1", "nan", "inf", "1e308", "1e400"):
            yield Case(name, (*AREA.get(name, ()), option, value), _field(option))
        yield Case(name, (*AREA.get(name, ()), option, "much"))
    for name, option, values in WORDS:
        for value in values:
            yield Case(name, (*AREA.get(name, ()), option, value))
    for name in command.commands():
        for words in (("--no-such-option", "1"), ("surplus",), (f"--{ESCAPES}",)):
            yield Case(name, (*AREA.get(name, ()), *words))
    for name, before, kind in INPUTS:
        for bad in BAD_INPUTS[kind]:
            yield Case(name, (*before, bad), "bundle" if "{f}/bundle-" in bad else _last(bad))
    for name, before, kind in OUTPUTS:
        for bad in BAD_OUTPUTS[kind]:
            yield Case(name, (*before, bad), _last(bad))
    yield from OTHERS


def _field(option: str) -> str:
    """The last word of it, as settings are told from each other by it."""
    return re.split(r"[.-]", option)[-1]


def _last(path: str) -> str:
    """The part of a path that a message cannot leave out."""
    return "/proc/nowhere" if path.startswith("/proc") else path.split("/")[-1][:20]


NO_COUNTS = ("1.5", "nan", "", "one", "1e3", "0x10")
AREA = {"bench": ("device",), "inspect-run": ("run",), "inspect-trace": ("{graphs}",), "reproduce": ("hat",)}
NO_COMMANDS = [
    Case("", (), "''"),
    Case("trian", (), "did you mean train?"),
    Case("../serve", (), "../serve"),
    Case("_cli", ()),
    Case("__init__", ()),
    Case("measure_profiles", (), "measure-profiles"),
    Case(ESCAPES, (), "[bold]"),
    Case(LONG, ()),
    Case("--no-such-option", ()),
    Case("bench", ()),
    Case("bench", ("clouds",)),
    Case("bench", ("[bold]device",)),
]
COUNTS = [  # command, option, smallest that is allowed
    ("record", "--per-kind", 1),
    ("record", "--max-new-tokens", 1),
    ("record", "--node-budget", 1),
    ("record", "--threads", 1),
    ("measure-profiles", "--repetitions", 1),
    ("measure-profiles", "--threads", 1),
    ("train", "--steps", 1),
    ("train", "--envs", 1),
    ("train", "--patience", 1),
    ("train", "--validation-answers", 1),
    ("train", "--validate-every", 1),
    ("train", "--seed", 0),
    ("sweep", "--seeds", 1),
    ("sweep", "--at-once", 1),
    ("sweep", "--steps", 1),
    ("tune", "--trials", 1),
    ("tune", "--at-once", 1),
    ("tune", "--steps", 1),
    ("tune", "--envs", 1),
    ("tune", "--validation-answers", 1),
    ("tune", "--validate-every", 1),
    ("tune", "--seed", 0),
    ("evaluate", "--answers", 1),
    ("evaluate", "--live", 1),
    ("evaluate", "--seed", 0),
    ("bounds", "--answers", 1),
    ("bounds", "--fits", 1),
    ("bounds", "--seed", 0),
    ("fit-rules", "--answers", 1),
    ("fit-rules", "--validation-answers", 1),
    ("fit-rules", "--seed", 0),
    *[("loadtest", f"--{name}", 1) for name in ("devices", "threads", "processes", "connections", "draft-length")],
    *[("loadtest", f"--{name}", 0) for name in ("streams", "seed")],
    ("validate-load", "--seed", 0),
    ("validate-replay", "--answers", 1),
    ("validate-replay", "--devices", 1),
    ("validate-replay", "--seed", 0),
    ("inspect-run", "--answer", 1),
    ("inspect-trace", "--prompt", 1),
    ("inspect-trace", "--lines", 1),
    ("inspect-trace", "--answers", 1),
    ("inspect-trace", "--seed", 0),
    *[("reproduce", f"--{name}", 1) for name in ("seeds", "answers", "devices", "prompt-tokens")],
    ("reproduce", "--seed", 0),
    ("serve", "--port", 0),
    ("serve", "--threads", 1),
    ("serve", "--token-budget", 1),
    ("serve", "--kv-tokens", 1),
    ("serve", "--metrics-port", 0),
    ("make-certs", "--days", 1),
    ("privacy", "--prompts", 1),
    ("privacy", "--replayed", 0),
    ("privacy", "--depths", 0),
    ("privacy", "--seed", 0),
    *[("serve", f"--max-{each}", 1) for each in ("sessions", "requests", "tokens", "streams")],
    *[("serve", f"--account-{each}", 1) for each in ("sessions", "requests", "streams")],
    ("deploy", "--max-new-tokens", 1),
    ("deploy", "--seed", 0),
    ("deploy", "--top-k", 0),
    ("deploy", "--sampling-seed", 0),
    ("train-pair", "--slm-steps", 1),
    ("train-pair", "--llm-steps", 1),
    ("train-pair", "--test-prompts", 1),
    ("train-adapter", "--steps", 1),
    ("train-adapter", "--seed", 0),
    ("train-adapter", "--test-prompts", 1),
    ("demo", "--train-per-kind", 1),
    ("demo", "--test-per-kind", 1),
    ("demo", "--devices", 1),
    ("demo", "--seed", 0),
    ("demo", "--steps", 1),
    ("check-link", "--rounds", 1),
    ("bench", "--repetitions", 1),
    ("bench", "--threads", 1),
]
FRACTIONS = [
    ("train-pair", "--freedom"),
    *[("evaluate", f"--fill.{name}") for name in ("rtt-ms", "uplink-share", "downlink-mbps")],
    *[("loadtest", f"--{name}") for name in ("rate", "seconds", "confidence", "prefill-share")],
    ("reproduce", "--rate"),
    ("reproduce", "--uplink-mbps"),
    ("validate-load", "--rate"),
    ("validate-load", "--seconds"),
    ("serve", "--account-tokens-per-second"),
]
_DEVICES = ("gpu", "", "cuda:x", "cuda:-1", "cuda:99", "CPU ", ESCAPES)
_DTYPES = ("int8", "", "float64", ESCAPES)
_CHANGES = (
    *("", "hidden", "hidden=", "=8", "nope=1", "hidden=1.5", "hidden=0", "hidden=yes", "hidden=[8]", "hidden={", ESCAPES),
    *(f"learning_rate={value}" for value in ("0", "-1", "2", "nan", ".inf", "1e400", "much", HUGE)),
    *("actions=both", "minibatch=1", "minibatch=9999999", "rollout=0"),
)
WORDS = [
    *[
        (name, "--device", _DEVICES)
        for name in ("record", "measure-profiles", "serve", "deploy", "train-pair", "train-adapter")
    ],
    *[(name, "--dtype", _DTYPES) for name in ("record", "measure-profiles", "serve", "deploy")],
    ("train-adapter", "--split", ("", "a", "1:2:3", "-1", "1:", "8", "2:6", "99999", "1.5", HUGE, ESCAPES)),
    ("serve", "--engine", ("vllm2", "", ESCAPES)),
    ("serve", "--split", ("", "a", "1:2:3", "1:", "1.5", ESCAPES)),
    ("serve", "--log-level", ("loud", "")),
    ("serve", "--log-format", ("xml", "")),
    ("check-link", "--shaper", ("tc", "", ESCAPES)),
    (
        "check-link",
        "--links",
        ("", "20", "20/1", "20/1/1/1", "a/b/c", "nan/1/1", "-1/1/1", "1e9/1/1", "20/0/1", "20/1/inf", ESCAPES),
    ),
    ("loadtest", "--sweep", ("1,,2", "1;2", "0", "-1", "1.5", "99999", "nan", "1e1", " ", ESCAPES, LONG)),
    ("loadtest", "--hostile", ("chrun", "churn,", "churn,churn", "all,churn", "Churn", " ", ESCAPES, LONG)),
    ("record", "--splits", ("tests", "")),
    ("privacy", "--precisions", ("fp16", "", ESCAPES)),
    ("record", "--score", ("f1", "token_f1", "a.b", "a:b:c", "os:system", ESCAPES)),
    ("reproduce", "--rows", ("all", "", "both,u-shape", ESCAPES)),
    ("bench", "--before", ("HEAD", ESCAPES, LONG)),
    *[(name, "--preference", ("none", "", ESCAPES)) for name in ("train", "tune", "bounds")],
    *[(name, "--agent", ("ppo2", "", ESCAPES)) for name in ("train", "tune")],
    ("train-adapter", "--drafter", ("heads", "", "Medusa", ESCAPES)),
    *[
        (name, "--system", ("pice", "", "HAT", ESCAPES))
        for name in ("record", "train", "sweep", "tune", "bounds", "evaluate", "deploy", "validate-replay")
    ],
    *[(name, "--first-token-weight", ("much", "")) for name in ("train", "evaluate", "deploy")],
    ("train", "--stop-when", ("bored", "", ESCAPES)),
    *[(name, "--set", _CHANGES) for name in ("train", "tune")],
    ("tune", "--name", ("", "..", "a/b", LONG, ESCAPES)),
    ("sweep", "--name", ("..", "a/b", LONG, ESCAPES)),
    ("sweep", "--agent", ("ppo2", "", ESCAPES)),
    ("sweep", "--set", ("", "hidden", "hidden=8,", "hidden=8,0", "hidden=8,8", "nope=1,2", "learning_rate=1,much")),
    *[(name, "--ray", ("here", NOBODY)) for name in ("tune", "record")],
    ("sweep", "--ray", ("here", "host", "host:", "host:0", "host:99999", ":1", NOBODY, ESCAPES)),
    ("train", "--imitate", ("nope", "random", "linucb", "os:Nothing", ESCAPES)),
    *[(name, "--grow", ("maybe", "", ESCAPES)) for name in ("train", "tune", "evaluate", "fit-rules", "bounds")],
    ("fit-rules", "--rules", ("best", "", ESCAPES)),
    ("fit-rules", "--budgets", ("0", "1", "nan", "-1", "much")),
    ("train", "--name", ("", ".", "..", "../x", "a/b", "/tmp/x", LONG, "a\nb", ESCAPES, " ")),
    *[(name, "--prefer", ("best", "", ESCAPES)) for name in ("deploy", "evaluate")],
    *[(name, "--max-offload", ("-0.1", "1.1", "nan", "half", "")) for name in ("deploy", "evaluate")],
    ("deploy", "--preference.quality", ("-1", "nan", "inf", "1e400", "much", "")),
    ("deploy", "--preference.cost", ("-1", "nan", "-inf")),
    ("deploy", "--temperature", ("-1", "0.001", "101", "nan", "1e400", "hot", "")),
    ("deploy", "--top-p", ("-0.1", "0", "1.1", "nan", "0.9")),
]

_PATHS = ("{f}/missing", f"{{f}}/{LONG}", "{f}/file/below", "{f}/loop", "{f}/dangling")
_NO_FOLDER = ("{f}/file", "{f}/empty", "{f}/folder", HF_ID)
_MODELS = (
    *("no-config", "no-weights", "no-tokenizer", "architecture", "no-layers", "layers-text", "more-layers", "huge", "negative"),
    *("config-garbage", "config-empty", "config-list", "config-null", "config-deep", "weights-garbage", "weights-empty"),
    *("weights-text", "weights-half", "tokenizer-garbage", "tokenizer-empty", "tokenizer-list", "tokenizer-null", "nan"),
)
_EXITS = ("exits", "exits-text")
_BUNDLES = (
    *("no-json", "no-policy", "no-tables", "json-garbage", "json-empty", "json-list", "json-null", "json-number"),
    *("policy-garbage", "policy-half", "policy-flipped", "tables-garbage", "tables-half", "tables-flipped", "version"),
    *("version-text", "schema", "name", "tokens", "infinite", "unknown"),
)
_GRAPHS = ("empty", "garbage", "half", "flipped", "headless", "endless-header", "text", "json", "model")


_PROMPTS = (
    *("two-prompts.txt", "blank.txt", "latin1.txt", "same.txt", "json.txt"),
    *(f"{name}.jsonl" for name in bad_files.JSON_LINES),
)


_LINKS = (
    *("{f}/empty", "{f}/file", "{f}/two-prompts.txt", "{f}/latin1.txt", *(f"{{f}}/{n}" for n in bad_files.RAW)),
    *(f"{{f}}/links-{name}" for name in bad_files.LINKS),
)


def _profiles(kind: str) -> tuple[str, ...]:
    made = tuple(f"{{f}}/{kind}-{name}.json" for name in bad_files.PROFILES)
    return (*_PATHS, "{f}/folder", *(f"{{f}}/{name}" for name in bad_files.RAW), *made)


_WORKLOADS = (*_PATHS, "{f}/folder", "{f}/file", "{f}/some.jsonl", *(f"{{f}}/{name}" for name in bad_files.RAW))


BAD_INPUTS = {
    "workload": _WORKLOADS,
    "figures": (*_PATHS, "{f}/file", "{f}/folder"),
    "settings": (*_PATHS, "{f}/folder", *(f"{{f}}/{name}" for name in bad_files.RAW)),
    "part": (*_PATHS, "{f}/folder", "{f}/file", "{f}/empty"),
    "path": (*_PATHS, *_NO_FOLDER),
    "model": (*_PATHS, *_NO_FOLDER, *(f"{{f}}/model-{name}" for name in _MODELS)),
    "split model": (*_PATHS, *_NO_FOLDER, *(f"{{f}}/model-{name}" for name in _MODELS if name != "no-tokenizer")),
    "pair": (
        *_PATHS,
        *_NO_FOLDER,
        *(f"{{f}}/pair-{n}" for n in ("no-config", "config-garbage", "weights-half", "tokenizer-null")),
    ),
    "exits": tuple(f"{{f}}/model-{name}" for name in _EXITS),
    "phone": _profiles("phone"),
    "gpu": _profiles("gpu"),
    "graphs": (*_PATHS, "{f}/folder", *(f"{{f}}/graphs-{name}/test.safetensors" for name in _GRAPHS)),
    "graph folder": (*_PATHS, "{f}/file", "{f}/folder", *(f"{{f}}/graphs-{name}" for name in _GRAPHS)),
    "bundle": (*_PATHS, "{f}/file", "{f}/folder", *(f"{{f}}/bundle-{name}" for name in _BUNDLES)),
    "run": (
        *(*_PATHS, "{f}/folder", "{f}/empty", "{f}/file", "{f}/garbage.json"),
        *(f"{{f}}/run-{n}" for n in ("none-whole", "twice", "version", "system", "event", "step", "blank", "garbage")),
    ),
    "prompts": (*_PATHS, "{f}/folder", "{f}/empty", *(f"{{f}}/{n}" for n in _PROMPTS)),
    "lines": (*_PATHS, "{f}/folder", *(f"{{f}}/{n}" for n in _PROMPTS if n[:4] not in ("two-", "same", "blan"))),
    "lens": (*_PATHS, "{f}/folder", "{f}/empty", "{f}/file", "{f}/graphs-half/test.safetensors"),
    "links": (*_PATHS, "{f}/folder", *_LINKS),
    "link files": _LINKS,
    "rule": (*(f"{{f}}/{name}" for name in bad_files.RAW), "{f}/missing.json", "{f}/phone-list.json", "{f}/no.json/below.json"),
    "token": (*_PATHS, "{f}/folder", "{f}/empty", "{f}/file"),
    "pem": (*_PATHS, "{f}/folder", "{f}/empty", "{f}/file", "{f}/garbage.json"),
}
_TINY = ("--slm", "{slm}", "--llm", "{llm}")
_HAT = ("--system", "hat")
_DEVICE = (*_HAT, "--model", "{hat}", "--adapter", "{adapter}")
INPUTS = [
    ("record", ("--slm",), "model"),
    ("record", ("--slm",), "exits"),
    ("record", ("--slm", "{slm}", "--llm"), "model"),
    ("record", (*_TINY, "--prompts"), "prompts"),
    ("record", (*_TINY, "--lens"), "lens"),
    ("measure-profiles", ("--slm",), "path"),
    ("measure-profiles", ("--slm", "{slm}", "--repetitions", "1", "--llm"), "path"),
    ("measure-profiles", ("--energy-from",), "phone"),
    ("measure-profiles", ("--published",), "figures"),
    ("privacy", ("--model",), "model"),
    ("record", (*_HAT, "--per-kind", "1", "--adapter", "{adapter}", "--model"), "split model"),
    ("record", (*_HAT, "--model", "{hat}", "--adapter"), "path"),
    ("record", (*_HAT, "--prompts"), "prompts"),
    ("train", (*_HAT, "--graphs"), "graph folder"),
    ("train", (*_HAT, "--settings"), "settings"),
    ("evaluate", (*_HAT, "--graphs"), "graphs"),
    ("evaluate", (*_HAT, "--graphs", "{hatgraphs}", "--answers", "2", "--bundle"), "bundle"),
    ("evaluate", (*_HAT, "--graphs", "{hatgraphs}", "--controller"), "rule"),
    ("deploy", (*_HAT, "--cloud", NOBODY, "--adapter", "{adapter}", "--model"), "split model"),
    ("deploy", (*_HAT, "--cloud", NOBODY, "--model", "{hat}", "--adapter"), "path"),
    ("deploy", (*_HAT, "--cloud", NOBODY, "--model", "{hat}", "--adapter", "{adapter}", "--controller"), "bundle"),
    ("deploy", (*_HAT, "--cloud", NOBODY, "--graphs"), "graphs"),
    ("deploy", (*_HAT, "--cloud", NOBODY, "--profile"), "phone"),
    ("train-pair", ("--only-measure", "--test-prompts", "1", "--out"), "pair"),
    ("train-pair", ("--graphs",), "graph folder"),
    ("train-adapter", ("--model",), "model"),
    ("train-adapter", ("--texts",), "prompts"),
    ("train-adapter", ("--only-measure", "--out"), "path"),
    ("train", ("--graphs",), "graph folder"),
    ("train", ("--device-profile",), "phone"),
    ("train", ("--cloud-profile",), "gpu"),
    ("train", ("--workload",), "workload"),
    ("train", ("--settings",), "settings"),
    ("train", ("--bounds",), "figures"),
    ("bounds", ("--graphs",), "graph folder"),
    ("bounds", ("--device-profile",), "phone"),
    ("bounds", ("--cloud-profile",), "gpu"),
    ("bounds", ("--links",), "links"),
    ("tune", ("--settings",), "settings"),
    ("sweep", ("--settings",), "settings"),
    ("sweep", ("--graphs",), "graph folder"),
    ("train", ("--resume",), "part"),
    ("train", ("--agent", "ppo", "--set", "actions=choices", "--begin-from"), "part"),
    ("train", ("--grow", "no", "--imitate"), "rule"),
    ("tune", ("--graphs",), "graph folder"),
    ("evaluate", ("--graphs",), "graphs"),
    ("evaluate", ("--graphs", "{graphs}", "--workload"), "workload"),
    ("evaluate", ("--graphs", "{graphs}", "--scenarios"), "figures"),
    ("evaluate", ("--graphs", "{graphs}", "--scenarios", "quick", "--bounds"), "figures"),
    ("evaluate", ("--graphs", "{graphs}", "--device-profile"), "phone"),
    ("evaluate", ("--graphs", "{graphs}", "--cloud-profile"), "gpu"),
    ("evaluate", ("--graphs", "{graphs}", "--answers", "6", "--bundle"), "bundle"),
    ("evaluate", ("--graphs", "{graphs}", "--grow", "yes", "--llm", "{llm}", "--slm"), "path"),
    ("evaluate", ("--graphs", "{graphs}", "--grow", "yes", "--slm", "{slm}", "--llm"), "path"),
    ("evaluate", ("--graphs", "{graphs}", "--controller"), "rule"),
    ("fit-rules", ("--graphs",), "graph folder"),
    ("fit-rules", ("--device-profile",), "phone"),
    ("fit-rules", ("--cloud-profile",), "gpu"),
    ("fit-rules", ("--links",), "links"),
    ("loadtest", ("--graphs",), "graphs"),
    ("loadtest", ("--workload",), "workload"),
    ("loadtest", ("--think",), "phone"),
    ("loadtest", ("--pace",), "gpu"),
    ("loadtest", ("--cloud", NOBODY, "--tls-ca"), "pem"),
    ("validate-load", ("--workload",), "workload"),
    ("validate-load", ("--pace",), "gpu"),
    ("validate-replay", ("--answers", "1", "--bundle"), "bundle"),
    ("validate-replay", (*_HAT, "--answers", "1", "--bundle"), "bundle"),
    ("serve", ("--port", "0", "--model"), "model"),
    ("serve", ("--port", "0", "--pace"), "gpu"),
    ("serve", ("--port", "0", "--tls-key", "{f}/file", "--tls-cert"), "pem"),
    ("serve", ("--port", "0", "--tls-cert", "{f}/file", "--tls-key"), "pem"),
    ("serve", ("--port", "0", "--tls-cert", "{certs}/server.pem", "--tls-key", "{certs}/server-key.pem", "--tls-ca"), "pem"),
    ("serve", ("--port", "0", "--tokens"), "pem"),
    ("serve", ("--port", "0", "--sketch"), "settings"),
    ("deploy", ("--cloud", NOBODY, "--slm"), "model"),
    ("deploy", ("--cloud", NOBODY, "--profile"), "phone"),
    ("deploy", ("--cloud", NOBODY, "--slm", "{slm}", "--controller"), "bundle"),
    ("deploy", ("--cloud", NOBODY, "--slm", "{slm}", "--controller"), "rule"),
    ("deploy", ("--cloud", NOBODY, "--tls-ca"), "pem"),
    ("deploy", ("--cloud", NOBODY, "--token-file"), "token"),
    ("deploy", ("--cloud", NOBODY, "--slm", "{slm}", "--graphs"), "graphs"),
    ("deploy", ("--cloud", NOBODY, "--slm", "{slm}", "--prompts"), "lines"),
    ("inspect-run", (), "run"),
    ("inspect-trace", (), "graphs"),
    ("inspect-trace", (), "link files"),
    ("train", ("--links",), "links"),
    ("evaluate", ("--graphs", "{graphs}", "--links"), "links"),
    ("validate-replay", ("--answers", "1", "--links"), "links"),
    ("deploy", ("--cloud", NOBODY, "--links"), "links"),
    ("demo", ("--links",), "links"),
    ("inspect-trace", ("{graphs}", "--coverage", "--answers", "6", "--bundle"), "bundle"),
    ("bench", ("device", "--repetitions", "1", "--pair"), "path"),
    ("bench", ("cloud", "--repetitions", "1", "--pair"), "pair"),
    ("bench", ("env", "--repetitions", "1", "--pair"), "pair"),
    ("bench", ("precision", "--repetitions", "1", "--pair"), "pair"),
    ("bench", ("exits", "--repetitions", "1", "--pair"), "path"),
]
BAD_OUTPUTS = {
    "file": ("{f}/folder", "{f}/device", f"{{f}}/{LONG}", "{f}/file/below", f"{{f}}/new/{LONG}", "{f}/loop", "/proc/nowhere/x"),
    "picture": (f"{{f}}/{LONG}.png", "{f}/file/below.png", "{f}/x.docx", "{f}/folder", "x", "/proc/nowhere/x.png"),
    "folder": ("{f}/file", "{f}/device", f"{{f}}/{LONG}", "{f}/file/below", f"{{f}}/new/{LONG}", "{f}/loop", "/proc/nowhere/x"),
}
_GRAPH = ("--graphs", "{graphs}", "--answers", "6")
OUTPUTS = [
    ("evaluate", (*_GRAPH, "--json"), "file"),
    ("evaluate", (*_GRAPH, "--picture"), "picture"),
    ("evaluate", (*_GRAPH, "--report"), "folder"),
    ("inspect-trace", ("{graphs}", "--json"), "file"),
    ("inspect-trace", ("{graphs}", "--prompt", "1", "--picture"), "picture"),
    ("inspect-trace", ("{links}", "--json"), "file"),
    ("inspect-trace", ("{links}", "--picture"), "picture"),
    ("inspect-trace", ("{f}/workload.csv", "--json"), "file"),
    ("inspect-trace", ("{f}/workload.csv", "--picture"), "picture"),
    ("loadtest", ("--json",), "file"),
    ("loadtest", ("--sweep", "1", "--picture"), "picture"),
    ("validate-load", ("--seconds", "1", "--json"), "file"),
    ("reproduce", ("hat", "--seeds", "1", "--answers", "1", "--json"), "file"),
    ("reproduce", ("hat", "--seeds", "1", "--answers", "1", "--picture"), "picture"),
    ("bench", ("precision", "--repetitions", "1", "--json"), "file"),
    ("record", (*_TINY, "--per-kind", "1", "--max-new-tokens", "2", "--out"), "folder"),
    ("measure-profiles", (*_TINY, "--repetitions", "1", "--out"), "folder"),
    ("train-pair", ("--slm-steps", "1", "--llm-steps", "1", "--out"), "folder"),
    ("train-adapter", ("--steps", "1", "--out"), "folder"),
    ("validate-replay", ("--answers", "1", "--out"), "folder"),
    ("demo", ("--train-per-kind", "1", "--test-per-kind", "1", "--steps", "1", "--out"), "folder"),
    ("deploy", ("--cloud", NOBODY, "--log"), "folder"),
    ("fit-rules", ("--out",), "folder"),
    ("bounds", ("--out",), "file"),
    ("make-certs", ("--out",), "folder"),
    ("privacy", ("--json",), "file"),
    ("privacy", ("--picture",), "picture"),
]
_ADDRESSES = (
    *("", "host", ":1", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:0", "127.0.0.1:-1", "127.0.0.1:99999", "::1:5"),
    *(
        "127.0.0.1:65536",
        "127.0.0.1:+1",
        "127.0.0.1:1_0",
        "127.0.0.1:٣",
        "http://x:1",
        "https://127.0.0.1:1",
        "[::1]",
        "[::1:5",
    ),
    *("example.com:443", "10.0.0.1:50051", "0.0.0.0:1", "[::]:1", "user@127.0.0.1:1", "a b:1", "127.0.0.1:1/x", "unix:/tmp/x"),
    *(
        "dns:///x:1",
        "1:2:3:4",
        "127.0.0.1:1,",
        ",127.0.0.1:1",
        "127.0.0.1:1,127.0.0.1:1",
        "127.0.0.1:1;127.0.0.1:2",
        f"{LONG}:1",
        f"{ESCAPES}:1",
        "localhost",
        "ipv4:127.0.0.1:1",
    ),
)
_HOSTS = ("", "not a host", "256.1.1.1", "0.0.0.0", "::", "example.com", "127.0.0.1:1", "http://127.0.0.1", LONG, ESCAPES)
_FITS = ("--cloud", NOBODY, "--slm", "{slm}", "--controller", "{bundle}")
OTHERS = [
    *[Case("loadtest", ("--cloud", address)) for address in _ADDRESSES[1:]],
    Case("loadtest", ("--cloud", NOBODY), "no verifier answers"),
    Case("loadtest", ("--model", "{f}/missing"), "ended before it was ready"),
    Case("loadtest", ("--prefill-share", "0.5"), "--streams"),
    Case("loadtest", ("--cloud", NOBODY, "--pace", "x.json"), "leave them out"),
    Case("loadtest", ("--cloud", NOBODY, "--calibrate"), "leave out --cloud"),
    Case("loadtest", ("--json", "x.png", "--picture", "x.png"), "a file of its own"),
    *[
        Case("loadtest", ("--hostile", "all", "--cloud", cloud), "must be of this machine's loopback")
        for cloud in ("192.0.2.1:50051", "[2001:db8::1]:50051", "cloud.example:443", "127.0.0.1:1,192.0.2.1:1")
    ],
    Case("loadtest", ("--hostile", "all", "--cloud", NOBODY, "--tls-ca", "x.pem"), "leave out --tls-ca"),
    *[Case("loadtest", ("--hostile", "all", *more), "one load") for more in (("--sweep", "1,2"), ("--calibrate",))],
    Case("reproduce", (), "paper"),
    Case("reproduce", ("synera",), "hat"),
    Case("reproduce", ("hat", "--rows"), "rows"),
    Case("reproduce", ("hat", "--rows", "both", "both"), "each once"),
    Case("reproduce", ("hat", "--rate", "3", "--devices", "2"), "leave out one"),
    Case("reproduce", ("hat", "--json", "x.png", "--picture", "x.png"), "a file of its own"),
    *[Case("deploy", ("--cloud", address)) for address in _ADDRESSES],
    *[
        Case("deploy", ("--cloud", NOBODY, "--prompt", *texts), "prompt")
        for texts in ((" ",), ("",), ("fits", "\n"), ("\udcff",))
    ],
    *[Case("deploy", ("--cloud", NOBODY, "--controller", name)) for name in ("nope", "", "thresold", LONG, ESCAPES, "never/")],
    *[
        Case("deploy", ("--cloud", NOBODY, "--controller", name), name.split("=")[0])
        for name in ("margin=", "margin=2", "nope=1", "staged=2", "rejection=x", "until-unsure=nan", "ucbspec=1", "linucb=")
    ],
    *[
        Case("deploy", ("--cloud", NOBODY, "--controller", name), says)
        for name, says in (
            ("nowhere_at_all:Mine", "cannot be imported"),
            ("os:Nothing", "has no class Nothing"),
            ("os:getcwd", "cannot be made of a schema"),
            ("builtins:id", "has no predict"),
        )
    ],
    Case("evaluate", ("--graphs", "{graphs}", "--controller", "os:Nothing"), "has no class Nothing"),
    Case("evaluate", ("--graphs", "{graphs}", "--controller", "nope"), "no controller 'nope'"),
    Case("evaluate", ("--graphs", "{graphs}", "--controller", "{bundle}"), "name a bundle with --bundle"),
    Case("evaluate", ("--graphs", "{graphs}", "--ablation", "--controller", "staged"), "--controller"),
    Case("fit-rules", ("--rules",)),
    Case("privacy", ("--depths", "8"), "depths=8"),
    Case("privacy", ("--depths", "1", "1"), "names one twice"),
    Case("privacy", ("--precisions",)),
    Case("privacy", ("--json", "x.png", "--picture", "x.png"), "a file of its own"),
    Case("bounds", ("--workload", "{f}/workload.csv"), "--workload"),
    Case("bounds", ("--grow", "no", "--scenarios", "nope"), "no scenarios 'nope'"),
    Case("fit-rules", ("--fill.rtt-ms", "20"), "--links"),
    Case("deploy", ("--cloud", NOBODY, "--slm", "{slm}", "--controller", "importance=0.5"), "without the tables"),
    Case("deploy", ("--cloud", NOBODY, "--log", "{f}"), "holds files"),
    Case("deploy", ("--cloud", NOBODY, "--log", "{f}/run-twice"), "holds a live run"),
    Case("deploy", ("--cloud", NOBODY, "--log-prompts"), "--log FOLDER"),
    Case("inspect-run", (), "no run is named"),
    Case("inspect-run", ("{f}/run-twice", "{f}/run-blank", "--answer", "1"), "answer=1 is of one run"),
    Case("inspect-run", ("{f}/run-none-whole", "--answer", "2"), "no answer 2"),
    Case("inspect-trace", (), ""),
    Case("inspect-trace", ("{graphs}", "--prompt", "7"), "no prompt 7"),
    Case("inspect-trace", ("{graphs}", "--bundle", "{bundle}"), "add --coverage"),
    Case("inspect-trace", ("{graphs}", "--json", "{graphs}"), "a file of its own"),
    Case("inspect-trace", ("{graphs}", "--picture", "x.png"), "name that with --prompt"),
    Case("inspect-trace", ("{links}", "--coverage"), "of a graph file"),
    *[Case(name, ("--fill.rtt-ms", "20"), "--links") for name in ("train", "evaluate", "validate-replay", "deploy", "demo")],
    Case("deploy", ("--links", "{links}", "--no-emulate-link"), "--no-emulate-link"),
    Case("evaluate", ("--links", "{f}/links-parts"), "no test"),
    Case("train", ("--links", "{f}/links-short"), "too few to be cut"),
    Case("inspect-trace", ("{f}/workload-row.csv",), "line 3"),
    Case("inspect-trace", ("{f}/workload.csv", "--prompt", "1"), "of a graph file"),
    Case("inspect-trace", ("{f}/workload.csv", "--coverage"), "of a graph file"),
    Case("inspect-trace", ("{f}/workload.csv", "--fill.rtt-ms", "20"), "no link traces"),
    Case("inspect-trace", ("{f}/workload.csv", "--json", "x.png", "--picture", "x.png"), "a file of its own"),
    Case("deploy", ("--cloud", NOBODY, "--controller", "always", "--max-new-tokens", "100000"), "context"),
    Case("deploy", ("--cloud", NOBODY, "--controller", "{bundle}"), "was trained with the slm"),
    Case("deploy", (*_FITS, "--preference.cost", "500"), "cost=500"),
    Case("deploy", (*_FITS, "--preference.quality", "0"), "quality=0"),
    Case("evaluate", ("--graphs", "{graphs}", "--grow", "yes"), "name its folder with --slm"),
    Case("evaluate", ("--graphs", "{graphs}", "--grow", "yes", "--slm", "{llm}", "--llm", "{slm}"), "recorded with the SLM"),
    Case("evaluate", ("--bundle", "{bundle}"), "was trained with the slm"),
    Case("validate-replay", ("--bundle", "{bundle}"), "was trained with the slm"),
    Case("validate-replay", ("--devices", "2", "2"), "names a number twice"),
    Case("validate-replay", (*_HAT, "--bundle", "{bundle}"), "of synera, it would act in"),
    Case("evaluate", ("--graphs", "{graphs}", "--json", "{graphs}"), "files of their own"),
    Case("evaluate", ("--graphs", "{graphs}", "--json", "x.png", "--picture", "x.png"), "files of their own"),
    Case("evaluate", ("--graphs", "{graphs}", "--search"), "train.safetensors"),
    Case("evaluate", ("--graphs", "{graphs}", "--ablation"), "train.safetensors"),
    Case("evaluate", ("--graphs", "{graphs}", "--scenarios", "quick", "--search"), "train.safetensors"),
    Case("evaluate", ("--graphs", "{graphs}", "--scenarios", "x.png", "--json", "x.json"), "--json"),
    Case("evaluate", ("--graphs", "{graphs}", "--bounds", "x.json"), "--scenarios"),
    Case("evaluate", ("--graphs", "{graphs}", "--ablation", "--search"), "--search"),
    Case("evaluate", ("--graphs", "{graphs}", "--live", "257"), "live=257"),
    Case("evaluate", ("--graphs", "{graphs}", "--live", "1", "--ablation"), "or --live"),
    Case("evaluate", ("--graphs", "{graphs}", "--live", "1", "--workload", "{f}/workload.csv"), "or --live"),
    Case("evaluate", ("--graphs", "{graphs}", "--break-link"), "--live"),
    Case("evaluate", ("--graphs", "{graphs}", "--live", "1"), "name its folder with --slm"),
    Case("evaluate", ("--graphs", "{graphs}", "--live", "1", "--slm", "{llm}", "--llm", "{slm}"), "recorded with the SLM"),
    Case("evaluate", ("--graphs", "{graphs}", "--ablation", "--workload", "{f}/workload.csv"), "--workload"),
    Case("evaluate", ("--graphs", "{graphs}", "--workload", "x.csv", "--json", "x.csv"), "files of their own"),
    Case("evaluate", ("--graphs", "{graphs}", "--ablation", "--bundle", "{bundle}"), "--bundle"),
    *[Case("serve", ("--port", "0", "--host", host)) for host in _HOSTS],
    *[Case("serve", ("--port", port)) for port in ("99999", "65536")],
    Case("serve", ("--port", "{taken}"), "{taken}"),
    Case("deploy", ("--cloud", NOBODY, "--tls-cert", "{f}/file"), "needs its key"),
    Case("deploy", ("--cloud", NOBODY, "--tls-cert", "{f}/file", "--tls-key", "{f}/file"), "give tls_ca"),
    Case("serve", ("--port", "0", "--tls-cert", "{f}/file"), "TLS needs both"),
    Case("serve", ("--port", "0", "--tls-key", "{f}/file"), "TLS needs both"),
    Case("serve", ("--port", "0", "--tls-ca", "{certs}/ca.pem"), "needs TLS"),
    Case("serve", ("--port", "0", "--split", "2", "--sketch", "instruct"), "leave the split out"),
    Case("make-certs", ("--out", "{certs}", "--server", "localhost"), "server.pem' is there already"),
    *[Case("make-certs", ("--clients", name)) for name in ("", "a b", "../x", "a/b", ".", "-x", "ä", LONG, ESCAPES)],
    *[Case("make-certs", ("--tokens", name)) for name in ("", "a#b", "../x", LONG, ESCAPES)],
    *[Case("make-certs", ("--server", name)) for name in ("", "a b", "host:1", "a/b", "ä.de", LONG, ESCAPES)],
    Case("record", (*_TINY, "--prompts", "{f}/long-prompt.txt"), "tokens"),
    Case("record", (*_TINY, "--per-kind", "1", "--max-new-tokens", "300")),
    Case("record", ("--slm", "{slm}", "--out", "{f}/new", "--prompts", "{f}/same.txt"), "distinct prompts"),
    Case("record", ("--splits",)),
    Case("record", (*_TINY, "--prompts", "{f}/some.jsonl", "--score", "exact-match"), "no reference is given for 'two'"),
    Case("record", (*_TINY, "--prompts", "{f}/some.jsonl", "--score", "nowhere:score"), "nowhere cannot be imported"),
    Case("record", (*_TINY, "--prompts", "{f}/some.jsonl", "--score", "os:nothing"), "os has no function nothing"),
    Case("record", (*_TINY, "--prompts", "{f}/some.jsonl", "--chat"), "no chat template"),
    Case("record", (*_TINY, "--prompts", "{f}/some.jsonl", "--chat", "--no-bos"), "--no-bos"),
    Case("record", (*_TINY, "--system-message", "Be brief."), "--chat"),
    Case("record", (*_TINY, "--thinking"), "--chat"),
    Case("record", (*_TINY, "--score", "token-f1"), "--prompts FILE"),
    Case(
        "record",
        (*_TINY, "--prompts", "{f}/some.jsonl", "--node-budget", "1000000000"),
        "lower --max-new-tokens or --node-budget",
    ),
    Case("deploy", ("--cloud", NOBODY, "--prompts", "{f}/some.jsonl", "--prompt", "fits"), "prompt and prompts"),
    Case("train", ("--graphs", "runs/x", "--name", "x"), "would replace the graphs"),
    Case("train", ("--name",)),
    Case("train-adapter", ("--resume",), "no checkpoint"),
    Case("train-adapter", ("--resume", "--only-measure"), "leave out --resume"),
    Case("check-link", ("--links",)),
    Case("check-link", ("--links", "20/1/1", "20/1"), "RTT/UP/DOWN"),
    Case("demo", ("--train-per-kind", "1001"), "train_per_kind"),
    Case("train", ("--agent", "counterfactual", "--envs", "2"), "envs=2"),
    Case("train", ("--agent", "counterfactual", "--workload", "{f}/workload.csv"), "--workload"),
    Case("train", ("--agent", "counterfactual", "--imitate", "always"), "by itself"),
    Case("train", ("--agent", "dqn", "--imitate", "always"), "dqn has no network"),
    Case("sweep", ("--agent",)),
    Case("sweep", ("--agent", "ppo", "ppo"), "each once"),
    Case("sweep", ("--agent", "ppo", "a2c", "--settings", "x.yaml"), "of one agent"),
    Case("sweep", ("--agent", "dqn", "--grow", "no", "--imitate", "always"), "dqn has no network"),
    Case("sweep", ("--fill.rtt-ms", "20"), "--links"),
    Case("train", ("--imitate", "always", "--begin-from", "runs/x"), "not from both"),
    Case("train", ("--grow", "no", "--against", "nope"), "no controller 'nope'"),
    *[Case(name, (*_HAT, "--graphs", "{graphs}")) for name in ("evaluate", "deploy")],
    Case("evaluate", ("--graphs", "{hatgraphs}"), "holds no token graphs of this kind; record some with: synera record"),
    Case("evaluate", (*_HAT, "--graphs", "{hatgraphs}", "--bundle", "{bundle}")),
    Case("evaluate", (*_HAT, "--graphs", "{hatgraphs}", "--controller", "linucb"), "the system hat has no never"),
    Case("evaluate", (*_HAT, "--graphs", "{hatgraphs}", "--first-token-weight", "-1"), "first_token_weight=-1"),
    Case("evaluate", (*_HAT, "--graphs", "{hatgraphs}", "--max-offload", "0.5"), "--max-offload is of --system synera"),
    Case("evaluate", (*_HAT, "--ablation"), "--ablation is of --system synera"),
    Case("evaluate", (*_HAT, "--live", "2"), "--live is of --system synera"),
    Case("train", (*_HAT, "--agent", "counterfactual"), "counterfactual training tries each chunk"),
    Case("sweep", (*_HAT, "--agent", "counterfactual"), "counterfactual training tries each chunk"),
    Case("train", (*_HAT, "--grow", "no"), "--grow is of --system synera"),
    Case("train", ("--first-token-weight", "2"), "--first-token-weight is of --system hat"),
    Case("bounds", _HAT, "bounds are of chunks"),
    Case("record", (*_HAT, *_TINY), "--slm is of --system synera"),
    Case("record", ("--adapter", "{adapter}"), "--adapter is of --system hat"),
    Case(
        "record",
        (*_HAT, "--model", "{hat}", "--adapter", "{adapter}", "--prompts", "{f}/some.jsonl", "--chat"),
        "no chat template",
    ),
    Case("deploy", (*_HAT, "--cloud", NOBODY, "--slm", "{slm}"), "--slm is of --system synera"),
    Case("deploy", ("--cloud", NOBODY, "--model", "{hat}"), "--model is of --system hat"),
    Case("deploy", ("--cloud", NOBODY, "--first-token-weight", "2"), "--first-token-weight is of --system hat"),
    Case("deploy", (*_DEVICE, "--cloud", NOBODY, "--first-token-weight", "1001"), "first_token_weight=1001"),
    Case("deploy", (*_DEVICE, "--cloud", NOBODY), "a device without the middle layers cannot answer alone"),
    Case("deploy", (*_DEVICE, "--cloud", f"{NOBODY},127.0.0.1:2"), "stands for 2 servers"),
    Case("deploy", (*_DEVICE, "--cloud", NOBODY, "--controller", "margin=0.5"), "shows no margin"),
    Case("deploy", (*_DEVICE, "--cloud", NOBODY, "--max-new-tokens", "100000"), "context"),
    Case("deploy", (*_HAT, "--cloud", NOBODY, "--model", "{llm}", "--adapter", "{adapter}"), "adapter"),
    Case("inspect-trace", ("{hatgraphs}", "--coverage"), "always whole"),
    Case("inspect-trace", ("{hatgraphs}", "--prompt", "99"), "no prompt 99"),
]


# ---------------------------------------------------------------- running them


@dataclass(frozen=True)
class Places:
    """What the placeholders stand for."""

    f: Path
    slm: Path
    llm: Path
    bundle: Path
    graphs: Path
    links: Path
    certs: Path
    hat: Path
    """A model, split after its first layer."""
    adapter: Path
    hatgraphs: Path
    taken: int

    def fill(self, text: str) -> str:
        """Put them in."""
        for name, value in vars(self).items():
            text = text.replace(f"{{{name}}}", str(value))
        return text


@pytest.fixture(scope="module")
def places(tiny_llm: Path, tiny_deep: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    folder = tmp_path_factory.mktemp("bad")
    good = tmp_path_factory.mktemp("good")
    pair, bundle = recorded(tiny_llm), trained(tiny_llm) / "bundle"
    pair.graphs.save(good / "test.safetensors")
    recorded_hat(tiny_deep).save(good / "hat" / "test.safetensors")
    (good / "links.csv").write_text("time,rtt_ms\n0,20\n1,20\n2,20\n")
    authority = TestAuthority.make(good / "certs")
    (authority.folder / "ca-key.pem").write_bytes(authority.authority.pair.key)
    authority.server()
    bad_files.make(folder, pair.slm, pair.llm, bundle, good / "test.safetensors")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        hat = tiny_deep, split_world(tiny_deep).adapter, good / "hat" / "test.safetensors"
        found = good / "test.safetensors", good / "links.csv", authority.folder, *hat
        yield Places(folder, pair.slm, pair.llm, bundle, *found, taken.getsockname()[1])


def snapshot(*folders: Path) -> dict[str, tuple[int, int]]:
    """All that lies in folders; of files size and time of the last change."""
    found = {}
    for folder in folders:
        for above, names, files in os.walk(folder):
            for name in (".", *names, *files):
                path = os.path.join(above, name)
                state = os.lstat(path)
                found[path] = (0, 0) if stat.S_ISDIR(state.st_mode) else (state.st_size, state.st_mtime_ns)
    return found


@pytest.fixture
def never_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """End a server that begins to listen; it should have been refused. The log of this process stays as it is, and no other begins."""
    from cloud import log, process, server
    from cloud.engine.registry import load_here

    real: Callable[..., None] = process.serve

    def listens(*_: object) -> None:
        raise AssertionError("it began to serve")

    monkeypatch.setattr(log, "configure", lambda level, form: None)
    monkeypatch.setattr(server, "load_engine", load_here)
    monkeypatch.setattr(process, "serve", lambda config, announce: real(config, listens))


CASES = {str(case): case for case in cases()}


def test_there_are_enough_of_them() -> None:
    assert len(CASES) == len(list(cases())), "two cases are the same"
    assert len(CASES) >= 300
    assert {case.command for case in CASES.values()} >= set(command.commands())


@pytest.mark.timeout(60, func_only=True)
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_bad_input_is_one_line_and_changes_nothing(
    case: Case,
    places: Places,
    tmp_path: Path,
    never_serves: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "keep.txt").write_text("a user's own")
    words = [places.fill(word) for word in case.words]
    before = snapshot(tmp_path, places.f, places.graphs.parent)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["synera", case.command, *words])
    with pytest.raises(SystemExit) as left:
        command.main()
    check(left.value.code, capsys.readouterr().err, places.fill(case.names))
    assert snapshot(tmp_path, places.f, places.graphs.parent) == before


def check(code: object, said: str, names: str) -> None:
    """What a user must see: `error: ...` on one line, or the parser's box."""
    assert code == 2, said
    assert "Traceback" not in said
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", said), "it acts on the terminal"
    lines = said.splitlines()
    if "For full helptext" not in said:  # the parser's own
        assert len(lines) == 1, said
        assert lines[0].startswith("error: ")
        assert names in lines[0]


@pytest.mark.parametrize(
    "words",
    [
        ("trian",),
        ("evaluate", "--graphs", "{f}/graphs-half/test.safetensors"),
        ("deploy", "--cloud", "example.com:443", "--prompt", "[INST]"),
        ("serve", "--port", "0", "--model", "{f}/model-config-list"),
    ],
    ids=lambda words: words[0],
)
def test_the_command_itself_does_the_same(words: tuple[str, ...], places: Places, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "scripts", *map(places.fill, words)]
    path = {"PYTHONPATH": str(Path(command.__file__).parents[1])}
    done = subprocess.run(line, cwd=tmp_path, env=os.environ | path, capture_output=True, text=True, timeout=120, check=False)
    check(done.returncode, done.stderr, "")
    assert not list(tmp_path.iterdir())
