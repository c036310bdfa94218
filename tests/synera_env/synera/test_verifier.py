"""The replayed cloud: what a check costs that gets through, and what one costs that does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from runtime.link import LOST_AFTER_SECONDS
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
    graphs: GraphSet, *, windows: Windows = (), lost: frozenset[int] | None = None, cloud: CloudProfile = STEADY, seed: int = 0
) -> ReplayEpisode:
    """An answer that the SLM alone takes to the token limit, a token every `TOKEN` seconds."""
    index = [i for i, g in enumerate(graphs) if slm_tokens(g) == graphs.meta.max_new_tokens][1]
    lens = Lens.from_tensors(graphs.lens_tensors)
    return ReplayEpisode(graphs, index, Radio(LINK, 0.0, windows), SLOW, cloud, lens, np.random.default_rng(seed), lost)


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


def test_a_cloud_that_is_never_reached_is_tried_ever_less_often(akin_graphs: GraphSet) -> None:
    """Open lost at 0.7; left alone to 1.2; the try at 1.27 lost at 1.97; left alone for 1 s; the try at 3.11; then for 2 s."""
    answer = episode(akin_graphs, windows=((0.0, 1e3),))
    assert answer.session.begin(answer.prompt_tokens, ALWAYS).probe_seconds is None
    records = run(answer)
    waits = [r.cost.wait_seconds for r in records]
    tried = [0.7 - TOKEN, 0, 0, LOST_AFTER_SECONDS, 0, 0, 0, 0, 0, LOST_AFTER_SECONDS, 0, 0, 0, 0]
    assert waits == pytest.approx(tried)
    assert [r.cost.uplink_bytes for r in records] == [OPEN_UP * (wait == LOST_AFTER_SECONDS) for wait in tried]
    assert all(r.offloaded and r.error and r.verdict is None and r.judged == 0 for r in records)
    assert all(r.committed == r.draft.ids for r in records)
    assert {(r.cost.downlink_bytes, r.cost.cloud_seconds, r.cost.cloud_tokens) for r in records} == {(0, 0.0, 0)}
    assert ["next try in" in str(r.error) for r in records] == [wait != LOST_AFTER_SECONDS for wait in tried]
    for r in records:
        assert r.cost.joules == pytest.approx(SLOW.joules(r.draft.seconds, r.cost.wait_seconds, r.cost.uplink_bytes))


def test_a_lost_open_leaves_the_round_trip_unknown_for_the_answer(akin_graphs: GraphSet) -> None:
    answer = episode(akin_graphs, windows=((0.0, 0.1),))
    point = answer.session.begin(answer.prompt_tokens, Knobs(draft_length=1))
    while point is not None:
        assert point.probe_seconds is None
        point = answer.session.advance(Knobs(draft_length=1)).point  # type: ignore[assignment]


def test_after_a_loss_another_session_is_opened_and_sent_everything(akin_graphs: GraphSet) -> None:
    usual = run(episode(akin_graphs))
    second = usual[0].committed_at + TOKEN  # when the second check is sent
    answer = episode(akin_graphs, windows=((second - 0.01, second + 0.01),))
    records = run(answer)
    assert records[0].cost == usual[0].cost
    lost = records[1]
    assert (lost.draft.ids, lost.cost.uplink_bytes) == (usual[1].draft.ids, usual[1].cost.uplink_bytes)
    assert (lost.cost.wait_seconds, lost.cost.downlink_bytes) == (pytest.approx(LOST_AFTER_SECONDS), 0)
    refused = [r for r in records[2:] if r.error]
    assert len(refused) == 2  # 0.5 s of tokens that take 0.19 s
    assert {(r.cost.wait_seconds, r.cost.uplink_bytes, r.cost.downlink_bytes) for r in refused} == {(0.0, 0, 0)}
    healed, history = records[4], [*answer.prompt_tokens, *(t for r in records[:4] for t in r.committed)]
    assert healed.verdict is not None
    assert healed.verdict.cloud_tokens == len(history) + 1
    assert healed.cost.uplink_bytes == OPEN_UP + whole(history, healed.draft.ids)
    said = verify_response_bytes(healed.verdict.accepted, healed.verdict.next_token, len(history) + 1, 1)
    assert healed.cost.downlink_bytes == OPEN_DOWN + on_the_link(said)
    trips = transfer(OPEN_UP, OPEN_DOWN) + transfer(whole(history, healed.draft.ids), on_the_link(said))
    assert healed.verdict.network_seconds == pytest.approx(trips)
    assert healed.cost.wait_seconds == pytest.approx(trips + 0.03)
    later = records[5]
    assert later.verdict is not None
    assert later.verdict.cloud_tokens < 5, "the session holds what it was sent"


def test_a_check_lost_after_its_open_has_both_on_its_bill(akin_graphs: GraphSet) -> None:
    lost_open = (0.0, 0.1)  # the cloud is left alone until 1.2 s, so that the fourth check is the first that is sent
    before = run(episode(akin_graphs, windows=(lost_open,)))
    assert [r.verdict is None for r in before[:4]] == [True, True, True, False]
    sent = before[2].committed_at + TOKEN
    late = episode(akin_graphs, windows=(lost_open, (sent + 0.01, 9.0)))  # between its Open and itself
    lost = run(late)[3]
    history = [*late.prompt_tokens, *(t for r in before[:3] for t in r.committed)]
    assert lost.cost.uplink_bytes == OPEN_UP + whole(history, lost.draft.ids)
    assert lost.cost.downlink_bytes == OPEN_DOWN
    assert lost.cost.wait_seconds == pytest.approx(transfer(OPEN_UP, OPEN_DOWN) + LOST_AFTER_SECONDS)


def test_what_is_kept_meets_no_outage(akin_graphs: GraphSet) -> None:
    kept, cut_off = (run(episode(akin_graphs, windows=w), Knobs(draft_length=1)) for w in ((), ((0.0, 1e3),)))
    assert [r.cost for r in kept] == [r.cost for r in cut_off]


def test_each_answer_starts_with_a_cloud_that_nobody_has_lost(akin_graphs: GraphSet) -> None:
    answer = episode(akin_graphs, windows=((0.0, 0.5),))
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
