"""`synera loadtest`: what its devices ask, what they do when they are refused, what is counted, and that it drives a real verifier."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from multiprocessing import Pipe
from pathlib import Path

import grpc
import numpy as np
import pytest

from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.errors import CloudBusyError, CloudRejectedError, CloudUnavailableError, LateError, SettingError
from runtime.synera.knobs import Knobs
from runtime.wire import synera_pb2 as pb
from scripts import loadtest
from scripts._attacks import ATTACKS, Served
from scripts._hostile import Newcomer, ask_as_newcomer, phases
from scripts._load import LoadError, drive, received, served
from scripts._load_answers import Chunk, MadeUpAnswer, ScriptedAnswer, ScriptedCheck, Source, scripts_of
from scripts._load_desk import status_of, wait_seconds
from scripts._load_machine import _open_files, listener, resident_bytes
from scripts._load_plan import ALWAYS, Plan, Target, at_rate, fitted
from scripts._load_result import CheckSample, Measured, Quantiles, Samples, StreamSample, sum_up
from scripts._load_worker import Job, work
from scripts.loadtest import Arguments
from tests.support.hostile import Answer, Asked, HostileServer, fails, hostile, until_call
from tests.support.recorded import PHONE, Recorded, recorded
from traces import bundled
from traces.workload.generators import poisson
from traces.workload.store import save_workload
from traces.workload.trace import Workload

INFO = pb.ModelInfoResponse(
    model="fake", fingerprint="f0", tokenizer_hash="t0", context_tokens=256, max_draft_tokens=16, vocab=100, engine="none"
)
NOBODY = "127.0.0.1:1"
BUSY = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, kind="CloudBusyError")


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.fixture(scope="module")
def graphs(pair: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs") / "graphs.safetensors"
    pair.graphs.save(path)
    return path


@pytest.fixture(scope="module")
def verifier(pair: Recorded) -> Iterator[str]:
    with running_server(ServerConfig(pair.llm, threads=1)) as port:
        yield f"127.0.0.1:{port}"


def workload(at: list[float], context: int = 20, generated: int = 6, seconds: float = 10.0) -> Workload:
    tokens = np.ones(len(at), np.int64)
    return Workload("made up", "A test's.", seconds, np.array(at), tokens * context, tokens * generated)


def driven(server: HostileServer, plan: Plan, source: Source = None) -> Samples:
    """One process's part of a load, on a thread."""
    with CloudClient(server.target) as client:
        info = client.model_info()
    ours, theirs = Pipe()
    thread = threading.Thread(target=work, args=(Job(Target((server.target,)), plan, info, source, 0), theirs))
    thread.start()
    try:
        assert ours.recv() is None
        ours.send(time.monotonic() + 0.1)
        found = ours.recv()
    finally:
        thread.join()
    assert isinstance(found, Samples), found
    return found


def short(**changes: object) -> Plan:
    return replace(Plan(devices=1, seconds=0.6, warmup_seconds=0.0, graphs=None), **changes)  # type: ignore[arg-type]


def script(*drafts: tuple[int, ...], next_token: int = 7) -> tuple[ScriptedCheck, ...]:
    """A walk in which all drafts are accepted."""
    history, checks = (11, 12, 13), []
    for draft in drafts:
        checks.append(ScriptedCheck(Chunk(history, draft, 0.0), len(draft), next_token))
        history = (*history, *draft, next_token)
    return tuple(checks)


# ---------------------------------------------------------------- what an answer asks


def test_a_recorded_walk_asks_what_the_session_asks_and_knows_the_verdicts(pair: Recorded, graphs: Path) -> None:
    found = scripts_of(graphs, ALWAYS, None)
    assert len(found.answers) + found.left_out == len(pair.graphs)
    assert found.llm_fingerprint == pair.graphs.meta.llm_fingerprint
    prompts = {tuple(graph.prompt_tokens.tolist()): graph for graph in pair.graphs}
    for checks in found.answers:
        graph, history = prompts[checks[0].chunk.history], checks[0].chunk.history
        for check in checks:
            assert check.chunk.history == history, "every chunk is checked, so nothing comes between"
            assert check.chunk.think_seconds == 0.0
            node = 0
            for token in history[len(checks[0].chunk.history) :]:
                node = graph.child(node, token)
            said = []
            for token in (*check.chunk.draft[: check.accepted], None):
                said.append(int(graph.llm_token[node]))
                node = graph.child(node, said[-1]) if token is not None else node
            assert tuple(said[: check.accepted]) == check.chunk.draft[: check.accepted]
            assert check.next_token in (None, said[-1])
            history = (*history, *check.chunk.draft[: check.accepted], check.next_token or 0)


def test_devices_that_are_choosy_ask_less_and_send_what_they_kept() -> None:
    path = bundled.graphs("test")
    always = scripts_of(path, ALWAYS, None)
    some = scripts_of(path, Knobs(confidence_threshold=0.7, offload_budget=1.0), None)
    assert sum(map(len, some.answers)) < sum(map(len, always.answers))
    kept = [
        len(after.chunk.history) - len(before.chunk.history) - before.accepted - 1
        for answer in some.answers
        for before, after in pairwise(answer)
    ]
    assert max(kept) > 0


def test_thinking_takes_what_the_device_takes(graphs: Path, tmp_path: Path) -> None:
    PHONE.save(tmp_path / "phone.json")
    paced = scripts_of(graphs, ALWAYS, tmp_path / "phone.json")
    assert all(check.chunk.think_seconds > 0.0 for answer in paced.answers for check in answer)


def test_a_scripted_answer_goes_on_with_the_truth_and_tells_right_from_wrong() -> None:
    answer = ScriptedAnswer((*script((1, 2), (3,)), ScriptedCheck(Chunk((9,), (4, 2), 0.0), 2, None)))
    assert answer.chunk() == Chunk((11, 12, 13), (1, 2), 0.0)
    assert not answer.settle(1, 50)
    assert answer.chunk() == Chunk((11, 12, 13, 1, 2, 7), (3,), 0.0)
    assert answer.settle(1, 7)
    assert answer.settle(2, 99), "what the LLM would say after the answer's end is nobody's business"
    assert answer.chunk() is None


def test_a_made_up_answer_goes_on_with_what_the_verifier_said() -> None:
    answer = MadeUpAnswer(np.random.default_rng(0), prompt_tokens=5, answer_tokens=6, vocab=30, draft_tokens=4)
    first = answer.chunk()
    assert first is not None
    assert (len(first.history), len(first.draft)) == (5, 4)
    assert answer.settle(2, 8) is None
    second = answer.chunk()
    assert second is not None
    assert second.history == (*first.history, *first.draft[:2], 8)
    assert len(second.draft) == 3, "no more than the answer has room for"
    answer.settle(3, 8)
    assert answer.chunk() is None


# ---------------------------------------------------------------- what a device does


def test_a_device_sends_only_what_the_cloud_does_not_hold_and_closes_its_sessions() -> None:
    with hostile(INFO, {}) as server:
        found = driven(server, short(), [script((1, 2), (3, 4))])
    first, second = server.calls("Verify")[:2]
    assert (first.seq, first.prefix_length, list(first.context), list(first.draft)) == (1, 0, [11, 12, 13], [1, 2])
    assert (second.seq, second.prefix_length, list(second.context), list(second.draft)) == (2, 6, [], [3, 4])
    assert first.session_id == second.session_id
    assert len(server.calls("Open")) == len(server.calls("Close")) >= 1
    assert found.counts["wrong"] == 0
    assert found.counts["checked"] == len(found.checks) > 2
    assert not found.errors
    assert not found.refusals


def test_verdicts_that_the_graph_s_llm_would_not_give_are_counted() -> None:
    with hostile(INFO, {}) as server:
        found = driven(server, short(), [script((1, 2), (3, 4), next_token=8)])
    assert found.counts["wrong"] == found.counts["checked"] > 0


def test_a_refused_check_is_repeated_as_it_was_and_its_wait_counts() -> None:
    with hostile(INFO, {"Verify": until_call(2, BUSY)}) as server:
        found = driven(server, short(seconds=1.0), [script((1, 2))])
    first, second, third = server.calls("Verify")[:3]
    assert first == second == third
    assert dict(found.refusals) == {"RESOURCE_EXHAUSTED, without a time to try again": 2}
    assert found.checks[0].answered_at - found.checks[0].meant_at >= 0.3, "0.1 and 0.2 s were waited"
    assert found.counts["given_up"] == 0


def test_a_refused_open_is_repeated_with_its_key() -> None:
    with hostile(INFO, {"Open": until_call(2, BUSY)}) as server:
        found = driven(server, short(seconds=1.0), [script((1, 2))])
    assert len({request.key for request in server.calls("Open")[:3]}) == 1
    assert sum(found.refusals.values()) == 2
    assert found.checks


def test_a_lost_session_is_healed_with_the_whole_history() -> None:
    lost = fails(grpc.StatusCode.NOT_FOUND, kind="SessionLostError")
    with hostile(INFO, {"Verify": lambda asked: lost(asked) if asked.count == 2 else asked.honest}) as server:
        found = driven(server, short(), [script((1, 2), (3, 4))])
    _, refused, healed = server.calls("Verify")[:3]
    assert healed.session_id != refused.session_id
    assert (healed.seq, healed.prefix_length, list(healed.context)) == (1, 0, [11, 12, 13, 1, 2, 7])
    assert found.counts["reopened"] == 1
    assert dict(found.errors) == {"NOT_FOUND": 1}
    assert found.counts["wrong"] == 0


def test_what_no_repeat_can_help_is_given_up_and_nobody_begins_anew_at_once() -> None:
    with hostile(INFO, {"Verify": fails(grpc.StatusCode.INVALID_ARGUMENT, kind="CloudRejectedError")}) as server:
        found = driven(server, short(), [script((1, 2))])
    assert not found.checks
    assert found.counts["given_up"] == found.errors["INVALID_ARGUMENT"] == len(server.calls("Verify")) <= 4


def test_what_a_verifier_asks_for_is_waited() -> None:
    assert wait_seconds(CloudBusyError("full", retry_after_seconds=1.5), 1) == 1.5
    assert wait_seconds(CloudBusyError("full", retry_after_seconds=1e9), 1) == 30.0
    assert wait_seconds(CloudBusyError("full"), 2) == wait_seconds(CloudUnavailableError("gone"), 2) > 0


def test_failures_are_told_by_their_status() -> None:
    told = [status_of(each("x")) for each in (CloudBusyError, LateError, CloudUnavailableError, CloudRejectedError)]
    assert told == ["RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "UNAVAILABLE", "INVALID_ARGUMENT"]


# ---------------------------------------------------------------- who comes when


def test_answers_that_arrive_wait_for_nobody() -> None:
    """While the first ones are not answered yet the others begin all the same, and each waits from its own time on."""
    inside, together = threading.Semaphore(0), threading.Barrier(3)

    def slow(asked: Asked) -> object:
        inside.release()
        together.wait(20)  # passes only if three checks are here at a time
        return asked.honest

    plan = short(arrivals=workload([0.0, 0.05, 0.1]), seconds=1.0)
    with hostile(INFO, {"Verify": slow}) as server:  # type: ignore[dict-item]
        found = driven(server, plan, [script((1, 2))])
    assert len(server.calls("Open")) == len(found.checks) == 3
    assert found.counts["answers"] == 3
    latencies = sorted(each.answered_at - each.meant_at for each in found.checks)
    assert latencies[-1] - latencies[0] >= 0.05, "the first waited for the third"
    assert min(found.answer_seconds) < max(found.answer_seconds)


def test_some_of_those_that_arrive_are_other_users() -> None:
    def tokens(asked: Asked) -> Iterator[pb.GenerateResponse]:
        for _ in range(asked.request.max_new_tokens):
            yield pb.GenerateResponse(token=5, queue_ms=0.0, compute_ms=0.1)

    answers: dict[str, Answer] = {"Generate": tokens}  # type: ignore[dict-item]
    plan = short(arrivals=workload([0.0, 0.1]), prefill_share=1.0)
    with hostile(INFO, answers) as server:
        found = driven(server, plan)
    assert not server.calls("Open")
    assert [each.tokens for each in found.streams] == [6, 6]
    assert found.counts["stream_tokens"] == 12
    assert len(found.gaps_seconds) == 10
    with hostile(INFO, answers) as server:
        found = driven(server, short(streams=2, stream_lengths=workload([0.0], context=40)), [script((1, 2))])
    assert found.checks
    assert found.counts["stream_tokens"] > 0


def test_lengths_are_brought_into_the_model_s_context() -> None:
    short_and_long = replace(
        poisson(10.0, 100.0), context_tokens=np.r_[np.full(990, 1000), np.full(10**6, 9)][: len(poisson(10.0, 100.0))]
    )
    found = fitted(short_and_long, 512)
    assert found.context_tokens.max() <= 384
    assert found.generated_tokens.max() <= 64
    long = replace(workload([0.0] * 100, context=1000), context_tokens=np.r_[np.full(99, 1000), 100_000])
    assert fitted(long, 512).context_tokens.min() == 384, "one long request does not make the others short"


def test_a_workload_s_beginning_has_the_rate_that_is_asked_for() -> None:
    quiet_at_first = workload([0.0, 30.0, 60.0, 60.1, 60.2], seconds=61.0)
    found = at_rate(quiet_at_first, 1.0, 3.0)
    assert found.arrival_seconds.tolist() == pytest.approx([0.0, 1.499, 2.998], abs=0.01)
    assert at_rate(quiet_at_first, 10.0, 5.0).rate == pytest.approx(10.0)


# ---------------------------------------------------------------- figures


def check(meant: float, answered: float, **changes: float) -> CheckSample:
    sample = CheckSample(meant, answered, 1.0, 4.0, 2.0, 5, 3, 4, 2)
    return sample._replace(**changes)  # type: ignore[arg-type]


MEASURED = Measured(
    load=2.0, open_loop=False, drafts="none", began=100.0, seconds=10.0, cores=2, verifier_cores=0.5, machine_cores=1.0
)


def test_rates_count_what_was_answered_in_time_and_latencies_what_was_meant_to_be_sent() -> None:
    samples = Samples(checks=[check(99.0, 100.5), check(101.0, 101.1), check(109.9, 110.2)])
    samples.counts.update(requests=5, checked=3, wrong=1, stream_tokens=7, prompt_tokens=100)
    found = sum_up([samples], MEASURED)
    assert (found.checks, found.checks_per_second) == (2, 0.2)
    assert found.verified_tokens_per_second == 0.8
    assert found.committed_tokens_per_second == 0.6
    assert found.processed_tokens_per_second == (5 + 5 + 107) / 10
    assert found.acceptance == 0.5
    assert found.latency_ms is not None
    assert found.latency_ms.count == 2
    assert found.latency_ms.most == pytest.approx(300.0)
    assert found.other_ms is not None
    assert found.other_ms.most == pytest.approx(295.0)
    assert found.batch_tokens == Quantiles(2, 10.0, 10.0, 10.0, 10.0, 10.0), "5 tokens had half of the compute"
    assert (found.wrong, found.checked) == (1, True)
    assert found.verifier_cpu_ms_per_check == 2500.0


def test_nothing_at_all_has_no_latencies() -> None:
    found = sum_up([Samples()], MEASURED)
    assert (found.latency_ms, found.acceptance, found.streams, found.checked) == (None, None, None, False)
    assert found.generator.cpu_ms_per_request is None


def test_what_several_processes_saw_is_put_together() -> None:
    one = Samples(checks=[check(101.0, 101.1)], streams=[StreamSample(101.0, 101.2, 101.5, 4)], cpu_seconds=2.0)
    other = Samples(checks=[check(102.0, 102.1)], late_seconds=[0.001], cpu_seconds=1.0)
    other.refusals["RESOURCE_EXHAUSTED"] = 2
    found = sum_up([one, other], MEASURED)
    assert found.checks == 2
    assert found.refusals == {"RESOURCE_EXHAUSTED": 2}
    assert found.generator.cpu_cores == pytest.approx(0.3)
    assert found.generator.busiest_cores == pytest.approx(0.2)
    assert found.streams is not None
    assert found.streams.ttft_ms is not None
    assert found.streams.ttft_ms.mean == pytest.approx(200.0)
    assert found.generator.warning == ""


@pytest.mark.parametrize(
    ("samples", "machine", "says"),
    [
        (Samples(cpu_seconds=9.0), 1.0, "its busiest process takes 90% of a core"),
        (Samples(late_seconds=[0.02] * 20), 1.0, "20.0 ms or more after their time"),
        (Samples(cpu_seconds=2.0), 2.0, "all 2 cores of this machine are busy, 1.3 with other work"),
    ],
)
def test_a_load_generator_that_is_too_busy_says_so(samples: Samples, machine: float, says: str) -> None:
    assert says in sum_up([samples], replace(MEASURED, machine_cores=machine)).generator.warning


# ---------------------------------------------------------------- all of it


def test_a_real_verifier_gives_no_wrong_answer(verifier: str, graphs: Path) -> None:
    ticks: list[float] = []
    plan = Plan(devices=3, seconds=1.0, warmup_seconds=0.2, graphs=graphs, processes=2)
    found = drive(Target((verifier,)), plan, ticks.append)
    assert found.checked
    assert found.wrong == 0
    assert not found.errors
    assert not found.refusals
    assert "held against the graph's LLM" in found.drafts
    assert found.latency_ms is not None
    assert found.latency_ms.p50 <= found.latency_ms.p95
    assert found.cloud_load is not None
    assert 1 <= found.cloud_load.most <= 3
    assert found.generator.processes == 2
    assert found.generator.cpu_cores > 0
    assert ticks == sorted(ticks)
    assert ticks[-1] == pytest.approx(1.2)
    with pytest.raises(ZeroDivisionError):  # as Ctrl-C does
        drive(Target((verifier,)), plan, lambda seconds: 1 // 0)


def test_the_command_sweeps_and_draws(
    verifier: str, graphs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = Arguments(cloud=verifier, graphs=graphs, seconds=0.5, sweep="1,2", json=Path("found.json"))
    loadtest.main(given)
    said = capsys.readouterr().out
    assert "by load; latencies in ms" in said
    assert "1: wrong answers: 0 of " in said
    assert "picture: runs/loadtest.png" in said
    assert "next: synera bench cloud" in said
    assert (tmp_path / "runs" / "loadtest.png").stat().st_size > 1000
    loads = json.loads((tmp_path / "found.json").read_text())["loads"]
    assert [each["load"] for each in loads] == [1.0, 2.0]
    assert all(each["latency_ms"]["p95"] > 0 and each["counts"]["wrong"] == 0 for each in loads)


def test_an_open_loop_with_other_users_on_a_model_without_graphs(
    verifier: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bundled graphs are another LLM's, so all is made up, and the command says what that means."""
    save_workload(poisson(30.0, 20.0, seed=1), tmp_path / "w.json")
    loadtest.main(Arguments(cloud=verifier, rate=8.0, workload=tmp_path / "w.json", prefill_share=0.4, seconds=2.0))
    said = capsys.readouterr().out
    assert "no verdict can be checked" in said
    assert "wrong answers: not known" in said
    assert "answers/s that arrive" in said
    assert "stream TTFT, ms" in said
    assert "--rate 8.0" in said.partition("next: synera loadtest ")[2]


def test_wrong_answers_end_the_command_with_a_failure(
    verifier: str,
    pair: Recorded,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Graphs in which the LLM says nothing but what the SLM says: of a pair that differs, many verdicts contradict that."""
    path = tmp_path / "forged.safetensors"
    pair.graphs.save(path)
    forged = scripts_of(path, ALWAYS, None)
    assert any(check.accepted < len(check.chunk.draft) for answer in forged.answers for check in answer)
    answers = tuple(
        tuple(each._replace(accepted=len(each.chunk.draft), next_token=None) for each in answer) for answer in forged.answers
    )
    monkeypatch.setattr("scripts._load.scripts_of", lambda *_: replace(forged, answers=answers))
    with pytest.raises(SystemExit) as left:
        loadtest.main(Arguments(cloud=verifier, graphs=path, seconds=0.5, devices=2))
    assert left.value.code == 1
    assert "wrong answers: 0 of" not in capsys.readouterr().out


def test_what_the_load_generator_can_do_is_measured_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    loadtest.main(Arguments(calibrate=True, devices=4, seconds=0.5))
    said = capsys.readouterr().out
    assert "a verifier that computes nothing: nothing; drafts: made up" in said
    assert "100.0% of the drafts accepted" in said
    assert "load generator: 1 process(es), " in said


def test_the_command_attacks_and_tells_what_that_does_to_honest_devices(
    verifier: str, graphs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "found.json"
    given = Arguments(cloud=verifier, graphs=graphs, seconds=0.3, devices=2, hostile="garbage", json=path)
    loadtest.main(given)
    said = capsys.readouterr().out
    assert "garbage: Random bytes, random messages" in said
    assert "x INVALID_ARGUMENT CloudRejectedError" in said
    assert "honest devices under attack" in said
    found = json.loads(path.read_text())["phases"]
    assert [each["name"] for each in found] == ["quiet", "garbage", "quiet again"]
    for each in found:
        assert each["load"]["counts"]["checked"] > 0
        assert each["load"]["counts"].get("wrong", 0) == 0
        assert each["load"]["errors"] == {}
        assert each["newcomer"]["problem"] == ""
        assert each["memory"]["most"] >= each["memory"]["before"] > 0, "of this very process"
        assert (each["attacked"] is None) == each["name"].startswith("quiet")
    ended = found[1]["attacked"]["ended"]
    assert sum(ended.values()) == found[1]["attacked"]["sent"] > 20
    assert {name.partition(" ")[0] for name in ended} <= {"OK", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "NOT_FOUND"}


def test_a_verifier_that_an_attack_left_ill_is_told_and_fails_the_command(
    verifier: str, graphs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts._hostile._beside", lambda *_: (sum_up([Samples()], MEASURED), None))
    monkeypatch.setattr("scripts._hostile.ask_as_newcomer", lambda *_: Newcomer(3.0, "health is not SERVING"))
    with pytest.raises(SystemExit) as left:
        loadtest.main(Arguments(cloud=verifier, graphs=graphs, seconds=0.3, devices=1, hostile="opens"))
    assert left.value.code == 1
    assert "opens: a newcomer afterwards: health is not SERVING" in capsys.readouterr().out


def test_a_newcomer_s_verdict_is_held_against_the_graphs(verifier: str, graphs: Path) -> None:
    info, answers = served(Target((verifier,))), scripts_of(graphs, ALWAYS, None).answers
    assert ask_as_newcomer(verifier, info, answers).problem == ""
    assert ask_as_newcomer(verifier, info, None).problem == ""
    first = answers[0][0]
    assert ask_as_newcomer(verifier, info, [[first._replace(accepted=first.accepted + 1)]]).problem == "a wrong verdict"


def test_a_newcomer_who_finds_nobody_says_so(verifier: str) -> None:
    assert ask_as_newcomer(NOBODY, served(Target((verifier,))), None).problem.startswith("UNAVAILABLE: ")


def test_the_process_behind_a_port_and_its_memory_are_found(verifier: str) -> None:
    assert listener(int(verifier.rpartition(":")[2])) == os.getpid()
    assert listener(1) is None
    assert (resident_bytes(os.getpid()) or 0) > 10**7
    assert resident_bytes(None) is None


def test_a_file_that_is_closed_meanwhile_hides_no_other(tmp_path: Path) -> None:
    """A process closes files while it is looked at."""
    folder = tmp_path / "fd"
    folder.mkdir()
    (folder / "3").touch()  # no link: as one that is gone
    for name in ("4", "5"):
        (folder / name).symlink_to(f"socket:[{name}]")
    assert _open_files(tmp_path) == {"socket:[4]", "socket:[5]"}
    assert _open_files(tmp_path / "over") == set()


def test_all_attacks_can_be_named() -> None:
    """Those of a whole model, which the load's own devices ask."""
    assert Arguments(hostile="all").attacks == tuple(name for name, each in ATTACKS.items() if each.of is not Served.MIDDLE)
    assert Arguments(hostile="long,churn").attacks == ("long", "churn")
    assert Arguments().attacks == ()


@pytest.mark.parametrize("address", ["192.0.2.1:1", "[2001:db8::1]:1", "cloud.example:1", "127.0.0.1:1,192.0.2.1:1"])
def test_only_verifiers_of_this_machine_are_attacked(address: str) -> None:
    with pytest.raises(SettingError, match="must be of this machine's loopback"):
        loadtest.main(Arguments(cloud=address, hostile="all"))
    with pytest.raises(SettingError, match="must be of this machine's loopback"):
        next(phases(Target(tuple(address.split(","))), short(), ["churn"], lambda *_: None))


def test_a_process_that_ends_without_a_word_is_told() -> None:
    ours, theirs = Pipe()
    theirs.close()
    with pytest.raises(LoadError, match="ended by itself"):
        received(ours, time.monotonic() + 5)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"sweep": value} for value in ("1,,2", "a", "1.5", "0", "5000", "-1", "1;2", "1,2,", " 1", "٣")),
        {"rate": 1.0, "sweep": "0"},
        {"rate": 1.0, "sweep": "1e3"},
        {"prefill_share": 0.5},
        {"prefill_share": 1.5, "rate": 1.0},
        {"rate": float("nan")},
        {"rate": -1.0},
        {"devices": 0},
        {"seconds": 0.0},
        {"draft_length": 9},
        {"confidence": 2.0},
        {"connections": 0},
        {"cloud": "127.0.0.1:1", "calibrate": True},
        {"cloud": "127.0.0.1:1", "pace": Path("x.json")},
        {"calibrate": True, "model": Path("x")},
        *({"hostile": value} for value in ("chrun", "churn,", ",", "churn,churn", "all,churn", "Churn", " ")),
        {"hostile": "all", "sweep": "1,2"},
        {"hostile": "all", "calibrate": True},
        {"hostile": "all", "picture": Path("x.png")},
    ],
)
def test_wrong_arguments_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        Arguments(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"prefill_share": 0.5}, {"streams": 1}, {"devices": 0}, {"processes": 65}, {"seed": -1}])
def test_wrong_plans_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        Plan(**wrong)  # type: ignore[arg-type]
    with pytest.raises(SettingError):
        Target(())
