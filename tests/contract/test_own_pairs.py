"""The contract on pairs as users bring them: chats of four families over byte-level tokens, recorded, replayed and live.

What does not live here: the commands one after the other (tests/scripts/test_readme.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from agents.evaluation import Answered, PlannedAnswer, answer
from agents.registry import controller
from agents.rules import RandomRule
from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.device import Connection, Device
from runtime.model.frame import Frame
from runtime.model.tokenizer import load_tokenizer, vocabulary_size
from runtime.synera.lens import Lens
from scripts import record
from synera_env.fidelity import same_tokens
from synera_env.synera.live import LivePrompt, SyneraLiveEnv, load_device
from synera_env.synera.replay import SyneraReplayEnv
from tests.support.own_pair import FAMILIES, OwnPair, save_pair, write_prompts
from tests.support.recorded import FREE_CLOUD, PHONE
from traces.synera.graph import GraphSet
from traces.tasks.scoring import scorer_of
from traces.tasks.splits import own_prompts

MAX_NEW_TOKENS = 6
CONTROLLERS = ("never", "always", "margin=0.05", "random")


@dataclass(frozen=True)
class World:
    """A recorded pair, and its device with a verifier."""

    pair: OwnPair
    graphs: GraphSet
    device: Device
    replay: SyneraReplayEnv
    live: SyneraLiveEnv

    def answers(self, env: SyneraReplayEnv | SyneraLiveEnv, name: str) -> list[Answered]:
        chosen = RandomRule(env.schema) if name == "random" else controller(name, env.schema)
        return [answer(env, chosen, PlannedAnswer(prompt, 0, 0.0, seed=prompt)) for prompt in range(len(self.graphs))]


class _SomeDay(datetime):
    """One family's template writes today's date, and what these tests come to is not to change with it."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls(2026, 11, 22, tzinfo=tz)


@pytest.fixture(scope="module")
def some_day() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.utils.chat_template_utils.datetime", _SomeDay)
        yield


@pytest.fixture(scope="module", params=FAMILIES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, some_day: None) -> Iterator[World]:
    folder = tmp_path_factory.mktemp(request.param)
    pair = save_pair(folder, request.param)
    arguments = record.Arguments(
        slm=pair.slm,
        llm=pair.llm,
        out=folder / "graphs",
        splits=("test",),
        prompts=write_prompts(folder / "prompts.jsonl"),
        score="agreement-f1",
        chat=True,
        max_new_tokens=MAX_NEW_TOKENS,
        threads=1,
    )
    record.main(arguments)
    graphs = GraphSet.load(folder / "graphs" / "test.safetensors")
    lens, frame = Lens.from_tensors(graphs.lens_tensors), Frame.of(graphs.meta.frame)
    device = load_device(pair.slm, lens, PHONE, MAX_NEW_TOKENS, paced=False, frame=frame)
    replay = SyneraReplayEnv(graphs, device=PHONE, cloud=FREE_CLOUD)
    prompts = [LivePrompt(text) for text in graphs.meta.prompts]
    with running_server(ServerConfig(model=pair.llm)) as port:
        live = SyneraLiveEnv(f"127.0.0.1:{port}", device, prompts, scorer_of(graphs.meta), emulate_link=False)
        yield World(pair, graphs, device, replay, live)
        live.close()


@pytest.mark.parametrize("name", CONTROLLERS)
def test_live_is_the_replay_token_by_token(world: World, name: str) -> None:
    for number, (real, replayed) in enumerate(
        zip(world.answers(world.live, name), world.answers(world.replay, name), strict=True)
    ):
        check = same_tokens(real.records, world.replay, number)
        assert check.identical, f"prompt {number}: {check.first_difference}"
        assert real.tokens == replayed.tokens
        assert real.metrics is not None
        assert replayed.metrics is not None
        assert real.metrics.quality == pytest.approx(replayed.metrics.quality)
        if name == "always":
            assert real.metrics.quality == 1.0, "it answers as the LLM itself"


def test_the_controllers_exercise_the_contract(world: World) -> None:
    """Chunks are kept, sent, accepted and rejected; answers end by themselves and at the limit, and differ in score."""
    records = [r for name in CONTROLLERS for a in world.answers(world.replay, name) for r in a.records]
    assert {r.offloaded for r in records} == {True, False}
    assert {r.verdict.accepted == len(r.draft.tokens) for r in records if r.verdict} == {True, False}
    answers = [a.tokens for name in CONTROLLERS for a in world.answers(world.replay, name)]
    end = world.pair.family.special.index(world.pair.family.turn_end)
    assert {tokens[-1] == end for tokens in answers} == {True, False}
    scores = np.concatenate([graph.score for graph in world.graphs])
    assert len(np.unique(scores[~np.isnan(scores)])) > 3


def test_a_device_reads_prompts_as_they_were_recorded_and_as_transformers_does(world: World) -> None:
    hub = PreTrainedTokenizerFast.from_pretrained(world.pair.slm)
    with Connection(world.device, CloudClient(world.live._connection._replicas.order[0].client.target)) as connection:
        for graph in world.graphs:
            recorded = graph.prompt_tokens.tolist()
            assert list(connection.encode(graph.prompt)) == recorded
            chat = [{"role": "user", "content": graph.prompt.strip()}]
            assert recorded == hub.apply_chat_template(
                chat, add_generation_prompt=True, enable_thinking=False, return_dict=False
            )
            plain = replace(world.device, frame=Frame())
            assert plain.frame.encode(plain.tokenizer, graph.prompt) != recorded


def test_the_end_of_a_turn_ends_answers_in_both_worlds(world: World) -> None:
    """Whichever file states it, and where none does."""
    end = world.pair.family.special.index(world.pair.family.turn_end)
    assert end in world.graphs.meta.eos_ids
    assert end in world.live._connection.limits.eos_ids
    assert world.live._connection.limits.eos_ids == set(world.graphs.meta.eos_ids)


def test_what_the_tokenizer_has_no_token_for_is_never_said(world: World) -> None:
    size = vocabulary_size(load_tokenizer(world.pair.slm))
    for name in ("exit_token", "llm_token", "runner_up", "token"):
        assert max(int(getattr(graph, name).max()) for graph in world.graphs) < size
    assert world.device.slm.config.vocab == size


def test_graphs_say_what_they_were_made_with(world: World, tmp_path: Path) -> None:
    meta = world.graphs.meta
    assert meta.scorer == "agreement-f1"
    assert len(meta.references) == len(meta.prompts)
    assert (meta.notes["slm"], meta.notes["llm"]) == (str(world.pair.slm), str(world.pair.llm))
    wanted = own_prompts(write_prompts(tmp_path / "prompts.jsonl"))["test"]
    assert {(p.text, p.kind) for p in wanted} == set(zip(meta.prompts, meta.kinds, strict=True))
    assert any("\n" in prompt for prompt in meta.prompts)
