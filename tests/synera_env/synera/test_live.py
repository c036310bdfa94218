"""The live environment's own: its arguments, a quality that nobody can tell, and what it says of itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.device import Device
from runtime.errors import CheckpointError, CloudUnavailableError, SettingError, SyneraError
from runtime.model.loading import fingerprint
from synera_env.metrics import summarise
from synera_env.radio import Outages
from synera_env.synera.live import LivePrompt, SyneraLiveEnv, deployment_of
from synera_env.synera.schema import ALWAYS, NEVER
from tests.support.recorded import Recorded, recorded
from traces.errors import TraceError
from traces.links.generators import constant_link
from traces.links.store import save_links
from traces.profile import DeviceProfile


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.fixture(scope="module")
def device(pair: Recorded) -> Device:
    return pair.device()


@pytest.fixture(scope="module")
def cloud(tiny_llm: Path) -> Iterator[CloudClient]:
    with running_server(ServerConfig(model=tiny_llm)) as port, CloudClient(f"127.0.0.1:{port}") as client:
        yield client


@pytest.fixture
def make(cloud: CloudClient, device: Device, pair: Recorded) -> Iterator[Callable[..., SyneraLiveEnv]]:
    """Makes environments on the network as it is; closes them."""
    made: list[SyneraLiveEnv] = []

    def make(**changes: Any) -> SyneraLiveEnv:
        settings = {"cloud": cloud, "device": device, "prompts": pair.prompts, "emulate_link": False}
        made.append(SyneraLiveEnv(**(settings | changes)))
        return made[-1]

    yield make
    for env in made:
        env.close()


def finish(env: SyneraLiveEnv, knobs: Any = NEVER, seed: int = 0) -> tuple[list[float], dict[str, Any]]:
    """Answer with the same knobs throughout; return the steps' rewards and the last info."""
    env.reset(seed=seed)
    rewards, done = [], False
    while not done:
        _, reward, done, _, info = env.advance(knobs)
        rewards.append(reward)
    return rewards, info


# ---------------------------------------------------------------- quality


def test_a_quality_that_nobody_can_tell_is_unknown_and_not_nothing(make: Callable[..., SyneraLiveEnv]) -> None:
    rewards, info = finish(make(prompts=["Which town is next to Belaford?"]))
    assert info["quality_known"] is False
    assert "quality" not in info["reward_terms"]
    assert np.isfinite(rewards).all()
    assert rewards[-1] == pytest.approx(sum(info["reward_terms"].values()))
    metrics = info["episode_metrics"]
    assert math.isnan(metrics["quality"])
    assert math.isnan(metrics["reward"])
    assert math.isfinite(metrics["seconds"])


def test_a_known_quality_says_so(make: Callable[..., SyneraLiveEnv], pair: Recorded) -> None:
    _, info = finish(make(scorer=pair.score), ALWAYS)
    assert info["quality_known"] is True
    assert info["episode_metrics"]["quality"] == info["reward_terms"]["quality"] == 1.0


def test_a_summary_leaves_the_unknown_out(make: Callable[..., SyneraLiveEnv], pair: Recorded) -> None:
    unknown, known = finish(make())[1]["episode_metrics"], finish(make(scorer=pair.score))[1]["episode_metrics"]
    summary = summarise([unknown, known])
    assert (summary["quality"], summary["reward"]) == (known["quality"], known["reward"])
    assert math.isnan(summarise([unknown])["quality"])


@pytest.mark.parametrize("score", [0, 1, 0.25, True, np.float32(0.5), np.int64(1), np.bool_(True)])
def test_any_number_in_range_is_a_score(make: Callable[..., SyneraLiveEnv], score: Any) -> None:
    assert finish(make(scorer=lambda prompt, answer: score))[1]["episode_metrics"]["quality"] == float(score)


def failing(prompt: str, answer: str) -> float:
    raise ZeroDivisionError("no letters")


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        *[
            (lambda prompt, answer, bad=bad: bad, "the scorer returns .* for the answer .* must return a number in 0..1")
            for bad in (None, math.nan, math.inf, -0.1, 1.1, "1", [1.0], 1j)
        ],
        (failing, "the scorer fails on the answer .*: ZeroDivisionError: no letters"),
        (lambda prompt: 1.0, "the scorer fails on the answer .*: TypeError"),
    ],
)
def test_a_scorer_that_is_wrong_is_said_in_one_line_and_the_next_answer_begins(
    make: Callable[..., SyneraLiveEnv], scorer: Any, message: str
) -> None:
    env = make(scorer=scorer)
    for _ in range(2):
        with pytest.raises(SettingError, match=message) as raised:
            finish(env)
        assert "\n" not in str(raised.value)
        with pytest.raises(RuntimeError, match="call reset"):
            env.advance(NEVER)


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        *[({"cloud": bad}, SettingError, "cloud=.* must be the HOST:PORT of a verifier") for bad in (None, 50051, b"x", [])],
        ({"cloud": "nowhere"}, SyneraError, "nowhere"),
        *[({"device": bad}, SettingError, "device=.* must be a Device or the path of one") for bad in (3, {}, [], b"x")],
        ({"device": "no/such/folder"}, CheckpointError, "no/such/folder"),
        *[({"prompts": bad}, SettingError, "prompts=.* must be a list of texts") for bad in ("one text", 3, {"a": 1}, {"a"})],
        *[({"prompts": ["fits", bad]}, SettingError, "prompts holds .*, which is no text") for bad in (3, None, b"x", ["x"])],
        ({"prompts": []}, SettingError, "no prompts"),
        *[({"scorer": bad}, SettingError, "scorer=.* must be a function") for bad in (1.0, "score", {})],
        *[({"emulate_link": bad}, SettingError, "emulate_link=.* must be True or False") for bad in (1, "no", None)],
        ({"links": "nowhere.json"}, TraceError, "nowhere.json"),
        ({"links": []}, SettingError, "no link traces given"),
        ({"preference": {"speed": 1}}, SettingError, "preference has no field 'speed'"),
        ({"outages": 3}, SettingError, "outages=3 must be"),
        ({"render_mode": "human"}, SettingError, "render_mode='human'"),
        *[({"check_deadline": bad}, SettingError, "check_deadline=.* must be a number in 1") for bad in (0.9, 1001, True, "2")],
    ],
)
def test_what_does_not_fit_is_named_at_once(
    make: Callable[..., SyneraLiveEnv], given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(**given)


@pytest.mark.parametrize("fields", [{"text": 3}, {"text": "x", "kind": None}, {"text": b"x"}])
def test_a_prompt_is_text(fields: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="both must be strings"):
        LivePrompt(**fields)


def test_texts_are_prompts(make: Callable[..., SyneraLiveEnv], pair: Recorded) -> None:
    texts = [prompt.text for prompt in pair.prompts]
    env = make(prompts=texts, scorer=pair.score)
    _, info = env.reset(seed=0, options={"prompt": 3})
    assert (info["prompt"], info["kind"]) == (texts[3], "free")


def test_a_spec_with_paths_comes_back_from_json(cloud: CloudClient, pair: Recorded, tmp_path: Path) -> None:
    save_links([constant_link(rtt_ms=1.0, uplink_mbps=1e3, downlink_mbps=1e3)], tmp_path / "links.json")
    given = {
        "cloud": cloud.target,
        "device": str(pair.slm),
        "prompts": [prompt.text for prompt in pair.prompts],
        "links": str(tmp_path / "links.json"),
        "preference": {"latency": 0.2},
        "outages": asdict(Outages.never()),
    }
    env = gym.make("SyneraLive-v0", **given)
    assert env.spec is not None
    spec = gym.envs.registration.EnvSpec.from_json(env.spec.to_json())
    assert spec.kwargs == given
    env.close()
    again = gym.make(spec)
    try:
        observation, info = again.reset(seed=0)
        assert again.observation_space.contains(observation)
        assert info["link"] == "constant-1ms"
        assert again.unwrapped.device.slm_fingerprint == fingerprint(pair.slm)  # type: ignore[attr-defined]
    finally:
        again.close()


def test_what_is_wrong_leaves_no_channel_open(
    device: Device, pair: Recorded, cloud: CloudClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, closed = [], []
    begin, end = CloudClient.__init__, CloudClient.close
    monkeypatch.setattr(CloudClient, "__init__", lambda self, target: (opened.append(target), begin(self, target))[1])
    monkeypatch.setattr(CloudClient, "close", lambda self: (closed.append(self.target), end(self))[1])
    for wrong in ({"links": []}, {"preference": 3}, {"render_mode": "human"}, {"prompts": ["river " * 400]}):
        with pytest.raises(SyneraError):
            SyneraLiveEnv(cloud.target, device, **({"prompts": pair.prompts} | wrong))  # type: ignore[arg-type]
    with pytest.raises(CloudUnavailableError):
        SyneraLiveEnv("127.0.0.1:1", device, pair.prompts)
    assert opened == closed


# ---------------------------------------------------------------- what it says of itself


def test_both_worlds_name_the_same_models(make: Callable[..., SyneraLiveEnv], pair: Recorded, tiny_llm: Path) -> None:
    """So that a bundle trained in one is held to the models that it meets in the other."""
    live, replayed = make().deployment(), pair.env().deployment()
    assert live.fingerprints == replayed.fingerprints
    assert live.fingerprints["llm"] == fingerprint(tiny_llm)
    assert set(live.fingerprints) == {"slm", "llm", "tokenizer", "lens"}


def test_a_device_alone_names_no_cloud(device: Device) -> None:
    assert "llm" not in deployment_of(device).fingerprints
    assert deployment_of(device, "feed0000feed0000").fingerprints["llm"] == "feed0000feed0000"


def test_an_answer_is_shown_in_words(make: Callable[..., SyneraLiveEnv], device: Device) -> None:
    env = make(render_mode="ansi")
    env.reset(seed=0)
    env.advance(NEVER)
    said = device.text(env.session.records[0].committed)
    assert said
    assert repr(said) in str(env.render())


@pytest.mark.parametrize(("energy", "warned"), [(0.005, True), (0.0, False)])
def test_a_device_without_watts_is_said(
    make: Callable[..., SyneraLiveEnv], pair: Recorded, recwarn: pytest.WarningsRecorder, energy: float, warned: bool
) -> None:
    bare = DeviceProfile("bare", "made up", call_ms=1, layer_ms=1, position_ms=0, head_ms=1)
    make(device=pair.device(profile=bare), preference={"energy": energy})
    assert any("device profile 'bare' states no watts" in str(w.message) for w in recwarn) == warned


def test_the_deadline_s_factor_is_that_of_the_connection(make: Callable[..., SyneraLiveEnv]) -> None:
    env = make(check_deadline=3.5)
    try:
        assert env._connection._replicas.order[0].state.patience.check_deadline == 3.5
    finally:
        env.close()
