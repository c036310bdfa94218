"""A verifier of the middle of a split model, over the wire: tokens, batches, wrong messages, faults, and how its streams end."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

from cloud.admission import Limits
from cloud.config import ServerConfig
from cloud.engine.base import Iteration
from cloud.engine.embedded.loading import load
from cloud.engine.embedded.middle import MiddleEngine
from cloud.server import running_server
from runtime.model.decoder import Decoder
from runtime.model.loading import fingerprint, load_decoder, load_ends
from runtime.model.split import Split
from runtime.model.tokenizer import tokenizer_hash
from runtime.wire import ERROR_KIND_KEY, RETRY_AFTER_KEY, synera_pb2_grpc
from runtime.wire import synera_pb2 as pb
from runtime.wire.sizes import longest_forward_bytes, row_bytes
from tests.cloud.engine.process.test_remote import is_worker
from tests.support.checkpoints import random_ids, save_checkpoint
from tests.support.chunks import Chunks, Device, greedy_of
from tests.support.engine import HIDDEN, FakeMiddle, after_middle, fake_middle
from tests.support.http2 import Http2, has
from tests.support.paces import NoWait
from tests.support.raw import channel_to, poll, refused

ANSWER = 20
KINDS: dict[str, dict[str, Any]] = {
    "Llama": {"tie_word_embeddings": True},
    "Mistral": {"sliding_window": 7},
    "Qwen2": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2},
    "Qwen3": {"head_dim": 16},
}
STATES = torch.arange(100 * HIDDEN).reshape(100, HIDDEN).float() % 7


@contextmanager
def stub_of(port: int, *options: tuple[str, Any]) -> Iterator[synera_pb2_grpc.SyneraStub]:
    with channel_to(port, *options) as channel:
        yield synera_pb2_grpc.SyneraStub(channel)


def opened(stub: synera_pb2_grpc.SyneraStub, model: Path) -> str:
    return stub.Open(pb.OpenRequest(tokenizer_hash=tokenizer_hash(model)), timeout=30).session_id


class Paced(NoWait):
    """A machine whose forwards take long enough for others to come meanwhile, with five others there."""

    def forward_seconds(self, tokens: int) -> float:
        return 0.002 + 0.0001 * tokens

    def background_load(self, uniform: float) -> int:
        return 5


class Fake:
    """A server over a fake middle, and its parts."""

    def __init__(self, model: Path, **settings: Any) -> None:
        self.model, self.forward = model, FakeMiddle(settings.pop("blocks", 400))
        sizes = {name: settings.pop(name) for name in ("context_tokens", "max_rows") if name in settings}
        self.engine: MiddleEngine = fake_middle(self.forward, **sizes)
        self._config = ServerConfig(model=model, **settings)

    @contextmanager
    def served(self) -> Iterator[int]:
        """Serve; afterwards nothing is held."""
        with running_server(self._config, engine=self.engine) as port:
            try:
                yield port
            finally:
                self.forward.gate.set()
        self.engine.check_integrity()
        assert (self.engine.usage.used_blocks, self.engine.usage.waiting) == (0, 0)

    @contextmanager
    def chunks(self) -> Iterator[Chunks]:
        """Serve one stream of one session."""
        with self.served() as port, stub_of(port) as stub:
            yield Chunks(stub, opened(stub, self.model), HIDDEN)


# ---------------------------------------------------------------- what it computes


@pytest.mark.parametrize("split", ["1", "2:1", "0:4"])
@pytest.mark.parametrize("kind", KINDS)
def test_device_and_middle_write_what_the_whole_model_writes(kind: str, split: str, tmp_path: Path, tiny_llm: Path) -> None:
    """A prompt in chunks that are sent ahead, tokens one by one, and drafts that are wrong from some place on."""
    cut = Split.parse(split)
    save_checkpoint(tmp_path, kind, num_hidden_layers=5, **KINDS[kind])
    shutil.copy(tiny_llm / "tokenizer.json", tmp_path)
    prompt = random_ids(23)
    truth = greedy_of(load_decoder(tmp_path), prompt, ANSWER)
    config = ServerConfig(model=tmp_path, split=cut, token_budget=6)
    with running_server(config) as port, stub_of(port) as stub:
        ends = load_ends(tmp_path, cut)
        device = Device(ends, cut, Chunks(stub, opened(stub, tmp_path), ends.config.hidden))
        answer = [device.prompt(prompt, 7)]
        while len(answer) < ANSWER:
            number = len(answer)
            draft = [token if i < number % 4 else (token + 1) % 61 for i, token in enumerate(truth[number : number + 3])]
            said = device.run(torch.tensor([answer[-1], *draft]))
            right = next((i for i, token in enumerate(draft) if token != said[i]), len(draft))
            answer += said[: right + 1]
            device.truncate(len(prompt) + len(answer) - 1)
    assert answer[:ANSWER] == truth


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_states_may_travel_shorter(tiny_llm: Path, precision: str) -> None:
    """Then what comes back is near, and half or a quarter as long."""
    cut = Split(1)
    ends, ids = load_ends(tiny_llm, cut), random_ids(30)
    hidden, got = ends.config.hidden, {}
    with running_server(ServerConfig(model=tiny_llm, split=cut)) as port, stub_of(port) as stub:
        for each in ("fp32", precision):
            chunks = Chunks(stub, opened(stub, tiny_llm), hidden, each)
            states = Device(ends, cut, chunks).shallow(ids)
            chunks.send(chunks.request(states, 0, 30))
            answer, got[each] = chunks.read()
            assert len(answer.states) == 30 * row_bytes(hidden, each)
            chunks.end()
    error = (got[precision] - got["fp32"]).norm() / got["fp32"].norm()
    assert 0 < error < (0.05 if precision == "bf16" else 0.2)


def test_several_devices_prompts_and_drafts_share_forwards_within_the_token_budget(tiny_llm: Path) -> None:
    cut, seen = Split(1), list[Iteration]()
    config = ServerConfig(model=tiny_llm, split=cut, token_budget=24, pace=Paced())
    ends, whole = [load_ends(tiny_llm, cut) for _ in range(4)], load_decoder(tiny_llm)
    prompts = [random_ids(20 + 25 * i, i) for i in range(4)]
    truths = [greedy_of(whole, prompt, ANSWER) for prompt in prompts]
    engine = load(config)
    engine.watch(seen.append)
    begin = threading.Barrier(4)

    def write(number: int, port: int) -> list[int]:
        with stub_of(port, ("grpc.use_local_subchannel_pool", 1)) as stub:
            device = Device(ends[number], cut, Chunks(stub, opened(stub, tiny_llm), 32))
            begin.wait(30)
            answer = [device.prompt(prompts[number], 16)]
            while len(answer) < ANSWER:
                draft = truths[number][len(answer) : len(answer) + 4]
                answer += device.run(torch.tensor([answer[-1], *draft]))
                device.truncate(len(prompts[number]) + len(answer) - 1)
            return answer[:ANSWER]

    with running_server(config, engine=engine) as port, ThreadPoolExecutor(4) as devices:
        assert list(devices.map(write, range(4), [port] * 4)) == truths
    sizes = [each.verify_tokens + each.prefill_tokens for each in seen]
    assert max(sizes) <= 24
    assert sum(sizes) >= sum(map(len, prompts)) + 4 * (ANSWER - 1)
    assert max(each.requests for each in seen) > 1


def test_what_is_served_is_told(tiny_llm: Path) -> None:
    config = ServerConfig(model=tiny_llm, split=Split(1, 1), max_chunk_rows=77)
    with running_server(config) as port, stub_of(port) as stub:
        info = stub.ModelInfo(pb.ModelInfoRequest(), timeout=30)
        assert info.middle == pb.Middle(first_layers=1, last_layers=1, hidden=32, max_rows=77)
        assert (info.fingerprint, info.context_tokens) == (fingerprint(tiny_llm), 256)
        session_id = opened(stub, tiny_llm)
        for call, request in (
            (stub.Verify, pb.VerifyRequest(session_id=session_id, seq=1, context=[1])),
            (stub.Generate, pb.GenerateRequest(prompt=[1], max_new_tokens=1)),
        ):
            got = refused(call, request)
            assert (got.code, got.kind) == (grpc.StatusCode.INVALID_ARGUMENT, "CloudRejectedError")
            assert got.details.startswith("this verifier serves the middle of a split model, all but its first 1 and last 1")
    with running_server(ServerConfig(model=tiny_llm)) as port, stub_of(port) as stub:
        assert not stub.ModelInfo(pb.ModelInfoRequest(), timeout=30).HasField("middle")
        got = refused(stub.Forward, pb.ForwardRequest(session_id="0" * 32, seq=1))
        assert (got.code, got.kind) == (grpc.StatusCode.INVALID_ARGUMENT, "CloudRejectedError")
        assert "serves a whole model" in got.details


def test_an_answer_tells_what_forwards_take_of_an_emulated_machine_from_the_first_on(tiny_llm: Path) -> None:
    config = ServerConfig(model=tiny_llm, split=Split(1), pace=Paced())
    with running_server(config) as port, stub_of(port) as stub:
        chunks = Chunks(stub, opened(stub, tiny_llm), 32)
        for seq in range(5):
            chunks.send(chunks.request(torch.zeros(3, 32), 3 * seq, 1))
            answer, _ = chunks.read()
            assert answer.compute_ms >= 2.3
            assert answer.load == 6
            assert answer.forward_ms + answer.token_ms * 3 >= 2.0
            assert answer.token_ms > 0
        chunks.end()


def test_repeats_come_over_another_stream(tiny_llm: Path) -> None:
    fake = Fake(tiny_llm)
    with fake.served() as port, stub_of(port) as stub:
        session_id = opened(stub, tiny_llm)
        first = Chunks(stub, session_id, HIDDEN)
        requests = [first.request(STATES[i : i + 1], i, 1) for i in range(8)]
        for each in requests:
            first.send(each)
        answers = [first.read()[0] for _ in requests]
        first.call.cancel()
        again = Chunks(stub, session_id, HIDDEN)
        for each in requests:
            again.send(each)
        repeated = again.end()
        assert [(each.seq, each.states, each.compute_ms) for each in repeated] == [
            (each.seq, each.states, each.compute_ms) for each in answers
        ]
        assert len(fake.forward.batches) == 8


# ---------------------------------------------------------------- what is wrong with it


def test_the_first_error_ends_the_stream_with_its_status_behind_the_answers_before_it(tiny_llm: Path) -> None:
    with Fake(tiny_llm).chunks() as chunks:
        chunks.send(chunks.request(STATES[:3], 0, 3))
        chunks.send(chunks.request(STATES[3:6], 3, 3, seq=9))
        chunks.send(chunks.request(STATES[3:6], 3, 3, seq=2))
        answer, states = chunks.read()
        assert (answer.seq, states.tolist()) == (1, after_middle(STATES[:3]).tolist())
        code, details = chunks.refusal()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert details == "seq=9 is out of order; this session takes 1 (repeated) or 2 (next)"
        assert dict(chunks.call.trailing_metadata())[ERROR_KIND_KEY] == "CloudRejectedError"


@pytest.mark.parametrize("data", [b"\xff\xff\x01garbage", b"\x0a\x7fshort", b"\x22\x05\x80\x80"])
def test_what_is_no_message_is_rejected_as_such(tiny_llm: Path, data: bytes) -> None:
    with Fake(tiny_llm).served() as port, channel_to(port) as channel:
        got = refused(channel.stream_stream("/synera.v1.Synera/Forward"), data)
        assert (got.kind, got.code) == ("CloudRejectedError", grpc.StatusCode.INVALID_ARGUMENT)
        assert "the message cannot be read" in got.details


def test_the_longest_chunk_is_taken_and_what_is_longer_is_refused_by_grpc_itself(tiny_llm: Path) -> None:
    with Fake(tiny_llm, max_rows=90).chunks() as chunks:
        assert len(chunks.ask(STATES[:90], 0, 90)) == 90
        most = longest_forward_bytes(90, HIDDEN)
        chunks.send(pb.ForwardRequest(session_id=chunks.session_id, seq=2, prefix_length=90, states=bytes(most + 1)))
        code, details = chunks.refusal()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert f"vs. {most})" in details


def test_a_full_table_and_too_much_to_do_say_when_to_come_back(tiny_llm: Path) -> None:
    fake = Fake(tiny_llm, limits=Limits(max_tokens=150), context_tokens=150, max_rows=90)
    with fake.served() as port, stub_of(port) as stub:
        running, chunks = (Chunks(stub, opened(stub, tiny_llm), HIDDEN) for _ in range(2))
        fake.forward.gate.clear()
        running.send(running.request(STATES[:80], 0, 0))
        assert fake.forward.entered.wait(30)
        chunks.send(chunks.request(STATES[:40], 0, 0))
        code, details = chunks.refusal()
        fake.forward.gate.set()
        assert [each.seq for each in running.end()] == [1]
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "tokens are in flight" in details
        assert int(dict(chunks.call.trailing_metadata())[RETRY_AFTER_KEY]) > 0


# ---------------------------------------------------------------- how it ends


def test_who_goes_away_in_the_middle_leaves_nothing_behind(tiny_llm: Path) -> None:
    fake = Fake(tiny_llm)
    with fake.served() as port:
        with stub_of(port) as stub:
            session_id = opened(stub, tiny_llm)
            chunks = Chunks(stub, session_id, HIDDEN)
            fake.forward.gate.clear()
            requests = [chunks.request(STATES[i : i + 1], i, 1) for i in range(12)]
            for each in requests:
                chunks.send(each)
            assert fake.forward.entered.wait(30)
            chunks.call.cancel()
            poll(lambda: fake.engine.usage.waiting == 0)
            fake.forward.gate.set()
            again = Chunks(stub, session_id, HIDDEN)
            for each in requests:
                again.send(each)
            states = [each.states for each in again.end()]
            assert b"".join(states) == after_middle(STATES[:12]).numpy().tobytes()
        with stub_of(port) as stub:
            stub.Close(pb.CloseRequest(session_id=session_id), timeout=30)
        poll(lambda: fake.engine.usage.used_blocks == 0)


def test_a_stream_that_is_not_read_ends(tiny_llm: Path) -> None:
    fake = Fake(tiny_llm, limits=Limits(reader_seconds=0.2))
    with fake.served() as port, stub_of(port) as stub, Http2(port, window_bytes=0) as raw:
        request = Chunks(stub, opened(stub, tiny_llm), HIDDEN).request(STATES[:40], 0, 40)
        number = raw.call("Forward", request)
        poll(lambda: fake.forward.batches)
        raw.read_on(number, 1)  # no more than that
        poll(lambda: raw.pong_within(0.3))
        raw.read_on(number)
        _, headers = raw.end_of(number)
        assert has(headers, "grpc-status", "8")
        assert b"not read on for" in headers


def test_a_stopping_server_ends_idle_and_busy_streams_after_its_grace(tiny_llm: Path) -> None:
    fake = Fake(tiny_llm, grace_seconds=0.3)
    with fake.served() as port:
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        stub = synera_pb2_grpc.SyneraStub(channel)
        idle, busy = (Chunks(stub, opened(stub, tiny_llm), HIDDEN) for _ in range(2))
        assert len(idle.ask(STATES[:3], 0, 3)) == 3
        fake.forward.gate.clear()
        fake.forward.entered.clear()
        busy.send(busy.request(STATES[:3], 0, 3))
        assert fake.forward.entered.wait(30)
        threading.Timer(1.0, fake.forward.gate.set).start()
    for each in (idle, busy):
        assert each.refusal()[0] in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    channel.close()


def test_an_engine_whose_process_is_killed_ends_the_stream(tiny_llm: Path) -> None:
    config = ServerConfig(model=tiny_llm, split=Split(1), engine_process=True, threads=1)
    with running_server(config) as port, stub_of(port) as stub:
        chunks = Chunks(stub, opened(stub, tiny_llm), 32)
        states = torch.randn(400, 32, generator=torch.Generator().manual_seed(1))
        assert chunks.ask(states[:200], 0, 200).shape == (200, 32)
        children = (Path("/proc") / "self" / "task").glob("*/children")
        [pid] = [int(pid) for each in children for pid in each.read_text().split() if is_worker(pid)]
        os.kill(pid, signal.SIGKILL)
        chunks.send(chunks.request(states[200:250], 200, 1))
        code, details = chunks.refusal()
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "the engine's process ended by itself (killed by signal 9)" in details


def test_an_engine_in_a_process_of_its_own_gives_what_it_gives_here(tiny_llm: Path) -> None:
    states, got = torch.randn(60, 32, generator=torch.Generator().manual_seed(1)), []
    for own in (False, True):
        config = ServerConfig(model=tiny_llm, split=Split(1), engine_process=own, threads=1)
        with running_server(config) as port, stub_of(port) as stub:
            chunks = Chunks(stub, opened(stub, tiny_llm), 32)
            got.append(torch.cat([chunks.ask(states[:50], 0, 50), chunks.ask(states[50:], 50, 10)]))
            bad = states[:5].clone()
            bad[2, 3] = float("nan")
            chunks.send(chunks.request(bad, 60, 5))
            code, details = chunks.refusal()
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert "not finite" in details
    torch.testing.assert_close(got[0], got[1])


def test_a_decoder_of_the_middle_alone_is_what_is_in_memory(tiny_llm: Path) -> None:
    """A third of the layers, and neither embedding nor head."""
    engine: Any = load(ServerConfig(model=tiny_llm, split=Split(1, 1)))
    held: Decoder = engine._forward._decoder
    assert held.layers == (1,)
    assert held.weight_bytes + load_ends(tiny_llm, Split(1, 1)).weight_bytes == load_decoder(tiny_llm).weight_bytes
