"""HAT: the two sides of the split, live devices against the U shape and the cloud alone, live against replay, precisions.

What does not live here: what controllers learn (synera evaluate --system hat), the paper's own table (synera reproduce hat).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import TypeVar

import numpy as np
import torch

from agents.policy import ControllerPolicy
from agents.registry import controller
from runtime.client import CloudClient
from runtime.hat.device import HatConnection, HatDevice
from runtime.hat.medusa import MedusaHeads
from runtime.hat.values import HatRecord
from runtime.model.loading import load_decoder, load_middle
from runtime.policy import drive
from runtime.wire.sizes import PRECISIONS
from runtime.wire.tensors import quantised
from scripts._hat_act import wifi
from scripts._verifier import verifier_process
from scripts.benchmarks._cloud_only import Streamed, streamed, whole_cloud
from scripts.benchmarks.harness import Figure, Setting
from synera_env.fidelity import same_tokens
from synera_env.hat.live import load_hat_device
from synera_env.hat.replay import HatReplayEnv
from synera_env.hat.schema import hat_schema
from synera_env.radio import Outages, Radio
from traces import bundled
from traces.hat.dialogues import Dialogue, dialogues
from traces.hat.record import HatModels, HatRecorder
from traces.links.generators import constant_link
from traces.profile import CloudProfile, DeviceProfile
from traces.tasks import scorers

PLAIN_SUFFIX = ", all back"
PLAIN = f"u-shape{PLAIN_SUFFIX}"
"""The U shape as the paper's figures have it (synera reproduce hat): the states of a whole prompt come back, too."""
RULES = ("u-shape", "u-sarathi", "drafts", "hat-fixed", "hat-rule")
CLOUD_ONLY = "cloud only, whose tokens leave the device"
MEDUSA = "u-medusa"
"""Drafts of Medusa heads instead of the adapter's, by the rule `drafts`: the paper's baseline, but for a chain in place of its tree."""
_Given = TypeVar("_Given")
_DEVICES = 6
_SLOWER = 6.0
"""Everything that is emulated takes so many times as long, so that this machine's own work hardly shows; shares stay what they are."""
_THINK_SECONDS = 0.4 * _SLOWER  # between a device's answers, on the mean
_LONG_TOKENS = 300


def measure(setting: Setting) -> list[Figure]:
    """Measure the area on the bundled model and its adapter; the repetitions are answers of a device."""
    torch.set_num_threads(1)
    device = load_hat_device(paced=False)
    prompts = _long_prompts(setting.repetitions * _DEVICES)
    return [*_sides(device), *_precisions(device, prompts), *_live(setting, device, prompts)]


def _long_prompts(count: int) -> list[Dialogue]:
    """The longest dialogues of the test split; how good their answers are is not the point, they are longer than the model likes."""
    found = dialogues("test", max(18, count), most_exchanges=8, longest_tokens=_LONG_TOKENS)
    return sorted(found, key=lambda each: -each.exchanges)[:count]


# ---------------------------------------------------------------- the split


def _sides(device: HatDevice) -> Iterator[Figure]:
    """What each side holds."""
    folder = bundled.PAIR / "llm"
    whole, middle = load_decoder(folder), load_middle(folder, device.split)
    ends = device.ends.weight_bytes + device.adapter.weight_bytes
    said = f"device {ends / 1e6:.2f} MB with its adapter, cloud {middle.weight_bytes / 1e6:.2f} MB, whole {whole.weight_bytes / 1e6:.2f} MB"
    yield Figure(
        "weights of the device over those of the whole model", 100 * ends / whole.weight_bytes, "%", None, "lower", said
    )
    kept = device.ends.cached_bytes + device.adapter.cached_bytes
    said = f"device {kept} bytes a token, cloud {middle.cached_bytes}, whole {whole.cached_bytes}"
    yield Figure("cache of the device over that of the whole model", 100 * kept / whole.cached_bytes, "%", None, "lower", said)


def _precisions(device: HatDevice, prompts: Sequence[Dialogue]) -> Iterator[Figure]:
    """What each precision does to states that travel, and to answers."""
    models = HatModels.load(bundled.PAIR / "llm", bundled.ADAPTER, device.split)
    recorder = HatRecorder(models, scorers.score, "bundled", bundled.MAX_NEW_TOKENS)
    encoded = [device.encode(prompt.text) for prompt in prompts]
    own = [recorder.answer(ids, "fp32") for ids in encoded]
    for precision in PRECISIONS[1:]:
        errors = []
        for ids in encoded:
            places = torch.arange(len(ids))
            states = models.model.run(
                models.model.embed(torch.tensor(ids)), places, models.model.new_cache(), 0, device.split.first
            )
            errors.append(float((quantised(states, precision) - states).norm() / states.norm()))
        said = [recorder.answer(ids, precision) for ids in encoded]
        changed = sum(one != other for one, other in zip(own, said, strict=True))
        firsts = sum(_same(one, other) for one, other in zip(own, said, strict=True)) / sum(map(len, own))
        score = [np.mean([recorder.scored(p.question, a) for p, a in zip(prompts, each, strict=True)]) for each in (own, said)]
        peer = f"relative error of uploaded states {np.mean(errors):.2e}; {changed} of {len(own)} answers differ; score {score[1]:.3f}, in fp32 {score[0]:.3f}"
        yield Figure(f"tokens before an answer's first flip, {precision}", 100 * firsts, "%", None, "higher", peer)


def _same(one: Sequence[int], other: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))


# ---------------------------------------------------------------- live


@dataclass(frozen=True)
class _Answer:
    prompt: int
    tokens: tuple[int, ...]
    records: tuple[HatRecord, ...]

    @property
    def ttft(self) -> float:
        return next(r.committed_at for r in self.records if r.committed)

    @property
    def tbt(self) -> float:
        return (self.records[-1].committed_at - self.ttft) / max(1, len(self.tokens) - 1)


def _live(setting: Setting, device: HatDevice, prompts: Sequence[Dialogue]) -> Iterator[Figure]:
    """Devices side by side over an emulated Wi-Fi, each configuration in turn against one server."""
    paced = load_hat_device(profile=_slowed(DeviceProfile.load(bundled.profile("edge"))))
    encoded = [device.encode(prompt.text) for prompt in prompts]
    heads = replace(paced, adapter=MedusaHeads.load(bundled.MEDUSA, paced.ends, paced.model_fingerprint))
    names = (PLAIN, *RULES, MEDUSA)
    with (
        tempfile.TemporaryDirectory() as folder,
        verifier_process(
            model=bundled.PAIR / "llm",
            pace=_slow_cloud(Path(folder) / "pace.json", CloudProfile.load(bundled.profile("middle"))),
            threads=setting.threads,
            options=("--split", str(device.split)),
        ) as server,
        CloudClient(server.target) as client,
    ):
        found = {
            name: _fleet(
                HatConnection(heads if name == MEDUSA else replace(paced, returns_all=name == PLAIN), client),
                "drafts" if name == MEDUSA else name.removesuffix(PLAIN_SUFFIX),
                encoded,
                setting.repetitions,
            )
            for name in names
        }
    models = HatModels.load(bundled.PAIR / "llm", bundled.ADAPTER, device.split)
    recorder = HatRecorder(models, scorers.score, "bundled", bundled.MAX_NEW_TOKENS)
    yield from _correct(recorder, prompts, encoded, {name: found[name] for name in names if name != MEDUSA})
    of_heads = replace(recorder, models=replace(models, adapter=heads.adapter))
    yield _heads_replayed(of_heads, prompts, found[MEDUSA])
    alone = _cloud_only(setting, device, encoded)
    right = sum(list(a.tokens) == recorder.answer(encoded[a.prompt], "fp32") for a in alone)
    said = f"{right} of {len(alone)} answers"
    yield Figure("cloud-only answers that are the whole model's own", 100 * right / len(alone), "%", 100.0, "higher", said)
    others: dict[str, Sequence[_Answer | Streamed]] = {name: found[name] for name in names[1:]}
    yield from _cuts(found[PLAIN], others | {CLOUD_ONLY: alone})
    for name in ("hat-rule", MEDUSA):
        drafts = [r for a in found[name] for r in a.records if not r.prompt_rows]
        brought = sum(len(r.committed) for r in drafts) / len(drafts)
        said = "the paper's accept length: 2.06"
        yield Figure(f"tokens that an upload brings, {name}", brought, "tokens", None, "higher", said)


def _cuts(base: Sequence[_Answer], others: Mapping[str, Sequence[_Answer | Streamed]]) -> Iterator[Figure]:
    """What each configuration saves of the times of the U shape."""
    for name, answers in others.items():
        for what, goal in (("ttft", 40.0), ("tbt", 40.0)):
            ours, theirs = ([getattr(a, what) for a in each] for each in (answers, base))
            low, high = _cut_interval(ours, theirs)
            peer = f"{1e3 * np.mean(theirs):.1f} ms, ours {1e3 * np.mean(ours):.1f} ms; 95 % interval {low:.1f} to {high:.1f} %; {len(ours)} answers of {_DEVICES} devices"
            cut = 100 * (1 - np.mean(ours) / np.mean(theirs))
            wanted = goal if name == "hat-rule" else None
            yield Figure(f"{what.upper()} below that of {PLAIN}: {name}", cut, "%", wanted, "higher", peer)


def _slowed(profile: DeviceProfile) -> DeviceProfile:
    """The same device, slower."""
    times = {name: _SLOWER * getattr(profile, name) for name in ("call_ms", "layer_ms", "position_ms", "head_ms")}
    return replace(profile, name=f"{profile.name}, {_SLOWER:g} times as slow", **times)


def _cloud_only(setting: Setting, device: HatDevice, prompts: Sequence[Sequence[int]]) -> list[Streamed]:
    """The same devices, prompts and link, beside the same cloud with the whole model in it; the device computes nothing."""
    cloud, link = (
        whole_cloud(CloudProfile.load(bundled.profile("middle")), device.split.first + device.split.last),
        wifi(_SLOWER),
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        verifier_process(
            model=bundled.PAIR / "llm", pace=_slow_cloud(Path(folder) / "pace.json", cloud), threads=setting.threads
        ) as server,
        CloudClient(server.target) as client,
    ):
        return _side_by_side(
            len(prompts),
            setting.repetitions,
            lambda prompt, _: streamed(client, Radio(link), prompt, prompts[prompt], device.max_new_tokens),
        )


def _slow_cloud(path: Path, cloud: CloudProfile) -> Path:
    """Write a profile of the testbed's cloud, slower; nobody but the devices is there."""
    times = {name: _SLOWER * getattr(cloud, name) for name in ("forward_ms", "token_ms")}
    replace(cloud, queue_ms_quantiles=(0.0,), load_quantiles=(0.0,), **times).save(path)
    return path


def _cut_interval(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Of the cut in percent; answers are resampled by pairs, as both are a device's to the same prompt."""
    one, other = np.array(ours), np.array(theirs)
    drawn = np.random.default_rng(0).integers(0, len(one), (2000, len(one)))
    low, high = np.quantile(100 * (1 - one[drawn].mean(1) / other[drawn].mean(1)), (0.025, 0.975))
    return float(low), float(high)


def _fleet(connection: HatConnection, name: str, prompts: Sequence[Sequence[int]], answers: int) -> list[_Answer]:
    """Devices that answer side by side, each so many prompts with pauses between."""
    schema, link = hat_schema(), wifi(_SLOWER)

    def answer(prompt: int, seed: int) -> _Answer:
        with connection.open(Radio(link)) as session:
            for _ in drive(session, prompts[prompt], ControllerPolicy(controller(name, schema), schema), seed):
                pass
            return _Answer(prompt, session.answer, tuple(session.records))

    return _side_by_side(len(prompts), answers, answer)


def _side_by_side(prompts: int, answers: int, answer: Callable[[int, int], _Given]) -> list[_Given]:
    """Devices that each take so many prompts in turn, with pauses between; `answer` is given the prompt's and the turn's number."""
    over = Event()

    def device(number: int) -> list[_Given]:
        rng, found = np.random.default_rng(number), list[_Given]()
        for turn in range(answers):
            over.wait(float(rng.exponential(_THINK_SECONDS)))
            found.append(answer((number + turn * _DEVICES) % prompts, turn))
        return found

    with ThreadPoolExecutor(_DEVICES) as pool:
        return [given for each in pool.map(device, range(_DEVICES)) for given in each]


def _correct(
    recorder: HatRecorder, prompts: Sequence[Dialogue], encoded: Sequence[Sequence[int]], found: Mapping[str, Sequence[_Answer]]
) -> Iterator[Figure]:
    """Whether answers are the model's own, and what the replay makes of the same knobs."""
    answers = [answer for each in found.values() for answer in each]
    graphs = recorder.record(prompts, "bench")
    own = {number: graphs.graph(number, PRECISIONS.index("bf16")).token.tolist() for number in range(len(prompts))}
    right = sum(list(answer.tokens) == own[answer.prompt] for answer in answers)
    plain = sum(list(answer.tokens) == graphs.graph(answer.prompt, 0).token.tolist() for answer in answers)
    said = f"{right} of {len(answers)} answers; {plain} those of the whole model in fp32"
    yield Figure("live answers that are the split model's own, in bf16", 100 * right / len(answers), "%", 100.0, "higher", said)
    env = HatReplayEnv(graphs, [constant_link()], outages=Outages.never())
    plain = HatReplayEnv(graphs, [constant_link()], outages=Outages.never(), returns_all=True)
    checks = [same_tokens(answer.records, env, answer.prompt) for answer in answers]
    same = sum(check.identical for check in checks)
    why = next((check.first_difference for check in checks if not check.identical), "")
    said = f"{same} of {len(checks)} answers {why}"
    yield Figure("live answers whose knobs replay to the same tokens", 100 * same / len(checks), "%", 100.0, "higher", said)
    bytes_same = sum(
        _bytes(answer.records) == _replayed_bytes(plain if name == PLAIN else env, answer)
        for name, each in found.items()
        for answer in each
    )
    said = f"{bytes_same} of {len(answers)} answers"
    yield Figure(
        "live answers whose knobs replay to the same bytes", 100 * bytes_same / len(answers), "%", 100.0, "higher", said
    )


def _heads_replayed(recorder: HatRecorder, prompts: Sequence[Dialogue], answers: Sequence[_Answer]) -> Figure:
    """Of the heads' answers. No goal: what the heads read was rounded to travel, and where the last bits before that differ, so may it."""
    graphs = recorder.record(prompts, "bench")
    env = HatReplayEnv(graphs, [constant_link()], outages=Outages.never())
    half = PRECISIONS.index("bf16")
    own = sum(list(answer.tokens) == graphs.graph(answer.prompt, half).token.tolist() for answer in answers)
    same = sum(same_tokens(answer.records, env, answer.prompt).identical for answer in answers)
    said = f"{same} of {len(answers)} answers; {own} are the split model's own"
    return Figure(
        f"answers of {MEDUSA} whose knobs replay to the same tokens", 100 * same / len(answers), "%", None, "higher", said
    )


def _bytes(records: Sequence[HatRecord]) -> tuple[int, int]:
    return sum(r.cost.uplink_bytes for r in records), sum(r.cost.downlink_bytes for r in records)


def _replayed_bytes(env: HatReplayEnv, answer: _Answer) -> tuple[int, int]:
    episode = env.episode(seed=0, options={"prompt": answer.prompt, "link": 0, "link_offset_seconds": 0.0}, lost=frozenset())
    episode.session.begin(episode.prompt_tokens, env.schema.first_knobs)
    for record in answer.records:
        episode.session.advance(record.knobs)
    return _bytes(episode.session.records)
