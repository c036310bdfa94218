"""The bench of HAT: that live answers are right and its figures are of what they say, for a moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from runtime.answers import GeneratedToken
from runtime.wire.sizes import on_the_link
from scripts.benchmarks import _cloud_only, hat
from scripts.benchmarks._cloud_only import streamed, whole_cloud
from scripts.benchmarks.harness import Setting
from synera_env.radio import Radio
from traces import bundled
from traces.links.generators import constant_link
from traces.profile import CloudProfile


def test_live_devices_answer_as_the_model_does_and_replay_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_SLOWER": 0.2, "_DEVICES": 2, "_THINK_SECONDS": 0.01, "_LONG_TOKENS": 90}.items():
        monkeypatch.setattr(hat, name, value)
    monkeypatch.setattr(hat, "RULES", ("u-shape", "hat-rule"))
    found = {figure.name: figure for figure in hat.measure(Setting(bundled.PAIR, 1, 1))}
    correct = [figure for name, figure in found.items() if name.startswith("live answers")]
    assert len(correct) == 3
    assert all(figure.met for figure in correct), correct
    weights = found["weights of the device over those of the whole model"].value
    assert 20 < weights < 50
    for name in ("hat-rule", hat.MEDUSA):
        assert found[f"tokens that an upload brings, {name}"].value > 1
    assert found["cloud-only answers that are the whole model's own"].met
    for name in ("hat-rule", hat.MEDUSA, hat.CLOUD_ONLY):
        assert {each for each in found if "below that of" in each and each.endswith(name)} == {
            f"{what} below that of {hat.PLAIN}: {name}" for what in ("TTFT", "TBT")
        }


def test_a_cloud_of_the_whole_model_runs_the_devices_layers_too() -> None:
    middle = CloudProfile("middle", "for tests", 15.0, 0.3)
    whole = whole_cloud(middle, 2)
    assert (whole.forward_ms, whole.token_ms) == pytest.approx((16.0, 0.32))
    assert whole.name == "middle and the device's 2 layers"


class Decoding:
    """A cloud that needs 0.1 s for each token, on a clock that only waiting advances."""

    def __init__(self) -> None:
        self.now = 5.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def monotonic(self) -> float:
        return self.now

    def generate(self, prompt: Sequence[int], max_new_tokens: int) -> Iterator[GeneratedToken]:
        for token in range(300, 300 + max_new_tokens):
            self.now += 0.1
            yield GeneratedToken(token, 0.0, 0.1)


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> Any:
    cloud = Decoding()
    monkeypatch.setattr(_cloud_only, "time", cloud)
    return cloud


def test_a_stream_crosses_the_link_both_ways(decoding: Any) -> None:
    link = constant_link(rtt_ms=40.0, uplink_mbps=1.0, downlink_mbps=1.0)
    found = streamed(decoding, Radio(link), 7, [1, 5, 6], 4)
    assert (found.prompt, found.tokens) == (7, (300, 301, 302, 303))
    up, down = on_the_link(5 + 2), on_the_link(3 + 9 + 9)
    assert found.ttft == pytest.approx(link.uplink_seconds(0.0, up) + 0.1 + link.downlink_seconds(0.0, down))
    assert found.tbt == pytest.approx(0.1)
    assert decoding.now == pytest.approx(5.0 + found.ttft + 3 * found.tbt)


class Recovering:
    """A link that is slow at first."""

    def reachable(self, at_seconds: float) -> bool:
        return True

    def uplink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        return 0.5

    def downlink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        return 1.0 if at_seconds < 0.65 else 0.0


def test_no_token_overtakes_the_one_before(decoding: Any) -> None:
    found = streamed(decoding, Recovering(), 0, [1], 4)
    assert (found.ttft, found.tbt) == (pytest.approx(1.6), pytest.approx(0.0))
