"""Sketches of the cloud: lines as they are whole, what they cost, what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from cloud.admission import Admission, Limits
from cloud.config import ServerConfig
from cloud.engine.base import EngineInfo, Streamed
from cloud.generate import Generation
from cloud.server import running_server
from cloud.sketch import Sketched, Sketching
from runtime.client import CloudClient
from runtime.errors import CloudRejectedError, SettingError
from runtime.model.frame import Frame
from runtime.model.split import Split
from runtime.pice.form import Form
from runtime.pice.lines import Line
from tests.support.scripted import ScriptedEngine
from traces import bundled
from traces.tasks import tours
from traces.tasks.vocabulary import build_tokenizer

TOURS = Form.load(bundled.TOURS_FORM)
PROMPT = tours.tours("test", 1)[0]
FACTS = tours.facts_of(PROMPT, 3)


class Writing(ScriptedEngine):
    """An engine that writes a text, and keeps what it was asked."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.info = EngineInfo("scripted", "small", "Scripted", "0" * 16, 839, 400, (2,))
        self.tokenizer = build_tokenizer()
        self.says = [*self.tokenizer.encode(text, add_special_tokens=False).ids, 2]
        self.asked: list[tuple[str, int]] = []

    async def stream(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        sampling: object = None,
        account: str = "",
        log_probabilities: bool = False,
    ) -> AsyncGenerator[Streamed, None]:
        self.asked.append((self.tokenizer.decode(list(prompt)), max_new_tokens))
        for token in self.says[:max_new_tokens]:
            yield Streamed(token, 1.0, 2.0)


def sketched(engine: Writing, length: int = 3, most: int = 90) -> list[Sketched]:
    async def body() -> list[Sketched]:
        admission = Admission(Limits(), context_tokens=engine.info.context_tokens)
        sketching = Sketching(Generation(engine, admission), engine.tokenizer, TOURS, Frame())
        async with aclosing(sketching.sketch(PROMPT, length, most)) as lines:
            return [each async for each in lines]

    return asyncio.run(body())


def test_each_line_comes_when_its_last_token_does_and_says_what_it_took() -> None:
    engine = Writing(tours.outline(FACTS))
    found = sketched(engine)
    assert [each.line for each in found] == [Line(f"{fact.attribute} {fact.value}", fact.town) for fact in FACTS]
    assert engine.asked == [(tours.outline_prompt(PROMPT, 3), 90)]
    counts = [each.tokens for each in found]
    assert counts == sorted(set(counts))
    assert counts[-1] == len(engine.says) - 1
    taken = [0, *counts]
    for before, each in zip(taken, found, strict=False):
        assert (each.queue_ms, each.compute_ms) == (each.tokens - before, 2.0 * (each.tokens - before))


def test_a_sketch_that_is_cut_ends_with_what_stands() -> None:
    engine = Writing(tours.outline(FACTS))
    whole, cut = sketched(engine), sketched(engine, most=whole_tokens(engine) - 2)
    assert [each.line for each in cut[:-1]] == [each.line for each in whole[: len(cut) - 1]]
    assert cut[-1].tokens == whole_tokens(engine) - 2


def whole_tokens(engine: Writing) -> int:
    return len(engine.says) - 1


@pytest.mark.parametrize(("length", "most", "said"), [(4, 10, "length=4"), (0, 10, "length=0"), (2, 0, "0 tokens")])
def test_what_cannot_be_sketched_is_refused(length: int, most: int, said: str) -> None:
    with pytest.raises(CloudRejectedError, match=said):
        sketched(Writing("river"), length, most)


def test_a_verifier_sketches_over_the_wire_and_one_without_a_form_says_so() -> None:
    model = bundled.PAIR / "llm"
    with running_server(ServerConfig(model=model, sketch=TOURS)) as port, CloudClient(f"127.0.0.1:{port}") as client:
        lines = list(client.sketch(PROMPT, 2, 60))
        assert lines
        assert all(each.queue_seconds >= 0 and each.compute_seconds > 0 for each in lines)
        told = list(client.generate([1, 5, 6, 3], 4, log_probabilities=True))
        assert all(each.log_probability is not None and each.log_probability <= 0 for each in told)
        with pytest.raises(CloudRejectedError, match="length=7"):
            list(client.sketch(PROMPT, 7, 60))
    with (
        running_server(ServerConfig(model=model)) as port,
        CloudClient(f"127.0.0.1:{port}") as client,
        pytest.raises(CloudRejectedError, match="start it with --sketch"),
    ):
        list(client.sketch(PROMPT, 2, 60))


def test_the_middle_of_a_model_writes_no_sketches(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="leave the split out"):
        ServerConfig(model=tmp_path, split=Split(1, 0), sketch=TOURS)
