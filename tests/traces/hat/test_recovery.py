from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime.errors import SettingError
from runtime.model.decoder import Decoder
from runtime.model.loading import load_decoder
from runtime.model.tokenizer import load_tokenizer
from traces.errors import TraceError
from traces.hat import recovery
from traces.hat.inversion import Probe
from traces.hat.recovery import ATTACKS, Recovered, Trial, measure, require_apart, shares
from traces.hat.texts import FRAME, Text, private_prompts

A = Text("a", (1, 2, 3, 4), (FRAME, "prompt fact", "prompt wording", "answer digit"))
B = Text("b", (1, 5), (FRAME, "prompt wording"))
SMALL = Trial(prompts=3, replayed=1, public=40, depths=(0, 1), most_tokens=6)


@pytest.fixture(scope="module")
def decoder(tiny_llm: Path) -> Decoder:
    return load_decoder(tiny_llm)


@pytest.fixture(scope="module")
def recovered(decoder: Decoder, tiny_llm: Path) -> Recovered:
    return measure(decoder, load_tokenizer(tiny_llm), SMALL)


# ---------------------------------------------------------------- shares


def test_shares_count_tokens_by_place_and_leave_out_what_is_put_around() -> None:
    found = shares(np.array([True, True, False, False, True, True]), [A, B], 0)
    counted = {name: (share.mean, share.tokens) for name, share in found.items()}
    assert counted == {
        "all": (0.5, 4),
        "prompt": (pytest.approx(2 / 3), 3),
        "answer": (0.0, 1),
        "prompt fact": (1.0, 1),
        "prompt wording": (0.5, 2),
        "answer digit": (0.0, 1),
    }


def test_the_interval_is_over_prompts_and_not_over_tokens() -> None:
    """Of ten prompts five are read whole: as uncertain as ten throws, however long they are."""
    texts = [Text(str(i), (1,) * 50, ("prompt wording",) * 50) for i in range(10)]
    share = shares(np.repeat(np.arange(10) < 5, 50), texts, 0)["all"]
    assert (share.mean, share.tokens) == (0.5, 500)
    assert share.low == pytest.approx(0.2, abs=0.11)
    assert share.high == pytest.approx(0.8, abs=0.11)
    sure = shares(np.ones(500, dtype=bool), texts, 0)["all"]
    assert (sure.low, sure.mean, sure.high) == (1.0, 1.0, 1.0)


# ---------------------------------------------------------------- measuring


def test_every_attack_is_tried_at_every_depth_and_precision(recovered: Recovered) -> None:
    tried = [(each.attack, each.depth, each.precision) for each in recovered.recoveries]
    assert tried == [(a, d, p) for a in ATTACKS for d in (0, 1) for p in ("fp32", "bf16", "int8")]
    assert {each.prompts for each in recovered.recoveries if each.attack == "replay"} == {1}
    assert {each.prompts for each in recovered.recoveries if each.attack != "replay"} == {3}


def test_embeddings_and_replay_give_everything_away(recovered: Recovered) -> None:
    for attack, depth in (("embedding", 0), ("replay", 0), ("replay", 1)):
        found = recovered.of(attack, depth, "fp32")
        assert found is not None
        assert {share.mean for share in found.shares.values()} == {1.0}
    assert recovered.of("replay", 2, "fp32") is None


def test_the_commonest_token_is_right_at_times_and_what_no_public_text_has_is_counted(recovered: Recovered) -> None:
    assert 0.0 <= recovered.commonest["all"].mean < 0.5
    assert 0.0 < recovered.unseen["all"].mean < 1.0
    probe = recovered.of("probe", 0, "fp32")
    assert probe is not None
    assert probe.shares["all"].mean <= 1 - recovered.unseen["all"].mean + 1e-9


def test_states_that_were_shuffled_give_no_more_than_chance(
    decoder: Decoder, tiny_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = recovery.quantised
    rng = np.random.default_rng(0)
    monkeypatch.setattr(recovery, "quantised", lambda states, precision: true(states[rng.permutation(len(states))], precision))
    found = measure(decoder, load_tokenizer(tiny_llm), SMALL)
    assert max(each.shares["all"].mean for each in found.recoveries) < 0.25


def test_the_probe_is_fitted_to_rows_of_public_texts_alone(
    decoder: Decoder, tiny_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []
    fitted = Probe.fitted.__func__  # type: ignore[attr-defined]

    def watched(kind: type[Probe], states: object, ids: object, seed: int) -> Probe:
        shown.append(len(ids))  # type: ignore[arg-type]
        return fitted(kind, states, ids, seed)  # type: ignore[no-any-return]

    monkeypatch.setattr(Probe, "fitted", classmethod(watched))
    tokenizer = load_tokenizer(tiny_llm)
    measure(decoder, tokenizer, SMALL)
    assert shown == [sum(len(text.ids) for text in recovery.public_texts(tokenizer, 40, 0))] * 2


def test_a_private_prompt_among_the_public_ones_is_refused(
    decoder: Decoder, tiny_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_apart([A], [B])
    with pytest.raises(TraceError, match=r"1 prompts are among the public texts, too; .*: 'a'"):
        require_apart([A, B], [A])
    tokenizer = load_tokenizer(tiny_llm)
    known = recovery.read(tokenizer, private_prompts(3, 0)[1], "")
    monkeypatch.setattr(recovery, "public_texts", lambda *_: [known])
    with pytest.raises(TraceError, match="a probe would have seen them"):
        measure(decoder, tokenizer, SMALL)


def test_progress_comes_to_its_end_in_every_stage(decoder: Decoder, tiny_llm: Path) -> None:
    told: dict[str, tuple[int, int]] = {}
    measure(decoder, load_tokenizer(tiny_llm), SMALL, lambda stage, done, total: told.update({stage: (done, total)}))
    assert list(told) == ["public states", "states", "probes", "replay"]
    assert all(done == total > 0 for done, total in told.values())


def test_without_replay_there_is_none(decoder: Decoder, tiny_llm: Path) -> None:
    found = measure(decoder, load_tokenizer(tiny_llm), Trial(prompts=2, replayed=0, public=20, depths=(1,), most_tokens=3))
    assert {each.attack for each in found.recoveries} == {"embedding", "lens", "probe"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prompts": 1}, "prompts=1 must be an integer in 2..1000"),
        ({"replayed": 49}, "replayed=49 must be an integer in 0..48"),
        ({"precisions": ("int4",)}, "precisions='int4' is not one of"),
        ({"seed": -1}, "seed=-1"),
        ({"public": 0}, "public=0"),
    ],
)
def test_a_trial_that_cannot_be_made_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        Trial(**changes)  # type: ignore[arg-type]


def test_depths_are_those_of_the_model() -> None:
    assert Trial().depths_of(3) == [0, 1, 2]
    assert Trial(depths=(2, 0)).depths_of(3) == [0, 2]
    with pytest.raises(SettingError, match=r"depths=3 must be an integer in 0\.\.2"):
        Trial(depths=(3,)).depths_of(3)
