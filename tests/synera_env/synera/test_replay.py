"""The replayed world held against the live one: the same session over a token graph and over the models themselves."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.clock import SimulatedClock
from runtime.errors import UncoveredError
from runtime.synera.chunk import ChunkRecord, Draft
from runtime.synera.knobs import Knobs
from runtime.synera.lens import QUANTILES, Lens
from runtime.wire.sizes import (
    GRPC_OVERHEAD_BYTES,
    open_request_bytes,
    open_response_bytes,
    verify_request_bytes,
    verify_response_bytes,
)
from synera_env.busy import busy_of
from synera_env.radio import Radio
from synera_env.synera.replay import ReplayEpisode
from synera_env.synera.walk import ReplayDrafter, Walk
from tests.support.graphs import CLOUD, DEVICE, live_answer, record_tiny
from traces.links.generators import constant_link, markov_link
from traces.links.trace import LinkTrace
from traces.profile import CloudProfile
from traces.synera.graph import GraphSet
from traces.synera.record import Models

LINK = constant_link(rtt_ms=60.0, uplink_mbps=10.0, downlink_mbps=30.0)
# Fixed odd values: a draft's confidence, margin or importance never falls on one of them.
levels = st.sampled_from([0.0, 0.0713, 0.2171, 0.3917, 0.5719, 0.7717, 0.9331, 1.0])
any_knobs = st.builds(
    Knobs,
    confidence_threshold=levels,
    importance_threshold=levels,
    exit_index=st.integers(-1, 1),
    exit_margin=levels,
    draft_length=st.integers(1, 8),
    offload_budget=levels,
)
knob_sequences = st.lists(any_knobs, min_size=1, max_size=12)
world_settings = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def replay(
    graphs: GraphSet, index: int, *, link: LinkTrace = LINK, cloud: CloudProfile = CLOUD, offset: float = 0.0, seed: int = 0
) -> ReplayEpisode:
    lens = Lens.from_tensors(graphs.lens_tensors)
    return ReplayEpisode(graphs, index, Radio(link, offset), DEVICE, busy_of(cloud, None, seed), lens)


def run(episode: ReplayEpisode, knobs: list[Knobs]) -> list[ChunkRecord]:
    """Run an answer to its end with knobs in turn (the last ones repeat)."""
    episode.session.begin(episode.prompt_tokens, knobs[0])
    for turn in range(1000):
        if episode.session.advance(knobs[min(turn, len(knobs) - 1)]).done:
            return list(episode.session.records)
    raise AssertionError("the answer does not end")


def assert_same_draft(live: Draft, replayed: Draft) -> None:
    assert live.ids == replayed.ids
    assert replayed.seconds == pytest.approx(live.seconds, rel=1e-9)
    # A quantile is a place in a table, and rounding may take a figure that stands on an entry over it.
    assert replayed.importance == pytest.approx(live.importance, abs=1.01 / QUANTILES)
    for one, other in zip(live.tokens, replayed.tokens, strict=True):
        assert (one.exit_index, one.runner_up) == (other.exit_index, other.runner_up)
        assert other.confidence == pytest.approx(one.confidence, abs=1e-5)
        assert other.margin == pytest.approx(one.margin, abs=1e-5)
        assert other.entropy == pytest.approx(one.entropy, abs=1e-4)
        np.testing.assert_allclose(other.sketch, one.sketch, atol=0.01)  # half precision of values up to 8


def check_replay_is_live(models: Models, graphs: GraphSet, index: int, knobs: list[Knobs]) -> list[ChunkRecord]:
    """Run the same knobs in both worlds and compare every chunk."""
    live, replayed = live_answer(models, graphs).session, replay(graphs, index)
    points = live.begin(replayed.prompt_tokens, knobs[0]), replayed.session.begin(replayed.prompt_tokens, knobs[0])
    for turn in range(1000):
        one, other = points
        assert_same_draft(one.draft, other.draft)
        assert (one.chunk, one.offloaded, one.prompt_tokens, one.generated_tokens, one.max_new_tokens) == (
            other.chunk,
            other.offloaded,
            other.prompt_tokens,
            other.generated_tokens,
            other.max_new_tokens,
        )
        chosen = knobs[min(turn, len(knobs) - 1)]
        steps = live.advance(chosen), replayed.session.advance(chosen)
        records = steps[0].record, steps[1].record
        assert records[0].offloaded == records[1].offloaded
        assert records[0].committed == records[1].committed
        assert steps[0].done == steps[1].done
        if records[0].verdict and records[1].verdict:
            assert records[0].verdict.accepted == records[1].verdict.accepted
            if not steps[0].done:  # past the end of an answer nobody asks what the LLM would say
                assert records[0].verdict.next_token == records[1].verdict.next_token
        if steps[0].point is None or steps[1].point is None:
            assert live.answer == replayed.session.answer
            return list(replayed.session.records)
        points = steps[0].point, steps[1].point
    raise AssertionError("the answer does not end")


# ---------------------------------------------------------------- replay = live


@world_settings
@given(index=st.integers(0, 5), knobs=knob_sequences)
def test_a_replayed_answer_is_the_live_one(akin_models: Models, akin_graphs: GraphSet, index: int, knobs: list[Knobs]) -> None:
    check_replay_is_live(akin_models, akin_graphs, index, knobs)


@settings(world_settings, max_examples=30)
@given(index=st.integers(0, 5), knobs=knob_sequences)
def test_a_replayed_answer_is_the_live_one_where_the_models_disagree(
    tiny_models: Models, tiny_graphs: GraphSet, index: int, knobs: list[Knobs]
) -> None:
    check_replay_is_live(tiny_models, tiny_graphs, index, knobs)


@settings(world_settings, max_examples=30)
@given(
    index=st.integers(0, 5),
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=6),
    exits=st.lists(st.integers(0, 1), min_size=6, max_size=6),
)
def test_the_worlds_agree_when_every_chunk_is_offloaded(
    akin_models: Models, akin_graphs: GraphSet, index: int, lengths: list[int], exits: list[int]
) -> None:
    """The most rollbacks, pushes and late completions of shallow exits."""
    knobs = [
        Knobs(confidence_threshold=1.0, offload_budget=1.0, draft_length=n, exit_index=e, exit_margin=0.3917)
        for n, e in zip(lengths, exits, strict=False)
    ]
    records = check_replay_is_live(akin_models, akin_graphs, index, knobs)
    assert all(r.offloaded for r in records)


def test_the_comparison_sees_both_exits_acceptance_and_rejection(akin_models: Models, akin_graphs: GraphSet) -> None:
    """Guards the tests above against graphs in which nothing happens."""
    knobs = [Knobs(confidence_threshold=1.0, offload_budget=1.0, draft_length=4, exit_margin=0.2171)]
    records = [r for i in range(len(akin_graphs)) for r in check_replay_is_live(akin_models, akin_graphs, i, knobs)]
    assert {t.exit_index for r in records for t in r.draft.tokens} == {0, 1}
    accepted = {r.verdict.accepted == len(r.draft.tokens) for r in records if r.verdict}
    assert accepted == {False, True}
    assert len({r.draft.importance for r in records}) > 3
    assert any(r.committed[-1] in akin_graphs.meta.eos_ids for r in records)


# ---------------------------------------------------------------- drafting ahead


@settings(world_settings, max_examples=60)
@given(
    index=st.integers(0, 5),
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=6),
    exit_index=st.integers(-1, 1),
    check_seconds=st.sampled_from([0.0, 0.02, 0.05, 0.1, 1.0]),
)
def test_what_is_drafted_ahead_takes_the_same_time_in_both_worlds(
    akin_models: Models, akin_graphs: GraphSet, index: int, lengths: list[int], exit_index: int, check_seconds: float
) -> None:
    """The models against the graph, to the nanosecond, also past the graph's edge: no exit is left early there."""
    knobs = [
        Knobs(confidence_threshold=1.0, offload_budget=1.0, draft_length=n, exit_index=exit_index, draft_ahead=0.0)
        for n in lengths
    ]
    prompt = [int(t) for t in akin_graphs[index].prompt_tokens]
    live = live_answer(akin_models, akin_graphs, check_seconds=check_seconds).session
    replayed = live_answer(akin_models, akin_graphs, walk=Walk(akin_graphs[index]), check_seconds=check_seconds).session
    for session in (live, replayed):
        session.begin(prompt, knobs[0])
        turn = 0
        while session.advance(knobs[min(turn, len(knobs) - 1)]).point is not None:
            turn += 1
    for one, other in zip(live.records, replayed.records, strict=True):
        assert_same_draft(one.draft, other.draft)
        assert (one.ahead is None) == (other.ahead is None)
        if one.ahead and other.ahead:
            assert (one.ahead.hit, one.ahead.kept) == (other.ahead.hit, other.ahead.kept)
            if one.ahead.drafted < other.ahead.drafted:  # an EOS that only the models know of
                return
        assert other.cost == replace(one.cost, **{f.name: pytest.approx(getattr(one.cost, f.name)) for f in fields(one.cost)})


def test_past_the_edge_of_a_graph_drafting_goes_on_until_the_verdict_and_the_answer_goes_on_after_it(
    akin_graphs: GraphSet,
) -> None:
    walk, clock = Walk(akin_graphs[0]), SimulatedClock()
    drafter = ReplayDrafter(walk, akin_graphs.meta.exit_layers, clock, DEVICE)
    drafter.begin(walk.graph.prompt_tokens)
    first = drafter.next(-1, 1.0)
    unknown = next(t for t in range(100) if walk.graph.child(walk.nodes[-1], t) < 0)
    drafter.push_guessed(unknown)
    began = clock.now()
    assert [drafter.next_guessed(-1, 0.7) for _ in range(3)] == [None] * 3
    layers, per_token = akin_graphs.meta.layers, (DEVICE.call_ms + len(akin_graphs.meta.exit_layers) * DEVICE.head_ms)
    pending = layers * DEVICE.position_ms  # the first token has no keys and values yet when the guess is read
    assert clock.now() - began == pytest.approx((3 * (layers * DEVICE.layer_ms + per_token) + pending) / 1e3)
    drafter.rollback(walk.prompt_tokens + 1)
    assert walk.nodes[1:] == [walk.follow(0, first.token)]
    assert drafter.next_guessed(-1, 1.0) is not None
    drafter.push(unknown)
    with pytest.raises(UncoveredError, match="does not know token"):
        drafter.next(-1, 1.0)


# ---------------------------------------------------------------- the ends of the range


@pytest.mark.parametrize("index", range(6))
def test_never_is_the_slm_s_greedy_walk_and_always_the_llm_s(akin_graphs: GraphSet, index: int) -> None:
    graph = akin_graphs[index]
    always = Knobs(confidence_threshold=1.0, offload_budget=1.0)
    for knobs, child in ((Knobs(), lambda node: graph.exit_child[node, -1]), (always, lambda node: graph.llm_child[node])):
        node, walked = 0, []
        while np.isnan(graph.score[node]):
            node = int(child(node))
            walked.append(int(graph.token[node]))
        episode = replay(akin_graphs, index)
        run(episode, [knobs])
        assert episode.session.answer == tuple(walked)
        assert episode.score() == graph.score[node]


# ---------------------------------------------------------------- time and traffic


@settings(world_settings, max_examples=40)
@given(index=st.integers(0, 5), knobs=knob_sequences, seed=st.integers(0, 5))
def test_every_second_of_an_answer_is_accounted_for(akin_graphs: GraphSet, index: int, knobs: list[Knobs], seed: int) -> None:
    """Each commit comes after the drafting and waiting before it; a wait is network, queue and compute, and the open."""
    episode = replay(akin_graphs, index, link=markov_link(seed, seconds=20.0), offset=seed * 2.5, seed=seed)
    passed = 0.0
    for record in run(episode, knobs):
        passed += record.draft.seconds + record.cost.wait_seconds
        assert record.committed_at == pytest.approx(passed, rel=1e-9)
        if record.verdict:
            v = record.verdict
            parts = v.network_seconds + v.queue_seconds + v.compute_seconds
            assert record.cost.wait_seconds >= parts - 1e-9
            assert record.cost.wait_seconds == pytest.approx(parts, abs=1e-9) or record is next(
                r for r in episode.session.records if r.verdict
            )
            assert v.compute_seconds == pytest.approx((30.0 + 0.05 * v.cloud_tokens) / 1e3)
            assert 0 <= v.queue_seconds <= 0.020
            radio = v.uplink_bytes + v.downlink_bytes
        else:
            assert record.cost.wait_seconds == 0.0
            radio = 0
        assert record.cost.joules == pytest.approx(DEVICE.joules(record.draft.seconds, record.cost.wait_seconds, radio))


def test_a_check_takes_the_link_s_and_the_cloud_s_time_exactly(akin_graphs: GraphSet) -> None:
    cloud = CloudProfile("steady", "made up", 30.0, 0.05, (2.0,))
    episode = replay(akin_graphs, 2, cloud=cloud)
    always = Knobs(confidence_threshold=1.0, offload_budget=1.0, draft_length=2)
    records = run(episode, [always])
    prompt, seen, computed = len(episode.prompt_tokens), 0, 0
    history = list(episode.prompt_tokens)
    for seq, record in enumerate(records, 1):
        verdict, draft = record.verdict, record.draft.ids
        assert verdict is not None
        assert verdict.uplink_bytes == GRPC_OVERHEAD_BYTES + verify_request_bytes(seen, history[seen:], draft, seq)
        assert verdict.cloud_tokens == len(history) - computed + len(draft)
        assert verdict.downlink_bytes == GRPC_OVERHEAD_BYTES + verify_response_bytes(
            verdict.accepted, verdict.next_token, verdict.cloud_tokens, 1
        )
        network = 0.06 + verdict.uplink_bytes * 8 / 10e6 + verdict.downlink_bytes * 8 / 30e6
        assert verdict.network_seconds == pytest.approx(network, rel=1e-9)
        assert verdict.queue_seconds == pytest.approx(0.002)
        seen, computed = len(history) + verdict.accepted + 1, len(history) + verdict.accepted
        history += record.committed
    assert len(history) - prompt == len(episode.session.answer)


def test_the_first_check_waits_for_the_session_to_be_open(akin_graphs: GraphSet) -> None:
    slow = constant_link(rtt_ms=400.0)
    episode = replay(akin_graphs, 2, link=slow)
    always = Knobs(confidence_threshold=1.0, offload_budget=1.0, draft_length=1)
    first, second = run(episode, [always])[:2]
    opened = (
        0.4 + (GRPC_OVERHEAD_BYTES + open_request_bytes()) * 8 / 10e6 + (GRPC_OVERHEAD_BYTES + open_response_bytes()) * 8 / 30e6
    )
    assert first.verdict is not None
    assert second.verdict is not None
    took = first.verdict.network_seconds + first.verdict.queue_seconds + first.verdict.compute_seconds
    assert first.committed_at == pytest.approx(opened + took)
    assert second.cost.wait_seconds == pytest.approx(
        second.verdict.network_seconds + second.verdict.queue_seconds + second.verdict.compute_seconds
    )


def test_the_probe_is_known_once_its_answer_is_there(akin_graphs: GraphSet) -> None:
    episode = replay(akin_graphs, 2, link=constant_link(rtt_ms=100.0))
    assert episode.session.begin(episode.prompt_tokens, Knobs(draft_length=1, exit_index=0)).probe_seconds is None
    point = episode.session.advance(Knobs(draft_length=8)).point
    assert point is not None
    assert point.probe_seconds == pytest.approx(0.1, abs=0.001)


def test_the_radio_starts_at_its_offset() -> None:
    trace = LinkTrace("steps", "test", 1.0, np.array([100.0, 300.0]), np.ones(2), np.ones(2))
    assert Radio(trace, 0.0).uplink_seconds(0.0, 0) == pytest.approx(0.05)
    assert Radio(trace, 1.0).uplink_seconds(0.0, 0) == pytest.approx(0.15)
    assert Radio(trace, 1.0).downlink_seconds(1.0, 0) == pytest.approx(0.05)


# ---------------------------------------------------------------- what was not recorded


def test_a_walk_off_the_graph_is_an_error_that_names_the_prompt_and_the_way_out(tiny_models: Models) -> None:
    graphs = record_tiny(tiny_models, 6, node_budget=3)
    for index, graph in enumerate(graphs):
        with pytest.raises(UncoveredError, match=r"does not know token .* record with a larger node budget") as error:
            run(replay(graphs, index), [Knobs(draft_length=1)])
        assert graph.prompt[:40] in str(error.value)


def test_a_pair_without_eos_can_be_replayed(tiny_graphs: GraphSet) -> None:
    """A model may name no EOS token; its answers end at the token limit alone."""
    from dataclasses import replace

    endless = GraphSet(replace(tiny_graphs.meta, eos_ids=()), tiny_graphs._arrays)
    index = next(i for i, g in enumerate(endless) if (g.depth[~np.isnan(g.score)] == 6).all())
    records = run(replay(endless, index), [Knobs(confidence_threshold=1.0, offload_budget=1.0, draft_length=8)])
    assert sum(len(r.committed) for r in records) == 6


def test_a_second_answer_starts_from_nothing(akin_graphs: GraphSet) -> None:
    episode = replay(akin_graphs, 0, cloud=CloudProfile("steady", "made up", 30.0, 0.05))
    knobs = [Knobs(confidence_threshold=1.0, offload_budget=1.0)]
    first = run(episode, knobs)
    second = run(episode, knobs)
    for one, other in zip(first, second, strict=True):
        assert (one.committed, one.draft.ids) == (other.committed, other.draft.ids)
        assert one.verdict is not None
        assert other.verdict is not None
        assert (one.verdict.uplink_bytes, one.verdict.cloud_tokens) == (other.verdict.uplink_bytes, other.verdict.cloud_tokens)
        assert one.committed_at == pytest.approx(other.committed_at)


def test_a_margin_on_the_graph_is_compared_in_double_precision(akin_graphs: GraphSet) -> None:
    """In single precision the recorded margin would equal a knob that lies a hair above it."""
    for index in range(len(akin_graphs)):
        recorded = float(akin_graphs[index].margin[0, 0])
        above = float(np.nextafter(recorded, 1.0))
        assert np.float32(above) == akin_graphs[index].margin[0, 0]
        for margin, left in ((recorded, 0), (above, 1)):
            episode = replay(akin_graphs, index)
            draft = episode.session.begin(episode.prompt_tokens, Knobs(exit_margin=margin, draft_length=1)).draft
            assert draft.tokens[0].exit_index == left
