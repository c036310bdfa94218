"""What a user may hand an environment, and what is said at once of what does not fit."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import synera_env
from runtime.errors import SettingError, SyneraError
from synera_env.radio import Outages
from synera_env.reward import Preference
from synera_env.synera.replay import SyneraReplayEnv
from synera_env.synera.schema import synera_schema
from tests.support.graphs import CLOUD, DEVICE
from traces import bundled
from traces.errors import TraceError
from traces.links.generators import constant_link, markov_link
from traces.links.store import save_links
from traces.links.trace import LinkTrace
from traces.profile import DeviceProfile
from traces.synera.graph import GraphSet

LINKS = [constant_link(), markov_link(3, seconds=2.0)]
WEIGHTS = {"quality": 1.0, "latency": 0.2, "cost": 3.0, "energy": 0.01, "traffic": 0.5}
KNOBS = len(synera_schema(2).rows)


@pytest.fixture
def folder(tmp_path: Path, akin_graphs: GraphSet) -> Path:
    """A folder with everything that may be given by path."""
    akin_graphs.save(tmp_path / "graphs.safetensors")
    save_links(LINKS, tmp_path / "links.json")
    DEVICE.save(tmp_path / "device.json")
    CLOUD.save(tmp_path / "cloud.json")
    (tmp_path / "text.json").write_text("hello")
    return tmp_path


def link_fields(link: LinkTrace) -> dict[str, Any]:
    series = {name: getattr(link, name).tolist() for name in ("rtt_ms", "uplink_mbps", "downlink_mbps")}
    return {"name": link.name, "family": link.family, "step_seconds": link.step_seconds, **series}


def rewards(env: gym.Env[Any, Any], answers: int = 2) -> list[float]:
    """What random actions earn; two worlds that are alike give the same."""
    rng, found = np.random.default_rng(0), []
    for answer in range(answers):
        env.reset(seed=answer)
        terminated = truncated = False
        while not (terminated or truncated):
            _, reward, terminated, truncated, _ = env.step(rng.uniform(-1, 1, KNOBS).astype(np.float32))
            found.append(float(reward))
    return found


# ---------------------------------------------------------------- what is taken


@pytest.mark.parametrize("kind", [str, Path])
def test_files_mappings_and_objects_make_the_same_world(folder: Path, akin_graphs: GraphSet, kind: type) -> None:
    as_objects = SyneraReplayEnv(akin_graphs, LINKS, DEVICE, CLOUD, Preference(**WEIGHTS), Outages(6.0, 1.0))
    as_paths = SyneraReplayEnv(
        *(kind(folder / name) for name in ("graphs.safetensors", "links.json", "device.json", "cloud.json")),
        preference=WEIGHTS,
        outages={"every_seconds": 6, "mean_seconds": 1.0},
    )
    as_fields = SyneraReplayEnv(akin_graphs, [link_fields(link) for link in LINKS], asdict(DEVICE), asdict(CLOUD), WEIGHTS)
    assert (as_paths.device, as_paths.cloud, as_paths.outages) == (DEVICE, CLOUD, Outages(6.0, 1.0))
    assert (as_fields.device, as_fields.cloud) == (DEVICE, CLOUD)
    assert [(link.name, link.seconds) for link in as_fields.links] == [(link.name, link.seconds) for link in LINKS]
    for env in (as_objects, as_paths, as_fields):
        assert env.preferences.outside(Preference(**WEIGHTS)) == ""
    assert rewards(as_objects) == pytest.approx(rewards(as_paths), rel=1e-3)  # link files are rounded


def test_one_link_and_numpy_s_numbers_are_taken(akin_graphs: GraphSet) -> None:
    env = SyneraReplayEnv(akin_graphs, LINKS[1], preference={"latency": np.float32(0.5)})
    assert env.links == (LINKS[1],)
    assert env.preferences.low == Preference(latency=0.5)
    row = link_fields(LINKS[1]) | {"rtt_ms": LINKS[1].rtt_ms}
    assert SyneraReplayEnv(akin_graphs, [row]).links[0].seconds == LINKS[1].seconds


def test_a_spec_comes_back_from_json_as_the_same_world(folder: Path) -> None:
    given = {
        "graphs": str(folder / "graphs.safetensors"),
        "links": str(folder / "links.json"),
        "device": str(folder / "device.json"),
        "cloud": str(folder / "cloud.json"),
        "preference": WEIGHTS,
        "outages": asdict(Outages.never()),
    }
    env = gym.make("SyneraReplay-v0", **given)
    assert env.spec is not None
    spec = gym.envs.registration.EnvSpec.from_json(env.spec.to_json())
    assert spec.kwargs == given
    again = gym.make(spec)
    assert rewards(env) == rewards(again)
    world = again.unwrapped
    assert isinstance(world, SyneraReplayEnv)
    assert (world.device, world.outages, world.preferences.low) == (DEVICE, Outages.never(), Preference(**WEIGHTS))


# ---------------------------------------------------------------- what is not

WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    *[({"graphs": bad}, SettingError, r"graphs=.* must be a GraphSet or the path of one") for bad in (3, [], {}, b"x", DEVICE)],
    ({"graphs": "nowhere.safetensors"}, TraceError, "no graph file at nowhere.safetensors"),
    ({"graphs": ""}, TraceError, "no graph file at"),
    *[
        ({"links": bad}, SettingError, r"links=.* must be link traces, or a file or folder of them")
        for bad in (3, {}, {"name": "x"}, DEVICE)
    ],
    *[({"links": bad}, SettingError, "no link traces given; give at least one") for bad in ([], ())],
    ({"links": ["links.json"]}, SettingError, r"links\[0\]='links.json' must be a LinkTrace or a mapping"),
    ({"links": [LINKS[0], None]}, SettingError, r"links\[1\]=None must be"),
    ({"links": [{"name": "x"}]}, SettingError, r"links\[0\] is not a link trace: KeyError: 'rtt_ms'"),
    ({"links": [link_fields(LINKS[0]) | {"rtt": 3}]}, SettingError, r"links\[0\] is not a link trace: TypeError.*'rtt'"),
    ({"links": [link_fields(LINKS[0]) | {"rtt_ms": "fast"}]}, SettingError, r"links\[0\] is not a link trace"),
    ({"links": [link_fields(LINKS[0]) | {"rtt_ms": [10**400]}]}, SettingError, r"links\[0\] is not a link trace"),
    ({"links": [link_fields(LINKS[0]) | {"rtt_ms": [-1.0]}]}, TraceError, "rtt_ms"),
    ({"links": "nowhere.json"}, TraceError, "nowhere.json"),
    *[
        ({name: bad}, SettingError, f"{name}=.* must be a {kind}, a mapping of its fields or the path of one")
        for name, kind in (("device", "DeviceProfile"), ("cloud", "CloudProfile"))
        for bad in (3, [], b"x", True, LINKS[0])
    ],
    ({"device": CLOUD}, SettingError, r"device=CloudProfile.* must be a DeviceProfile"),
    ({"device": "phone"}, TraceError, "no profile at phone"),
    ({"device": asdict(DEVICE) | {"watts": 1}}, SettingError, "device has no field 'watts'; a DeviceProfile has name, source"),
    ({"device": {"name": "x"}}, SettingError, "device is not a DeviceProfile: source: Field required"),
    ({"device": asdict(DEVICE) | {"call_ms": "1"}}, SettingError, "device is not a DeviceProfile: call_ms: .*'1'"),
    ({"device": asdict(DEVICE) | {"call_ms": -1}}, SettingError, "device is not a DeviceProfile: .*call_ms"),
    ({"device": asdict(DEVICE) | {"call_ms": object}}, SettingError, "device=.* is not made of plain values"),
    (
        {"cloud": asdict(CLOUD) | {"queue_ms_quantiles": [3, 1]}},
        SettingError,
        "cloud is not a CloudProfile: .*queue_ms_quantiles",
    ),
    *[
        ({"preference": bad}, SettingError, r"preference=.* must be a Preference or a mapping of its fields")
        for bad in (0.5, "fast", [1], (1, 2, 3, 4, 5), True, Path("preference.json"))
    ],
    ({"preference": {"speed": 1.0}}, SettingError, "preference has no field 'speed'; a Preference has quality, latency, cost"),
    ({"preference": {"energy": math.nan}}, SettingError, "preference is not a Preference: .*energy=nan"),
    ({"preference": {"energy": -1.0}}, SettingError, "preference is not a Preference: .*energy=-1.0"),
    ({"preference": {"energy": None}}, SettingError, "preference is not a Preference: energy"),
    *[
        ({"outages": bad}, SettingError, "outages=.* must be an Outages or a mapping of its fields")
        for bad in (0, "never", [], False, Path("outages.json"))
    ],
    ({"outages": {"rate": 0.1}}, SettingError, "outages has no field 'rate'; an Outages has every_seconds"),
    ({"outages": {"loss_rate": 2}}, SettingError, "outages is not a Outages: .*loss_rate=2"),
]


@pytest.mark.parametrize(("given", "error", "message"), WRONG)
def test_what_does_not_fit_is_named_at_once(
    akin_graphs: GraphSet, given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        gym.make("SyneraReplay-v0", **({"graphs": akin_graphs} | given))
    assert isinstance(raised.value, SyneraError)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["graphs", "links", "device", "cloud"])
@pytest.mark.parametrize("content", ["", "hello", "[]", "{}", "\x00", json.dumps({"format": "synera-links", "version": 1})])
def test_a_file_of_something_else_is_said_to_be_one(akin_graphs: GraphSet, tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / "file").write_text(content)
    with pytest.raises(TraceError, match="file"):
        SyneraReplayEnv(**({"graphs": akin_graphs} | {name: tmp_path / "file"}))
    with pytest.raises(TraceError):
        SyneraReplayEnv(**({"graphs": akin_graphs} | {name: str(tmp_path)}))


# ---------------------------------------------------------------- energy


@pytest.mark.parametrize(
    ("preference", "warned"), [(None, True), (WEIGHTS, True), ({"energy": 0.0}, False), (Preference(energy=0.0), False)]
)
def test_a_device_without_watts_is_said_once_where_energy_is_priced(
    akin_graphs: GraphSet, recwarn: pytest.WarningsRecorder, preference: Any, warned: bool
) -> None:
    unpowered = replace(
        DeviceProfile.load(bundled.profile("phone")), name="plain", busy_watts=0.0, wait_watts=0.0, radio_joules_per_mb=0.0
    )
    SyneraReplayEnv(akin_graphs, LINKS, unpowered, preference=preference)
    said = [str(warning.message) for warning in recwarn if "watts" in str(warning.message)]
    assert len(said) == warned
    if warned:
        assert "device profile 'plain' states no watts" in said[0]
        assert "set the preference's energy to 0" in said[0]


def test_a_device_with_watts_is_not_remarked_on(akin_graphs: GraphSet, recwarn: pytest.WarningsRecorder) -> None:
    SyneraReplayEnv(akin_graphs, LINKS, DEVICE)
    assert not recwarn.list


# ---------------------------------------------------------------- what is offered


def test_what_controllers_need_is_offered() -> None:
    for name in synera_env.__all__:
        assert hasattr(synera_env, name)
    assert {"read_json", "parse_json", "EXACT", "SettingError", "PreferenceRange"} <= set(synera_env.__all__)
