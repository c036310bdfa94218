"""The answer of a row: how it begins, and how a chunk is settled; compiled.

The counterpart of runtime/synera/session.py, and of what synera_env/episode.py draws. What does not live here: the device (device.py), the cloud
(cloud.py), and what is seen of it (sight.py).
"""

# mypy: ignore-errors

from __future__ import annotations

import math

import numpy as np

from runtime.rules import wants_offload
from runtime.synera.ahead import risk_of
from runtime.wire.sizes import varint_bytes
from synera_env.chance import LINK, OFFSET, PROMPT, WEIGHT, choice, uniform
from synera_env.reward import weight
from synera_env.schema import log_weight
from synera_env.synera.kernel.cloud import open_cloud, submit
from synera_env.synera.kernel.device import TAKE_UP, UNKNOWN, draft_ahead, draft_chunk, is_end, push, rollback
from synera_env.synera.kernel.formulas import compiled, inlined
from synera_env.synera.kernel.nodes import lay
from synera_env.synera.schema import smoothed, throughput
from traces.profile import energy_joules


@compiled
def draw_start(graphs, links, tables, figures, r, chosen):
    """Draw what an answer begins with; what is chosen (prompt, link, offset, weights; NaN is drawn) changes no other draw."""
    seed = r.seed
    drawn = choice(uniform(seed, np.uint64(PROMPT), np.uint64(0)), len(graphs.startable))
    r.prompt = graphs.startable[drawn] if math.isnan(chosen[0]) else int(chosen[0])
    count = len(links.step_seconds)
    drawn = choice(uniform(seed, np.uint64(LINK), np.uint64(0)), count)
    r.link = drawn if math.isnan(chosen[1]) else int(chosen[1])
    samples = links.first[r.link + 1] - links.first[r.link]
    share = uniform(seed, np.uint64(OFFSET), np.uint64(0))
    r.offset = share * (samples * links.step_seconds[r.link]) if math.isnan(chosen[2]) else chosen[2]
    for place in range(len(r.weights)):
        base = tables.weights[place]
        if not math.isnan(chosen[3]):
            base = chosen[3 + place]
        elif figures.draws_weights and place:  # quality is the unit of account
            base = weight(base, uniform(seed, np.uint64(WEIGHT), np.uint64(place)), figures.spread)
        r.weights[place] = base
        r.weights_shown[place] = log_weight(base, tables.lowest_shown[place])


@inlined
def begin(graphs, links, tables, figures, state, row, r, chosen):
    """Begin the next answer of a row: all that is drawn, the cloud opened, the first chunk drafted."""
    r.seed = state.seeds[row, r.taken]
    r.taken += 1
    draw_start(graphs, links, tables, figures, r, chosen)
    if graphs.root[r.prompt] < 0:
        if not len(graphs.recorded.node_offsets):
            r.wanted = TAKE_UP - r.prompt
            return
        lay(graphs, r.prompt)
    r.prompt_tokens, r.generated_bytes = graphs.prompt_tokens[r.prompt], graphs.prompt_bytes[r.prompt]
    r.room = min(figures.max_new_tokens, figures.context - r.prompt_tokens)
    r.generated, r.chunks, r.offloaded, r.now, r.committed_at, r.kept = 0, 0, 0, 0.0, 0.0, 0
    r.rejections, r.risk = 1.0, 1.0
    r.acceptance, r.guess_hits, r.rtt, r.throughput, r.cloud_lost = 0.5, 0.5, -1.0, -1.0, 0.0
    for place in range(len(r.past_confidence)):
        r.past_confidence[place], r.past_importance[place] = 1.0, 0.0
        r.past_offloaded[place], r.past_accepted[place] = 0.0, 1.0
    r.reward, r.cloud_seconds, r.joules, r.saved, r.wasted = 0.0, 0.0, 0.0, 0.0, 0.0
    r.judged, r.stood, r.asked_tokens, r.sent, r.received, r.lost, r.guesses, r.hits = 0, 0, 0, 0, 0, 0, 0, 0
    open_cloud(links, tables, figures, r)
    state.path[row, 0] = graphs.root[r.prompt]
    rollback(state, row, r, 0)
    r.known, r.held = 0, 0
    for exit_index in range(state.reached.shape[1]):
        state.reached[row, exit_index] = 0
    first = figures.first_exit, figures.first_margin, figures.first_length
    draft_chunk(graphs, tables, figures, state, row, r, first[0], first[1], first[2])


@inlined
def settle(graphs, links, tables, figures, state, row, r, knobs):
    """Settle the chunk in hand by knobs; return False where the graph does not know how. What the step came to is noted in the
    row, its cost but for the reward's part returned: seconds, cloud seconds, joules.
    """
    sent = r.now
    r.asked, r.verdict, r.guessed, r.ran, r.run_seconds = False, False, False, 0, 0.0
    r.uplink, r.downlink, r.cloud_tokens = 0, 0, 0
    if wants_offload(r.draft_confidence, r.draft_importance, r.chunks + 1, r.offloaded, knobs[0], knobs[1], knobs[6]):
        r.offloaded += 1
        r.asked = True
        if not submit(graphs, links, tables, figures, state, row, r):
            return False, 0.0, 0.0, 0.0
        draft_ahead(graphs, figures, state, row, r, int(knobs[2]), knobs[3], int(knobs[4]), knobs[5])
        r.now = max(r.now, r.known_at)
    waited = r.now - sent if r.asked else 0.0
    late = max(0.0, sent + waited - r.known_at)
    committed = choose(graphs, r)
    hit, after = agree(r, committed)
    stand(graphs, state, row, r, committed, after if hit else -1, int(knobs[4]))
    idle = max(0.0, waited - r.run_seconds)
    watts = figures.busy_watts, figures.wait_watts, figures.radio_joules_per_mb
    busy, traffic = r.draft_seconds + r.run_seconds, r.uplink + r.downlink
    joules = energy_joules(watts[0], watts[1], watts[2], busy, idle, traffic)
    seconds = r.now - r.committed_at
    r.committed_at = state.committed_at[row, r.chunks] = r.now
    r.chunks += 1
    if r.guessed:
        useful = 0.0
        for place in range(after, after + r.kept):
            useful += r.run_second[place]
        r.guesses, r.hits, r.saved = r.guesses + 1, r.hits + int(hit), r.saved + (useful - late)
        r.wasted += energy_joules(watts[0], watts[1], watts[2], r.run_seconds - useful, 0.0, 0)
        r.guess_hits = smoothed(r.guess_hits, 1.0 if hit else 0.0)
    remember(r)
    return True, seconds, r.share if r.verdict else 0.0, joules


@compiled
def choose(graphs, r):
    """Note what the check lets stand, cut to the answer's room and its end; return how many tokens."""
    standing = r.accepted if r.verdict else r.drafted
    most = min(standing + 1 if r.verdict else standing, r.room - r.generated)
    for place in range(most):
        token = r.draft_token[place] if place < standing else r.next_token
        r.committed[place] = token
        if is_end(graphs.eos, token):
            return place + 1
    return most


@compiled
def agree(r, committed):
    """Learn of a verdict; return whether the guess was right, and where in the run what follows it begins."""
    if r.verdict:
        r.rejections += 1.0 if r.accepted < r.drafted else 0.0
        r.risk += risk_of(r.draft_confidence_of[: r.drafted], r.accepted + 1)
    if not r.guessed:
        return False, 0
    accepted = r.guess_accepted
    last = r.guess_correction if r.corrected else r.run_token[0]
    hit = committed == accepted + 1 and r.committed[accepted] == last
    for place in range(accepted):
        hit = hit and r.committed[place] == r.draft_token[place]
    return hit, 0 if r.corrected else 1


@inlined
def stand(graphs, state, row, r, committed, after, draft_length):
    """Add what stands to the answer, and what of the run follows it to the next chunk; bring the walk to it. `after` is where that
    begins in the run, below 0 where the guess was wrong.
    """
    start, left = r.generated, r.room - r.generated - committed
    r.kept = 0
    if after >= 0 and left and not is_end(graphs.eos, r.committed[committed - 1]):
        while after + r.kept < r.ran and r.kept < min(draft_length, left) and r.run_token[after + r.kept] != UNKNOWN:
            r.kept += 1
    same, standing = 0, committed + r.kept
    while same < standing and start + same < r.held:
        token = r.committed[same] if same < committed else r.run_token[after + same - committed]
        if token != state.token[row, start + same]:
            break
        same += 1
    rollback(state, row, r, start + same)
    for place in range(same, standing):
        push(graphs, state, row, r, r.committed[place] if place < committed else r.run_token[after + place - committed])
    for place in range(committed):
        r.generated_bytes += varint_bytes(r.committed[place])
    r.generated += committed


@compiled
def keep_run(r):
    """Let what was kept of the run begin the next draft."""
    after = 0 if r.corrected else 1
    for place in range(r.kept):
        r.draft_token[place], r.draft_node[place] = r.run_token[after + place], r.run_node[after + place]
        r.draft_exit[place], r.draft_margin[place] = r.run_exit[after + place], r.run_margin[after + place]
        r.draft_confidence_of[place] = r.run_confidence_of[after + place]


@compiled
def remember(r):
    """Note of a settled chunk what is seen later, and what the answer's sums are of."""
    for place in range(len(r.past_confidence) - 1, 0, -1):
        r.past_confidence[place], r.past_importance[place] = r.past_confidence[place - 1], r.past_importance[place - 1]
        r.past_offloaded[place], r.past_accepted[place] = r.past_offloaded[place - 1], r.past_accepted[place - 1]
    share = r.accepted / r.drafted if r.verdict else 1.0
    r.past_confidence[0], r.past_importance[0] = r.draft_confidence, r.draft_importance
    r.past_offloaded[0], r.past_accepted[0] = 1.0 if r.asked else 0.0, share
    r.sent += r.uplink
    r.received += r.downlink
    if not r.asked:
        return
    r.cloud_lost = 0.0 if r.verdict else 1.0
    if not r.verdict:
        r.lost += 1
        return
    r.judged, r.stood, r.asked_tokens = r.judged + r.drafted, r.stood + r.accepted, r.asked_tokens + r.cloud_tokens
    r.acceptance = smoothed(r.acceptance, share)
    rate = throughput(r.uplink + r.downlink, r.network)
    r.throughput = rate if r.throughput < 0.0 else smoothed(r.throughput, rate)
    before = r.probe_seconds if r.rtt < 0.0 else r.rtt
    r.rtt = r.network if before < 0.0 else smoothed(before, r.network)
