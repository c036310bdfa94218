"""Prompts to ids, and the hash of a tokenizer, on kinds of tokenizers that users bring; each is built here."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from runtime.errors import CheckpointError, SettingError
from runtime.model.tokenizer import encode, load_tokenizer, tokenizer_hash
from tests.support.tokenizers import BEGIN, END, HEAD, KINDS, stated_of


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def saved(folder: Path, stated: str | dict[str, Any]) -> Path:
    """A model folder that holds this tokenizer alone."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(stated if isinstance(stated, str) else json.dumps(stated), encoding="utf-8")
    return folder


def loaded(folder: Path, kind: str) -> Tokenizer:
    return load_tokenizer(saved(folder, stated_of(kind)))


# ---------------------------------------------------------------- prompts


@pytest.mark.parametrize(
    ("kind", "plain", "templated", "begins", "ends"),
    [
        ("llama3", "hello there", f"{BEGIN}hello there", [BEGIN], []),
        ("llama3", f"{HEAD}user{END}hello", f"{BEGIN}{HEAD}user{END}hello", [BEGIN, HEAD], []),
        ("llama2", "hello there", "<s> hello there", ["<s>"], []),
        ("unigram", "hello there", "hello there</s>", [], ["</s>"]),
        ("bert", "Hello there", "[CLS] Hello there [SEP]", ["[CLS]"], ["[SEP]"]),
        ("bundled", "Where is the mill ?", "<bos> Where is the mill ? <ans>", ["<bos>"], ["<ans>"]),
    ],
)
def test_a_prompt_that_was_templated_by_hand_is_not_templated_again(
    tmp_path: Path, kind: str, plain: str, templated: str, begins: list[str], ends: list[str]
) -> None:
    tokenizer = loaded(tmp_path, kind)
    ids = encode(tokenizer, plain)
    assert encode(tokenizer, templated) == ids == tokenizer.encode(plain).ids
    tokens = [tokenizer.id_to_token(i) for i in ids]
    assert (tokens[: len(begins)], tokens[len(tokens) - len(ends) :]) == (begins, ends)
    assert (
        tokenizer.decode(ids, skip_special_tokens=True).strip().lower()
        == tokenizer.decode(tokenizer.encode(plain, add_special_tokens=False).ids, skip_special_tokens=True).strip().lower()
    )


def test_each_end_of_a_prompt_is_looked_at_by_itself(tmp_path: Path) -> None:
    tokenizer = loaded(tmp_path, "bundled")
    wanted = encode(tokenizer, "is the mill")
    for text in ("<bos> is the mill", "is the mill <ans>", "<bos>is the mill<ans>"):
        assert encode(tokenizer, text) == wanted
    assert encode(tokenizer, "<ans> is <bos>") == [1, 3, *wanted[1:2], 1, 3], "only where they would have been put"


@pytest.mark.parametrize("text", ["", "<bos>", "<ans>", "<bos><ans>"])
def test_a_prompt_of_special_tokens_alone(tmp_path: Path, text: str) -> None:
    assert encode(loaded(tmp_path, "bundled"), text) == [1, 3]


def test_what_a_user_repeats_is_repeated(tmp_path: Path) -> None:
    """Only what the template would add is left out."""
    tokenizer = loaded(tmp_path, "llama3")
    assert encode(tokenizer, f"{BEGIN}{BEGIN}{HEAD}") == [0, 0, 1]


def test_a_tokenizer_without_a_template_adds_nothing(tmp_path: Path) -> None:
    tokenizer = loaded(tmp_path, "qwen")
    for text in ("<|im_start|>user", "hello", ""):
        assert encode(tokenizer, text) == tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("text", ["half a character \ud800", "\udcff"])
def test_a_prompt_that_is_no_text_is_a_users_mistake(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingError, match="the tokenizer cannot read the prompt"):
        encode(loaded(tmp_path, "llama3"), text)


def test_a_prompt_that_a_tokenizer_has_no_token_for_is_a_users_mistake(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="b"))
    with pytest.raises(SettingError, match="cannot read the prompt 'c'"):
        encode(tokenizer, "c")


# ---------------------------------------------------------------- what a file leaves behind


def test_a_prompt_is_never_cut_nor_padded(tmp_path: Path, kind: str) -> None:
    """Training leaves its limits in the file."""
    text = "hello there the fox " * 30
    wanted = encode(loaded(tmp_path / "plain", kind), text)
    tokenizer = Tokenizer.from_str(stated_of(kind))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=16)
    left = saved(tmp_path / "left", tokenizer.to_str())
    assert json.loads((left / "tokenizer.json").read_text())["truncation"] is not None
    assert encode(load_tokenizer(left), text) == wanted
    assert len(wanted) > 100
    assert encode(load_tokenizer(left), "hello") == encode(loaded(tmp_path / "plain", kind), "hello")
    assert tokenizer_hash(left) == tokenizer_hash(tmp_path / "plain")


# ---------------------------------------------------------------- the hash


def _texts_of_merges(stated: dict[str, Any]) -> dict[str, Any]:
    merges = stated["model"].get("merges")
    if merges:
        assert isinstance(merges[0], list)
        stated["model"]["merges"] = [" ".join(pair) for pair in merges]
    return stated


def _turned(value: Any) -> Any:
    """Every object with its keys in the opposite order."""
    if isinstance(value, dict):
        return {key: _turned(value[key]) for key in reversed(value)}
    return [_turned(v) for v in value] if isinstance(value, list) else value


def _by_transformers(stated: str, folder: Path) -> str:
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(stated)).save_pretrained(folder)
    return (folder / "tokenizer.json").read_text(encoding="utf-8")


def test_the_hash_of_a_tokenizer_is_the_same_however_it_is_written(kind: str, tmp_path: Path) -> None:
    stated = stated_of(kind)
    forms = [
        stated,
        json.dumps(json.loads(stated), indent=7, ensure_ascii=True),
        json.dumps(_turned(json.loads(stated)), ensure_ascii=False),
        json.dumps(_texts_of_merges(json.loads(stated))),
        Tokenizer.from_str(json.dumps(_texts_of_merges(json.loads(stated)))).to_str(pretty=True),
        _by_transformers(stated, tmp_path / "transformers"),
    ]
    assert len(set(forms)) >= 4
    hashes = {tokenizer_hash(saved(tmp_path / str(i), form)) for i, form in enumerate(forms)}
    assert len(hashes) == 1
    assert len(hashes.pop()) == 16


def _swap_two_ids(stated: dict[str, Any]) -> None:
    vocabulary = stated["model"]["vocab"]
    if isinstance(vocabulary, list):
        vocabulary[-1], vocabulary[-2] = vocabulary[-2], vocabulary[-1]
    else:
        one, other = sorted(vocabulary, key=vocabulary.__getitem__)[-2:]
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]


def _another_normalizer(stated: dict[str, Any]) -> None:
    had = stated["normalizer"]
    stated["normalizer"] = {"type": "Sequence", "normalizers": [*([had] if had else []), {"type": "NFKC"}]}


def _another_template(stated: dict[str, Any]) -> None:
    token = stated["added_tokens"][-1]
    special = {token["content"]: {"id": token["content"], "ids": [token["id"]], "tokens": [token["content"]]}}
    single = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": token["content"], "type_id": 0}}]
    stated["post_processor"] = {"type": "TemplateProcessing", "single": single, "pair": single * 2, "special_tokens": special}
    stated["post_processor"]["pair"] = [single[0], {"Sequence": {"id": "B", "type_id": 1}}]


def _another_split(stated: dict[str, Any]) -> None:
    parts = [{"type": "Digits", "individual_digits": False}, {"type": "Punctuation", "behavior": "Isolated"}]
    stated["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*parts, stated["pre_tokenizer"]]}


def _not_special(stated: dict[str, Any]) -> None:
    stated["added_tokens"][-1]["special"] = False


def _another_score(stated: dict[str, Any]) -> None:
    if isinstance(stated["model"]["vocab"], list):
        stated["model"]["vocab"][-1][1] -= 0.125
    else:
        _swap_two_ids(stated)


CHANGES = (_swap_two_ids, _another_normalizer, _another_template, _another_split, _not_special, _another_score)
NO_CHANGE = {("bert", _another_split), ("bundled", _another_split)}
"""These two split there anyway."""


@pytest.mark.parametrize(("kind", "change"), [(k, c) for k in KINDS for c in CHANGES if (k, c) not in NO_CHANGE])
def test_the_hash_of_another_tokenizer_is_another(kind: str, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    stated = json.loads(stated_of(kind))
    change(stated)
    assert tokenizer_hash(saved(tmp_path / "one", stated_of(kind))) != tokenizer_hash(saved(tmp_path / "other", stated))


@pytest.mark.parametrize("kind", ["llama3", "qwen", "llama2"])
def test_the_hash_sees_every_merge(kind: str, tmp_path: Path) -> None:
    """Also one of half a character, which no text shows by itself."""
    whole = tokenizer_hash(saved(tmp_path, stated_of(kind)))
    merges = len(json.loads(stated_of(kind))["model"]["merges"])
    seen = set()
    for index in random.Random(0).sample(range(merges), 25):
        stated = json.loads(stated_of(kind))
        del stated["model"]["merges"][index]
        seen.add(tokenizer_hash(saved(tmp_path, stated)))
    assert len(seen) == 25
    assert whole not in seen


def test_the_hash_sees_how_added_tokens_are_found(tmp_path: Path) -> None:
    """`lstrip` takes the space before a token with it; no plain text shows that."""
    hashes = set()
    for option in ({}, {"lstrip": True}, {"rstrip": True}, {"single_word": True}):
        tokenizer = Tokenizer.from_str(stated_of("qwen"))
        tokenizer.add_special_tokens([AddedToken("<|tool|>", special=True, normalized=False, **option)])
        hashes.add(tokenizer_hash(saved(tmp_path, tokenizer.to_str())))
    assert len(hashes) == 4


def test_the_hash_sees_every_id_of_a_large_vocabulary(tmp_path: Path) -> None:
    """Of which not every entry's text is read."""

    def made(one: int, other: int) -> str:
        names = [f"w{i}" for i in range(40_000)]
        names[one], names[other] = names[other], names[one]
        tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="w0"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s"), "removed")
        return tokenizer_hash(saved(tmp_path, tokenizer.to_str()))

    assert len({made(*pair) for pair in ((5, 5), (1, 4), (20_001, 20_002), (39_998, 39_999))}) == 4


# ---------------------------------------------------------------- damage


def _unknown_in_template(stated: dict[str, Any]) -> None:
    stated["post_processor"]["special_tokens"]["<bos>"]["ids"] = []
    stated["post_processor"]["special_tokens"]["<bos>"]["tokens"] = []
    stated["post_processor"]["single"][0]["SpecialToken"]["id"] = "<none>"


@pytest.mark.parametrize(
    "damage",
    [
        lambda stated: stated.clear(),
        lambda stated: stated["model"].clear(),
        lambda stated: stated["model"].update(vocab=3),
        lambda stated: stated["model"].update(type="Other"),
        lambda stated: stated["model"].update(vocab={"a": -1}),
        lambda stated: stated["model"].update(vocab={"a": 10**400}),
        lambda stated: stated.update(added_tokens=3),
        lambda stated: stated.update(version="9.0"),
        lambda stated: stated["model"]["vocab"].pop("<unk>") and stated["added_tokens"].clear(),
        _unknown_in_template,
    ],
)
def test_a_damaged_tokenizer_is_named(tmp_path: Path, damage: Callable[[dict[str, Any]], object]) -> None:
    stated = json.loads(stated_of("bundled"))
    damage(stated)
    folder = saved(tmp_path, stated)
    for read in (load_tokenizer, tokenizer_hash):
        with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a usable tokenizer: ") as error:
            read(folder)
        assert len(str(error.value)) < 500


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\x80", b"[" * 100_000])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a usable tokenizer: "):
        tokenizer_hash(tmp_path)
