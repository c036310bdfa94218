"""What is bundled loads and keeps its splits apart. Files that are not made yet are skipped, with the reason."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import SettingError
from runtime.synera.lens import Lens
from tests.support.placements import named
from traces import bundled
from traces.hat.testbed import FITTED, HEAD_BYTES, SHALLOW_BYTES
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.coverage import coverage
from traces.synera.graph import GraphSet
from traces.tasks import answers, tinyworld
from traces.tasks.splits import bundled_prompts

SPLITS = ("train", "validation", "test")


def graphs(split: str) -> GraphSet:
    path = bundled.graphs(split)
    if not path.is_file():
        pytest.skip(f"the bundled {split} graphs are not recorded yet")
    return GraphSet.load(path)


def pair_folder(model: str) -> Path:
    folder = bundled.PAIR / model
    if not (folder / "model.safetensors").is_file():
        pytest.skip(f"the bundled {model} is not trained yet")
    return folder


# ---------------------------------------------------------------- links


def test_no_link_is_in_two_splits() -> None:
    for one, other in combinations(SPLITS, 2):
        for a in bundled.links(one):
            for b in bundled.links(other):
                assert a.name != b.name
                assert not np.array_equal(a.rtt_ms, b.rtt_ms)


@pytest.mark.parametrize("split", SPLITS)
def test_the_links_of_a_split_differ_and_stay_the_same(split: str) -> None:
    links, again = bundled.links(split), bundled.links(split)
    assert len({link.name for link in links}) == len(links) >= 9
    assert {link.family for link in links} == {"constant", "markov"} | ({"remote"} if split == "test" else set())
    assert all(np.array_equal(a.rtt_ms, b.rtt_ms) for a, b in zip(links, again, strict=True))


def test_a_split_that_is_not_there_is_a_users_mistake() -> None:
    with pytest.raises(SettingError, match="split='valid' is not one of train, validation, test"):
        bundled.links("valid")


# ---------------------------------------------------------------- profiles


def test_every_bundled_profile_loads_and_tells_its_source() -> None:
    assert DeviceProfile.load(bundled.profile("phone")).name == "phone"
    assert CloudProfile.load(bundled.profile("gpu")).name == "gpu"
    for path in sorted(bundled.profile("phone").parent.glob("*.json")):
        kind = DeviceProfile if "layer_ms" in path.read_text() else CloudProfile
        profile = kind.load(path)
        assert profile.name == path.stem
        if isinstance(profile, DeviceProfile):
            assert profile.has_energy, "energy would leave the reward in silence"
            assert "W while drafting" in profile.source or "Energy is not measured" in profile.source
        assert len(profile.source) > 20


# ---------------------------------------------------------------- graphs


@pytest.mark.parametrize("split", SPLITS)
def test_bundled_graphs_hold_prompts_of_their_split_alone(split: str) -> None:
    found = graphs(split)
    assert found.meta.split == split
    assert len(set(found.meta.prompts)) == len(found)
    assert {tinyworld.split_of(p) for p in found.meta.prompts} == {split}
    assert set(found.meta.kinds) == set(tinyworld.KINDS)
    assert all(answers.kind_of(p) == k for p, k in zip(found.meta.prompts, found.meta.kinds, strict=True))


def test_bundled_splits_share_no_prompt_and_one_pair_and_lens() -> None:
    sets = [graphs(split) for split in SPLITS]
    for one, other in combinations(sets, 2):
        assert not set(one.meta.prompts) & set(other.meta.prompts)
    assert len({Lens.from_tensors(s.lens_tensors).fingerprint for s in sets}) == 1
    assert len({(s.meta.slm_fingerprint, s.meta.llm_fingerprint, s.meta.tokenizer_hash, s.meta.exit_layers) for s in sets}) == 1


@pytest.mark.parametrize("split", SPLITS)
def test_bundled_graphs_state_their_true_coverage(split: str) -> None:
    found = graphs(split)
    c = found.meta.coverage
    assert c["closed"] == pytest.approx(np.mean([g.closed for g in found]))
    assert c == {"closed": c["closed"], **coverage(found)}
    assert min(c["always"], c["never"]) == 1.0
    assert c["random_steps"] > 0.95


@pytest.mark.parametrize("split", SPLITS)
def test_bundled_graphs_can_be_read(split: str) -> None:
    """Every token has its text; numbers, words and punctuation stand as the tokenizer writes them."""
    from runtime.model.tokenizer import load_tokenizer

    found, tokenizer = graphs(split), load_tokenizer(pair_folder("slm"))
    for graph in found:
        text = found.text(graph.prompt_tokens.tolist()).strip()
        assert text == f"<bos> {graph.prompt} <ans>"
        node, answer = 0, list[int]()
        while np.isnan(graph.score[node]):
            node = int(graph.llm_child[node])
            answer.append(int(graph.token[node]))
        assert found.text(answer).strip() == tokenizer.decode(answer, skip_special_tokens=False)


@pytest.mark.parametrize("split", SPLITS)
def test_bundled_graphs_leave_something_to_decide(split: str) -> None:
    """The LLM's own answers are better than the SLM's, and neither is the whole range of scores."""

    def quality(source: str) -> float:
        scores = []
        for graph in graphs(split):
            node = 0
            while np.isnan(graph.score[node]):
                node = int(np.atleast_1d(getattr(graph, source)[node])[-1])
            scores.append(graph.score[node])
        return float(np.mean(scores))

    assert quality("llm_child") > quality("exit_child") + 0.1


# ---------------------------------------------------------------- pair


def test_the_bundled_graphs_were_recorded_from_the_bundled_pair() -> None:
    from runtime.model.loading import fingerprint
    from runtime.model.tokenizer import tokenizer_hash

    meta = graphs("train").meta
    assert (meta.slm_fingerprint, meta.llm_fingerprint) == (fingerprint(pair_folder("slm")), fingerprint(pair_folder("llm")))
    assert meta.tokenizer_hash == tokenizer_hash(pair_folder("slm"))


def test_the_bundled_pair_loads_and_shares_its_tokenizer() -> None:
    from traces.synera.record_models import Models

    models = Models.load(pair_folder("slm"), pair_folder("llm"))
    assert len(models.slm.config.exit_layers) > 1
    assert models.slm.config.layers == models.slm.config.exit_layers[-1]
    assert models.slm.config.eos_ids == models.llm.config.eos_ids != ()
    assert models.slm.weight_bytes < models.llm.weight_bytes
    prompt = bundled_prompts("test", 1)[0].text
    unknown = models.tokenizer.token_to_id("<unk>")
    assert unknown not in models.tokenizer.encode(prompt).ids


def test_the_bundled_adapter_drafts_for_the_bundled_llm() -> None:
    from runtime.hat.adapter import FILE, Adapter
    from runtime.model.loading import fingerprint, load_decoder, load_ends
    from runtime.model.split import Split
    from runtime.model.tokenizer import load_tokenizer
    from traces.hat.adapter_drafts import measured

    folder = pair_folder("llm")
    decoder, tokenizer = load_decoder(folder), load_tokenizer(folder)
    adapter = Adapter.load(bundled.ADAPTER, decoder, fingerprint(folder))
    assert adapter.first == Adapter.load(bundled.ADAPTER, load_ends(folder, Split(2))).first == 2
    assert (bundled.ADAPTER / FILE).stat().st_size <= 2e6
    prompts = [tokenizer.encode(prompt.text).ids for prompt in bundled_prompts("test", 4)]
    found = measured(decoder, adapter, prompts, bundled.MAX_NEW_TOKENS)
    assert found.same == found.answers == 16
    assert found.committed > 2.06  # as many as the paper's
    assert f"`{adapter.stated.model}`" in (bundled.ADAPTER / "README.md").read_text()


def test_the_bundled_medusa_heads_draft_for_the_bundled_llm() -> None:
    from runtime.hat.drafters import load_drafter
    from runtime.hat.medusa import FILE, MedusaHeads
    from runtime.model.loading import fingerprint, load_decoder
    from runtime.model.tokenizer import load_tokenizer
    from traces.hat.adapter_drafts import measured

    folder = pair_folder("llm")
    decoder, tokenizer = load_decoder(folder), load_tokenizer(folder)
    heads = load_drafter(bundled.MEDUSA, decoder, fingerprint(folder))
    assert isinstance(heads, MedusaHeads)
    assert (heads.first, heads.heads) == (2, 4)
    assert (bundled.MEDUSA / FILE).stat().st_size <= 1e6
    prompts = [tokenizer.encode(prompt.text).ids for prompt in bundled_prompts("test", 2)]
    found = measured(decoder, heads, prompts, bundled.MAX_NEW_TOKENS)
    assert found.same == found.answers == 8
    assert found.committed > 1.3
    assert f"`{heads.stated.model}`" in (bundled.MEDUSA / "README.md").read_text()


@pytest.mark.cuda
@pytest.mark.parametrize("model", ["slm", "llm"])
def test_the_bundled_pair_writes_the_same_tokens_on_cuda(model: str) -> None:
    """In float32, so that what is recorded on a GPU holds on a CPU."""
    from runtime.model.loading import load_decoder
    from runtime.model.tokenizer import load_tokenizer
    from traces.synera.record_models import greedy_tokens

    there, folder = named("cuda-float32"), pair_folder(model)
    here, tokenizer = load_decoder(folder), load_tokenizer(folder)
    elsewhere = load_decoder(folder, there)
    for prompt in bundled_prompts("test", 6):
        ids = tokenizer.encode(prompt.text).ids
        assert greedy_tokens(elsewhere, ids, bundled.MAX_NEW_TOKENS) == greedy_tokens(here, ids, bundled.MAX_NEW_TOKENS)


def test_the_profiles_of_hats_testbed_are_what_its_table_was_fitted_with() -> None:
    device, cloud = DeviceProfile.load(bundled.profile("edge")), CloudProfile.load(bundled.profile("middle"))
    ends_seconds = (SHALLOW_BYTES + HEAD_BYTES) / FITTED.device_bytes_per_second
    assert 2 * device.layer_ms + device.head_ms == pytest.approx(1e3 * ends_seconds, rel=1e-3)
    assert cloud.forward_ms == pytest.approx(1e3 * FITTED.forward_base_seconds, rel=1e-3)
    assert cloud.token_ms == pytest.approx(1e3 * FITTED.forward_token_seconds, rel=1e-2)
