"""The frame of a chat against transformers' own reading of the same template, for the templates of four families."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from runtime.errors import SettingError
from runtime.model.chat import chat_frame, has_chat_template
from runtime.model.frame import Frame
from runtime.model.tokenizer import load_tokenizer
from tests.support.own_pair import FAMILIES, OwnPair, save_pair

PROMPTS = ["What is 2 times 7?", "Which?\n(A) one\n(B) two", "Скажи 你好 👍🏽", "user\nassistant", "a <|im_end|> b </s> c"]


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OwnPair:
    return save_pair(tmp_path_factory.mktemp(request.param), request.param)


def templated(folder: Path, template: str) -> Path:
    """A folder with another template."""
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A folder whose template may be changed."""
    return save_pair(tmp_path, "Qwen2").llm


@pytest.mark.parametrize("thinking", [False, True])
def test_a_frame_reads_prompts_as_transformers_does(pair: OwnPair, thinking: bool) -> None:
    frame, hub = chat_frame(pair.llm, PROMPTS, thinking=thinking), PreTrainedTokenizerFast.from_pretrained(pair.llm)
    tokenizer = load_tokenizer(pair.llm)
    for prompt in PROMPTS:
        wanted = hub.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, enable_thinking=thinking, return_dict=False
        )
        assert frame.encode(tokenizer, prompt) == wanted
        assert frame.encode(tokenizer, f"\n {prompt} \t") == wanted, "white space around a message says nothing"
    assert not frame.special_tokens


def test_the_end_of_a_turn_ends_an_answer(pair: OwnPair) -> None:
    frame = chat_frame(pair.llm, PROMPTS)
    assert frame.ends == (pair.family.special.index(pair.family.turn_end),)


def test_a_system_message_is_within_the_frame(pair: OwnPair) -> None:
    if "raise_exception" in pair.family.template:
        with pytest.raises(SettingError, match=r"fails: .*Only user and assistant.*it may take no --system-message"):
            chat_frame(pair.llm, PROMPTS, "Be brief.")
        return
    frame = chat_frame(pair.llm, PROMPTS, "Be brief.")
    assert "Be brief." in frame.before
    assert "helpful assistant" not in frame.before
    assert frame.ends == chat_frame(pair.llm, PROMPTS).ends


def test_a_model_that_can_reason_does_so_when_it_is_asked(tmp_path: Path) -> None:
    llm = save_pair(tmp_path, "Qwen3").llm
    assert chat_frame(llm, PROMPTS).after.endswith("<think>\n\n</think>\n\n")
    assert chat_frame(llm, PROMPTS, thinking=True).after.endswith("assistant\n")


def test_a_template_that_writes_the_date_writes_that_of_the_recording(tmp_path: Path) -> None:
    """What is stated is text, which no later day changes."""
    llm = save_pair(tmp_path, "Llama").llm
    frame = chat_frame(llm, PROMPTS)
    today = datetime.now().strftime("%d %b %Y")
    assert f"Today Date: {today}" in frame.before
    assert today in json.dumps(frame.stated)
    assert Frame.of(json.loads(json.dumps(frame.stated))) == frame


def test_no_template_is_an_error_with_the_way_out(other: Path) -> None:
    (other / "chat_template.jinja").unlink()
    assert not has_chat_template(other)
    with pytest.raises(SettingError, match=r"has no chat template .*leave --chat out"):
        chat_frame(other, PROMPTS)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[0]['content'] }", "fails"),
        ("{{ nothing.there }}", "fails"),
        ("a fixed text", "leaves out the prompt"),
        ("{{ messages[0]['content'] }} {{ messages[0]['content'] }}", "or repeats it"),
        ("{{ messages[0]['content'] | upper }}", "leaves out the prompt"),
        (
            "<{{ messages[0]['content'] }}>{% if 'times' in messages[0]['content'] %}!{% endif %}",
            "'What is 2 times 7\\?' otherwise",
        ),
        ("{% for i in range(10**9) %}{% endfor %}", "fails"),
    ],
)
def test_a_template_that_gives_no_frame_is_refused(other: Path, template: str, message: str) -> None:
    with pytest.raises(SettingError, match=message) as error:
        chat_frame(templated(other, template), PROMPTS)
    assert "\n" not in str(error.value)


def test_a_template_may_write_nothing_special_behind_an_answer(other: Path) -> None:
    plain = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    frame = chat_frame(templated(other, plain), PROMPTS)
    assert (frame.before, frame.after, frame.ends) == ("user: ", "\nassistant:", ())
