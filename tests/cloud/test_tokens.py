from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.tokens import MOST_TOKENS, Tokens, load_tokens, new_token, token_line
from runtime.errors import SettingError

HASH = "0" * 64


def written(folder: Path, content: str | bytes, mode: int = 0o644) -> Path:
    path = folder / "tokens"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def test_each_token_is_its_clients_and_no_other_is(tmp_path: Path) -> None:
    made = {f"phone-{number}": new_token() for number in range(5)}
    lines = [token_line(*each) for each in made.items()]
    second = new_token()
    path = written(tmp_path, "# who may ask\n\n" + "\n".join(lines) + f"\n{token_line('phone-0', second)} # the next one\n")
    tokens = load_tokens(path)
    assert {name: tokens.name_of(token) for name, token in made.items()} == {name: name for name in made}
    assert tokens.name_of(second) == "phone-0"
    assert len(tokens) == 6
    for wrong in ("", "x", new_token(), made["phone-1"][:-1], made["phone-1"] + "x", made["phone-1"].swapcase(), "ä\udcff"[:1]):
        assert tokens.name_of(wrong) is None


def test_the_file_holds_no_token() -> None:
    token = new_token()
    assert token not in token_line("phone", token)
    assert re.fullmatch(r"phone [0-9a-f]{64}", token_line("phone", token))


def test_tokens_are_long_and_never_the_same() -> None:
    assert len({new_token() for _ in range(1000)}) == 1000
    assert all(re.fullmatch(r"[\w-]{43}", new_token()) for _ in range(100))


@given(st.text(max_size=60), st.text(max_size=60))
def test_only_the_same_text_is_the_same_token(one: str, other: str) -> None:
    one, other = (each.encode(errors="replace").decode() for each in (one, other))
    known = Tokens([("name", hashlib.sha256(one.encode()).digest())])
    assert (known.name_of(other) == "name") == (one == other)


def test_all_entries_are_compared_whichever_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that time tells nothing of where a match was, nor how near a token came."""
    made = [(f"n{number}", new_token()) for number in range(20)]
    tokens = Tokens([(name, hashlib.sha256(token.encode()).digest()) for name, token in made])
    compared: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr("cloud.tokens.hmac.compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    for token in (made[0][1], made[-1][1], new_token()):
        compared.clear()
        tokens.name_of(token)
        assert len(compared) == 20


@pytest.mark.parametrize("name", ["", "a b", "a#b", "ä", "x" * 129, "a\n", "\x1b"])
def test_what_is_no_name_gets_no_line(name: str) -> None:
    with pytest.raises(SettingError, match="is no name of a client"):
        token_line(name, "token")


SECRET = "s3cret-token-that-nobody-may-see"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "it names nobody"),
        ("# nobody\n\n", "it names nobody"),
        ("phone\n", "line 1 is not NAME SHA256"),
        (f"phone {SECRET}\n", "line 1 is not NAME SHA256; make one with: synera make-certs --tokens NAME"),
        (f"{SECRET}\n", "line 1 is not NAME SHA256"),
        (f"a {HASH}\nphone: {HASH} more\n", "line 2 is not"),
        (f"phone {HASH.upper()[:-1]}A\n", "line 1 is not"),
        (f"phone {HASH}\n\ntablet {HASH}\n", "line 3 gives the token of another name"),
        (b"\xff\xfe\x00", "it is not text"),
        ("".join(f"n {number:064x}\n" for number in range(MOST_TOKENS + 1)), f"it holds {MOST_TOKENS + 1} tokens"),
        ("#" * 4_000_001, "it is not a file of at most 4000000 bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_without_what_is_in_it(content: str | bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=re.escape(says)) as caught:
        load_tokens(written(tmp_path, content))
    assert SECRET not in str(caught.value)
    assert str(caught.value).isprintable()
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_to_is_refused(mode: int, tmp_path: Path) -> None:
    path = written(tmp_path, f"phone {HASH}\n", mode)
    with pytest.raises(SettingError, match=r"other users may write to it, and let themselves in; .*chmod go-w"):
        load_tokens(path)
    path.chmod(0o444)
    assert len(load_tokens(path)) == 1


@pytest.mark.parametrize("path", ["/dev/zero", "{folder}", "{folder}/none", "{folder}/" + "x" * 300])
def test_what_is_no_file_is_told(path: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot use the tokens of"):
        load_tokens(Path(path.format(folder=tmp_path)))
