"""The replayed cloud: what a check costs that gets through, and what one costs that does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from runtime.deadline import Patience
from runtime.synera.chunk import ChunkRecord
from runtime.synera.knobs import Knobs
from runtime.synera.lens import Lens
from runtime.wire.sizes import (
    on_the_link,
    open_request_bytes,
    open_response_bytes,
    verify_request_bytes,
    verify_response_bytes,
)
from synera_env.busy import busy_of
from synera_env.radio import Radio, Windows
from synera_env.synera.replay import ReplayEpisode
from traces.links.generators import constant_link
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet

TOKEN = 0.19
SLOW = DeviceProfile("slow", "made up", call_ms=1e3 * TOKEN, layer_ms=0, position_ms=0, head_ms=0, busy_watts=1, wait_watts=2)
STEADY = CloudProfile("steady", "made up", forward_ms=30, token_ms=0)
LINK = constant_link(rtt_ms=60.0, uplink_mbps=10.0, downlink_mbps=30.0)
ALWAYS = Knobs(confidence_threshold=1.0, offload_budget=1.0, draft_length=1)
OPEN_UP, OPEN_DOWN = on_the_link(open_request_bytes()), on_the_link(open_response_bytes())


def episode(
    graphs: GraphSet,
    *,
    windows: Windows = (),
    lost: frozenset[int] | None = None,
    cloud: CloudProfile = STEADY,
    seed: int = 0,
    check_deadline: float = 2.0,
) -> ReplayEpisode:
    """An answer that the SLM alone takes to the token limit, a token every `TOKEN` seconds."""
    index = [i for i, g in enumerate(graphs) if slm_tokens(g) == graphs.meta.max_new_tokens][1]
    lens = Lens.from_tensors(graphs.lens_tensors)
    parts = (Radio(LINK, 0.0, windows), SLOW, busy_of(cloud, None, seed), lens, lost, check_deadline)
    return ReplayEpisode(graphs, index, *parts)


def slm_tokens(graph: object) -> int:
    node = 0
    while np.isnan(graph.score[node]):  # type: ignore[attr-defined]
        node = int(graph.exit_child[node, -1])  # type: ignore[attr-defined]
    return int(graph.depth[node])  # type: ignore[attr-defined]


def run(answer: ReplayEpisode, knobs: Knobs = ALWAYS) -> list[ChunkRecord]:
    answer.session.begin(answer.prompt_tokens, knobs)
    while not answer.session.advance(knobs).done:
        pass
    return list(answer.session.records)


def transfer(up: int, down: int) -> float:
    """Seconds of a request and a response on the link."""
    return 0.06 + up * 8 / 10e6 + down * 8 / 30e6


def whole(history: Sequence[int], draft: Sequence[int]) -> int:
    """Bytes of the first check of a session."""
    return on_the_link(verify_request_bytes(0, history, draft, 1))


# ---------------------------------------------------------------- outages


def test_a_cloud_that_is_never_reached_stalls_the_first_check_and_no_other(akin_graphs: GraphSet) -> None:
    """Open sent at 0 and 0.5, given up at 1; left alone to 1.5; tried in the background from the check at 1.57 on, for 2 s."""
    answer = episode(akin_graphs, windows=((0.0, 1e3),))
    assert answer.session.begin(answer.prompt_tokens, ALWAYS).probe_seconds is None
    records = run(answer)
    assert [r.cost.wait_seconds for r in records] == pytest.approx([1.0 - TOKEN] + [0.0] * 13)
    assert all(r.offloaded and r.error and r.verdict is None and r.judged == 0 for r in records)
    assert all(r.committed == r.draft.ids for r in records)
    free = {(r.cost.uplink_bytes, r.cost.downlink_bytes, r.cost.cloud_seconds, r.cost.cloud_tokens) for r in records}
    assert free == {(0, 0, 0.0, 0)}  # what was sent in the background would count into the first check that is sent
    again = ["it is being tried again" in str(r.error) for r in records]
    assert again == [1.5 <= 0.81 + TOKEN * number < 3.57 for number in range(1, 15)]
    assert all("next try in" in str(r.error) for r, tried in zip(records, again, strict=True) if not tried)
    for r in records:
        assert r.cost.joules == pytest.approx(SLOW.joules(r.draft.seconds, r.cost.wait_seconds, 0))


def test_a_lost_open_leaves_the_round_trip_unknown_for_the_answer(akin_graphs: GraphSet) -> None:
    answer = episode(akin_graphs, windows=((0.0, 0.9),))
    point = answer.session.begin(answer.prompt_tokens, Knobs(draft_length=1))
    while point is not None:
        assert point.probe_seconds is None
        point = answer.session.advance(Knobs(draft_length=1)).point  # type: ignore[assignment]


def test_an_open_that_meets_a_blip_is_saved_by_its_repeat(akin_graphs: GraphSet) -> None:
    records = run(episode(akin_graphs, windows=((0.0, 0.1),)))
    assert records[0].verdict is not None
    opened = 0.5 + transfer(OPEN_UP, OPEN_DOWN)  # sent again half-way to 1 s
    assert records[0].cost.wait_seconds == pytest.approx(
        opened - TOKEN + records[0].verdict.network_seconds + records[0].verdict.compute_seconds
    )
    answer = episode(akin_graphs, windows=((0.0, 0.1),))
    answer.session.begin(answer.prompt_tokens, ALWAYS)
    point = answer.session.advance(ALWAYS).point
    assert point is not None
    assert point.probe_seconds == pytest.approx(transfer(OPEN_UP, OPEN_DOWN)), "of the copy that was answered"


def test_after_a_loss_another_session_is_opened_ahead_and_sent_everything(akin_graphs: GraphSet) -> None:
    usual = run(episode(akin_graphs))
    second = usual[0].committed_at + TOKEN  # when the second check is sent
    answer = episode(akin_graphs, windows=((second - 0.01, second + 1.2),))
    records = run(answer)
    assert records[0].cost == usual[0].cost
    lost = records[1]
    assert (lost.draft.ids, lost.cost.uplink_bytes) == (usual[1].draft.ids, 2 * usual[1].cost.uplink_bytes)
    assert (lost.cost.wait_seconds, lost.cost.downlink_bytes) == (pytest.approx(1.0), 0)
    refused = [r for r in records[2:] if r.error]
    assert len(refused) == 3  # 0.5 s of tokens that take 0.19 s, and one during which the cloud is found again
    assert ["it is being tried again" in str(r.error) for r in refused] == [False, False, True]
    assert {(r.cost.wait_seconds, r.cost.uplink_bytes, r.cost.downlink_bytes) for r in refused} == {(0.0, 0, 0)}
    healed, history = records[5], [*answer.prompt_tokens, *(t for r in records[:5] for t in r.committed)]
    assert healed.verdict is not None
    assert healed.verdict.cloud_tokens == len(history) + 1
    assert healed.cost.uplink_bytes == OPEN_UP + whole(history, healed.draft.ids)
    said = verify_response_bytes(healed.verdict.accepted, healed.verdict.next_token, len(history) + 1, 1)
    assert healed.cost.downlink_bytes == OPEN_DOWN + on_the_link(said)
    trip = transfer(whole(history, healed.draft.ids), on_the_link(said))
    assert healed.verdict.network_seconds == pytest.approx(trip)
    assert healed.cost.wait_seconds == pytest.approx(trip + 0.03)
    later = records[6]
    assert later.verdict is not None
    assert later.verdict.cloud_tokens < 5, "the session holds what it was sent"


def test_a_check_that_meets_a_blip_is_saved_by_its_repeat(akin_graphs: GraphSet) -> None:
    usual = run(episode(akin_graphs))
    second = usual[0].committed_at + TOKEN
    saved, before = run(episode(akin_graphs, windows=((second - 0.01, second + 0.2),)))[1], usual[1]
    assert saved.verdict is not None
    assert before.verdict is not None
    assert (saved.committed, saved.cost.cloud_tokens) == (before.committed, before.cost.cloud_tokens)
    assert saved.cost.wait_seconds == pytest.approx(before.cost.wait_seconds + 0.5)  # half of 1 s
    assert saved.verdict.network_seconds == pytest.approx(before.verdict.network_seconds + 0.5)
    assert saved.cost.uplink_bytes == 2 * before.cost.uplink_bytes
    assert saved.cost.downlink_bytes == before.cost.downlink_bytes


def test_a_check_lost_after_its_open_has_both_on_its_bill(akin_graphs: GraphSet) -> None:
    lost_open = (
        0.0,
        0.9,
    )  # left alone until 1.5; found again by the fourth check, at 1.57; the fifth is the first that is sent
    before = run(episode(akin_graphs, windows=(lost_open,)))
    assert [r.verdict is None for r in before[:5]] == [True, True, True, True, False]
    late = episode(akin_graphs, windows=(lost_open, (1.7, 9.0)))  # between its Open and itself
    lost = run(late)[4]
    history = [*late.prompt_tokens, *(t for r in before[:4] for t in r.committed)]
    assert lost.cost.uplink_bytes == OPEN_UP + 2 * whole(history, lost.draft.ids)
    assert lost.cost.downlink_bytes == OPEN_DOWN
    patience = Patience()
    patience.opened(transfer(OPEN_UP, OPEN_DOWN))
    assert lost.cost.wait_seconds == pytest.approx(patience.check_seconds(0))


# ---------------------------------------------------------------- slow checks


def stalls(queue_ms: float) -> CloudProfile:
    """A cloud at which one request in ten waits that long, or longer."""
    return CloudProfile("stalls", "made up", 30, 0, queue_ms_quantiles=(*[0.0] * 91, *[queue_ms] * 10))


def test_a_check_that_takes_far_longer_than_it_should_is_abandoned_and_its_draft_kept(akin_graphs: GraphSet) -> None:
    waits = {True: 0, False: 0}
    for seed in range(20):
        records = run(episode(akin_graphs, cloud=stalls(5000.0), seed=seed))
        abandoned = [r.cost.wait_seconds for r in records if r.cost.uplink_bytes and r.verdict is None]
        assert all(wait < 1.5 for wait in abandoned[:1])
        assert all(wait < 3.0 for wait in abandoned[1:2]), "twice as long, until one is answered"
        for r in records:
            if r.cost.uplink_bytes:
                waits[r.verdict is None] += 1
            if r.verdict is None:
                assert r.committed == r.draft.ids
    assert waits[True] > 10
    assert waits[False] > 5 * waits[True]


def test_who_has_more_patience_waits_longer_and_loses_less(akin_graphs: GraphSet) -> None:
    def lost(check_deadline: float) -> int:
        answers = [run(episode(akin_graphs, cloud=stalls(1500.0), seed=s, check_deadline=check_deadline)) for s in range(10)]
        return sum(r.error is not None for records in answers for r in records)

    assert lost(1000.0) == 0
    assert lost(1.0) >= lost(2.0) > 10


def test_a_slow_check_is_repeated_and_run_once(akin_graphs: GraphSet) -> None:
    """The repeat finds it running: it is told when that is done, by whichever answer is there first."""
    slow = CloudProfile("slow", "made up", 30, 0, queue_ms_quantiles=(700.0,))
    record, usual = run(episode(akin_graphs, cloud=slow))[1], run(episode(akin_graphs))[1]
    assert record.verdict is not None
    assert usual.verdict is not None
    assert record.verdict.network_seconds == pytest.approx(usual.verdict.network_seconds)
    assert record.cost.wait_seconds == pytest.approx(usual.cost.wait_seconds + 0.7)
    assert record.cost.cloud_seconds == usual.cost.cloud_seconds
    first = run(episode(akin_graphs, cloud=slow))[0]
    assert first.verdict is not None
    assert first.cost.uplink_bytes == 2 * run(episode(akin_graphs))[0].cost.uplink_bytes  # half of 1.36 s is 0.68 s


def test_what_is_kept_meets_no_outage(akin_graphs: GraphSet) -> None:
    kept, cut_off = (run(episode(akin_graphs, windows=w), Knobs(draft_length=1)) for w in ((), ((0.0, 1e3),)))
    assert [r.cost for r in kept] == [r.cost for r in cut_off]


def test_each_answer_starts_with_a_cloud_that_nobody_has_lost(akin_graphs: GraphSet) -> None:
    answer = episode(akin_graphs, windows=((0.0, 0.9),))
    assert run(answer)[0].error
    assert run(answer)[0].error is None  # later on the same radio


# ---------------------------------------------------------------- scripted


def test_scripted_checks_are_lost_and_no_others(akin_graphs: GraphSet) -> None:
    records = run(episode(akin_graphs, windows=((0.0, 1e3),), lost=frozenset({1, 3, 4})))
    assert [number for number, r in enumerate(records, 1) if r.error] == [1, 3, 4]
    assert all(r.verdict for number, r in enumerate(records, 1) if number not in (1, 3, 4))
    assert all(r.error is None for r in run(episode(akin_graphs, windows=((0.0, 1e3),), lost=frozenset())))


# ---------------------------------------------------------------- load


def test_who_waits_long_meets_many(akin_graphs: GraphSet) -> None:
    """The load is the check itself and the background that the profile states, at the same quantile as the wait."""
    busy = CloudProfile("busy", "made up", 30, 0, queue_ms_quantiles=(0.0, 20.0), load_quantiles=(0.0, 40.0))
    verdicts = [r.verdict for seed in range(5) for r in run(episode(akin_graphs, cloud=busy, seed=seed))]
    loads = {v.load for v in verdicts if v}
    assert len(loads) > 10
    for v in verdicts:
        assert v is not None
        assert v.load == 1 + round(v.queue_seconds / 0.020 * 40)
        assert v.downlink_bytes == on_the_link(verify_response_bytes(v.accepted, v.next_token, v.cloud_tokens, int(v.load)))


def test_an_idle_cloud_has_the_check_alone(akin_graphs: GraphSet) -> None:
    assert {r.verdict.load for r in run(episode(akin_graphs)) if r.verdict} == {1.0}


@pytest.mark.parametrize("windows", [(), ((0.0, 1e3),)])
def test_a_result_needs_a_check(akin_graphs: GraphSet, windows: Windows) -> None:
    answer = episode(akin_graphs, windows=windows)
    answer.session.begin(answer.prompt_tokens, ALWAYS)
    with pytest.raises(RuntimeError, match="no chunk was submitted"):
        answer.session._verifier.result()
