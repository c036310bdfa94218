"""The cloud of a row: the radio, opening, checks, waiting, leaving alone; compiled.

The counterpart of synera_env/synera/verifier.py and synera_env/radio.py, step for step. What does not live here: the device (device.py), and what a
verdict means for the answer (answer.py).
"""

# mypy: ignore-errors

from __future__ import annotations

import math

import numpy as np

from runtime.breaker import left_alone_for
from runtime.deadline import check_wait, open_wait, repeat_at, usual_after, usual_most
from runtime.synera.held import processed_tokens
from runtime.wire.sizes import (
    greedy_request_bytes,
    on_the_link,
    open_request_bytes,
    open_response_bytes,
    varint_bytes,
    verify_response_bytes,
)
from synera_env.chance import BLIP, BUSY, OUTAGE, exponential, uniform
from synera_env.radio import starts_down
from synera_env.synera.kernel.device import lacks
from synera_env.synera.kernel.formulas import compiled, inlined
from synera_env.synera.kernel.world import DOWNLINK, UPLINK
from traces.links.transfer import one_way_seconds
from traces.profile import forward_seconds, interpolated_quantile
from traces.workload.meeting import meeting

_OPEN_UP, _OPEN_DOWN = on_the_link(open_request_bytes()), on_the_link(open_response_bytes())


# ------------------------------------------------------------ the radio


@compiled
def begin_stays(figures, r):
    """Forget the outages and blips of the answer before."""
    for process in range(2):
        purpose = OUTAGE if process == 0 else BLIP
        down = starts_down(uniform(r.seed, np.uint64(purpose), np.uint64(0)), figures.between[process], figures.lasts[process])
        r.stay_number[process], r.stay_stop[process], r.stay_down[process] = 0, 0.0, not down


@compiled
def is_cut_off(figures, r, process, at):
    """Whether a process, outages or blips, lets nothing through; `at` must not fall from call to call."""
    between, lasts = figures.between[process], figures.lasts[process]
    if lasts <= 0.0 or between == math.inf:
        return False
    purpose = OUTAGE if process == 0 else BLIP
    number, stop, down = r.stay_number[process], r.stay_stop[process], r.stay_down[process] == 1
    while at >= stop and stop < figures.horizon:
        number, down = number + 1, not down
        stop += exponential(uniform(r.seed, np.uint64(purpose), np.uint64(number)), lasts if down else between)
    r.stay_number[process], r.stay_stop[process], r.stay_down[process] = number, stop, down
    return down and at < stop


@inlined
def one_way(links, link, direction, passed, at, size):
    """Time of a message on a link trace; the direction is the column of its rates."""
    first, stop = links.first[link], links.first[link + 1]
    half_rtt, rates = links.samples[first:stop, 0], links.samples[first:stop, direction]
    return one_way_seconds(at, size, links.step_seconds[link], half_rtt, rates, passed[first + link : stop + link + 1])


@compiled
def reaches(links, figures, r, at, deadline, size):
    """When a copy that is sent `at` is there; infinity for never, or too late to be answered."""
    r.uplink_waiting += size
    if is_cut_off(figures, r, 0, at) or is_cut_off(figures, r, 1, at):
        return math.inf
    there = at + one_way(links, r.link, UPLINK, links.uplink_passed, r.offset + at, size)
    return there if there < deadline else math.inf


@compiled
def answer_at(links, r, reached, done, size):
    """When the answer to a copy is here."""
    leaves = max(reached, done)
    if leaves == math.inf:
        return math.inf
    return leaves + one_way(links, r.link, DOWNLINK, links.downlink_passed, r.offset + leaves, size)


@compiled
def meet(tables, figures, r, reached, tokens):
    """What a check of so many tokens meets that reaches the cloud then."""
    if len(tables.edges):
        at, forward_ms, token_ms = (
            (r.workload_offset + reached) % figures.workload_seconds,
            figures.forward_ms,
            figures.token_ms,
        )
        series = tables.edges, tables.starts, tables.beside_tokens, tables.beside_jobs, tables.arrived
        met = meeting(at, tokens, forward_ms, token_ms, series[0], series[1], series[2], series[3], series[4])
        r.met_queue, r.met_compute, r.met_share, r.met_load = met[0], met[1], met[2], int(met[3])
        return
    busy = uniform(r.seed, np.uint64(BUSY), np.uint64(r.checks))
    r.met_queue = interpolated_quantile(tables.queue_ms, busy) / 1e3
    r.met_compute = r.met_share = forward_seconds(figures.forward_ms, figures.token_ms, tokens)
    r.met_load = 1 + round(interpolated_quantile(tables.load, busy))


@compiled
def work(tables, figures, r, reached, tokens, accepted, next_token):
    """What the cloud does for a request that reaches it then: seconds, and bytes of the answer. An Open has no tokens."""
    if tokens == 0:
        return 0.0, _OPEN_DOWN
    meet(tables, figures, r, reached, tokens)
    r.met_bytes = on_the_link(verify_response_bytes(accepted, next_token, tokens, r.met_load))
    return r.met_queue + r.met_compute, r.met_bytes


@compiled
def exchange(links, tables, figures, r, at, deadline, size, tokens, accepted, next_token):
    """A request that is sent `at`, and repeated half-way to the deadline: when its answer is here, how long after the copy that was
    answered, and whether that was the second one; infinity where none is here by then. For what is asked see :func:`work`.
    """
    if at >= deadline:
        return math.inf, 0.0, False
    seconds, answer_size = 0.0, 0
    first = reaches(links, figures, r, at, deadline, size)
    if first < math.inf:
        seconds, answer_size = work(tables, figures, r, first, tokens, accepted, next_token)
    there = answer_at(links, r, first, first + seconds, answer_size)
    again = repeat_at(at, deadline)
    if there <= again:
        return there, there - at, False
    second = reaches(links, figures, r, again, deadline, size)
    if first == math.inf and second < math.inf:
        seconds, answer_size = work(tables, figures, r, second, tokens, accepted, next_token)
    done = min(first, second) + seconds
    there, there_again = answer_at(links, r, first, done, answer_size), answer_at(links, r, second, done, answer_size)
    if min(there, there_again) > deadline:
        return math.inf, 0.0, False
    if there_again < there:
        return there_again, there_again - again, True
    return there, there - at, False


# ------------------------------------------------------------ Open


@compiled
def open_cloud(links, tables, figures, r):
    """Start a session without waiting for it, with nothing known of the cloud."""
    r.workload_offset = uniform(r.seed, np.uint64(BUSY), np.uint64(0)) * figures.workload_seconds
    begin_stays(figures, r)
    r.open, r.probed, r.silence, r.until = False, False, 0.0, 0.0
    r.network_mean, r.network_deviation, r.work_mean, r.work_deviation = -1.0, 0.0, -1.0, 0.0
    r.token_seconds, r.late_opens, r.late_checks = math.inf, 0, 0
    r.checks, r.opening, r.probe_seconds = 0, False, -1.0
    r.uplink_waiting, r.downlink_waiting = 0, 0
    open_ahead(links, tables, figures, r, False)
    if r.opening_answered:
        r.probe_at, r.probe_seconds = r.opening_over, r.opening_seconds
    r.uplink_waiting, r.downlink_waiting = 0, 0


@compiled
def open_ahead(links, tables, figures, r, probes):
    """Open a session before a check needs it."""
    r.has_session = False
    deadline = r.now + open_seconds(figures, r)
    at, seconds = open_trip(links, tables, figures, r, r.now, deadline)
    r.opening, r.opening_answered, r.opening_seconds, r.opening_probes = True, at < math.inf, seconds, probes
    r.opening_over = at if at < math.inf else deadline


@compiled
def open_seconds(figures, r):
    """How long to wait for an Open."""
    return open_wait(figures.check_deadline, usual_most(r.network_mean, r.network_deviation), r.late_opens)


@compiled
def open_trip(links, tables, figures, r, at, deadline):
    """When an Open is answered, infinity for never, and how long it took."""
    there, seconds, _ = exchange(links, tables, figures, r, at, deadline, _OPEN_UP, 0, 0, 0)
    if there < math.inf:
        r.downlink_waiting += _OPEN_DOWN
    return there, seconds


@compiled
def settle_opening(r, now):
    """Take note of an Open that is over by then."""
    if not r.opening or now < r.opening_over:
        return
    r.opening = False
    if not r.opening_answered:
        open_was_late(r, r.opening_over)
        return
    begin_session(r, r.opening_seconds)
    if r.opening_probes:
        r.open, r.probed = False, False


@compiled
def begin_session(r, seconds):
    """An Open was answered after so long."""
    r.has_session, r.session_tokens, r.session_bytes, r.session_checks = True, 0, 0, 0
    r.late_opens = 0
    r.network_mean, r.network_deviation = usual_after(r.network_mean, r.network_deviation, seconds)


@compiled
def open_was_late(r, known):
    """No answer to an Open came in time."""
    r.late_opens += 1
    failed(r, known)


@compiled
def failed(r, now):
    """The cloud was asked in vain; see :class:`runtime.breaker.Breaker`."""
    r.probed = False
    if r.open and now < r.until:
        return
    r.silence = left_alone_for(r.silence)
    r.until, r.open = now + r.silence, True


# ------------------------------------------------------------ Verify


@inlined
def submit(graphs, links, tables, figures, state, row, r):
    """Work out the verdict, or that there will be none, and when that is known; return False where the graph does not know it."""
    r.checks += 1
    now = r.now
    settle_opening(r, now)
    refused(r, now)
    if r.open:
        if now >= r.until and not r.probed:
            r.probed = True
            open_ahead(links, tables, figures, r, True)
        return True
    return check(graphs, links, tables, figures, state, row, r, now)


@compiled
def refused(r, known):
    """The reply, unless it will be another: no verdict, nothing sent."""
    r.verdict, r.known_at, r.uplink, r.downlink, r.cloud_tokens = False, known, 0, 0, 0


@inlined
def check(graphs, links, tables, figures, state, row, r, submitted):
    """A check that is submitted then."""
    began = max(submitted, r.opening_over if r.opening else 0.0)
    settle_opening(r, began)
    if r.open:
        refused(r, began)
        return True
    usual = usual_most(r.network_mean, r.network_deviation), usual_most(r.work_mean, r.work_deviation)
    tokens = r.prompt_tokens + r.generated + r.drafted
    deadline = submitted + check_wait(figures.check_deadline, usual[0], usual[1], r.token_seconds, tokens, r.late_checks)
    at = began
    if not r.has_session:
        at, seconds = open_trip(links, tables, figures, r, began, deadline)
        if at == math.inf:
            refused(r, max(began, deadline))
            open_was_late(r, r.known_at)
            take_bytes(r)
            return True
        begin_session(r, seconds)
    covered, accepted, next_token = judge(graphs, figures, state, row, r)
    if covered:
        verify(links, tables, figures, r, began, at, deadline, accepted, next_token)
    return covered


@inlined
def judge(graphs, figures, state, row, r):
    """Whether the graph knows what the LLM says of the draft; how many tokens stand, and the LLM's after them."""
    node = state.path[row, r.generated]
    for place in range(r.drafted):
        if lacks(graphs, r, node):
            return False, 0, 0
        said = graphs.nodes[node]
        if said.llm_token != r.draft_token[place]:
            return True, place, said.llm_token
        if said.llm_child < 0:
            return False, 0, 0
        node = said.llm_child
    if lacks(graphs, r, node):
        return False, 0, 0
    said = graphs.nodes[node]
    return True, r.drafted, said.llm_token if math.isnan(said.score) else figures.said_after_the_end


@compiled
def verify(links, tables, figures, r, began, at, deadline, accepted, next_token):
    """The check itself, sent `at`, in a session that is open; a check that began then."""
    history = r.prompt_tokens + r.generated
    prefix = r.session_tokens
    cloud_tokens = processed_tokens(prefix, r.session_tokens, history, r.drafted)
    r.session_checks += 1
    draft_bytes, standing_bytes = 0, varint_bytes(next_token)
    for place in range(r.drafted):
        size = varint_bytes(r.draft_token[place])
        draft_bytes += size
        standing_bytes += size if place < accepted else 0
    context_bytes = r.generated_bytes - r.session_bytes
    request = on_the_link(greedy_request_bytes(prefix, context_bytes, draft_bytes, r.session_checks))
    asked = cloud_tokens, accepted, next_token
    there, seconds, repeated = exchange(links, tables, figures, r, at, deadline, request, asked[0], asked[1], asked[2])
    if there == math.inf:
        r.late_checks += 1
        r.has_session = False
        refused(r, max(at, deadline))
        failed(r, r.known_at)
        take_bytes(r)
        return
    worked = r.met_queue + r.met_compute
    r.session_tokens, r.session_bytes = history + accepted + 1, r.generated_bytes + standing_bytes
    r.silence, r.open, r.probed, r.late_checks = 0.0, False, False, 0
    if not repeated:
        took = usual_after(r.network_mean, r.network_deviation, max(0.0, seconds - worked))
        r.network_mean, r.network_deviation = took
    r.work_mean, r.work_deviation = usual_after(r.work_mean, r.work_deviation, worked)
    r.token_seconds = min(r.token_seconds, r.met_compute / cloud_tokens)
    r.verdict, r.known_at, r.accepted, r.next_token = True, there, accepted, next_token
    r.queue, r.compute, r.share, r.load = r.met_queue, r.met_compute, r.met_share, float(r.met_load)
    r.network = max(0.0, there - began - worked)
    take_bytes(r)
    r.cloud_tokens, r.downlink = cloud_tokens, r.downlink + r.met_bytes


@compiled
def take_bytes(r):
    """What travelled since it was taken last is the reply's."""
    r.uplink, r.downlink = r.uplink_waiting, r.downlink_waiting
    r.uplink_waiting, r.downlink_waiting = 0, 0
