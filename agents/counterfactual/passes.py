"""Exact sums over the states of a batch of answers: values back from the ends, visits forth from the starts, gradients; compiled.

A batch is a list of prompts, one an answer; its states lie one prompt after the other, and `at[i]` is where those of answer i
begin. What does not live here: what the states are and what is paid (synera_env/synera/decisions).
"""

# mypy: ignore-errors

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def evaluate(states, prices, prompts, at, policy, inside, values):
    """Fill in the value of each state under a policy, back from the answers' ends.

    Args:
        states: of the process.
        prices: of the batch.
        prompts: [answers].
        at: [answers].
        policy: [states of the batch, actions]: probabilities, of which those that cannot be taken are left out.
        inside: [states of the batch]: gets what the others sum to.
        values: [states of the batch]: gets the mean of what is earned from the state on.
    """
    ways = states.state.shape[1]
    for answer in range(len(prompts)):
        first, stop = states.first[prompts[answer]], states.first[prompts[answer] + 1]
        shift = at[answer] - first
        for state in range(stop - 1, first - 1, -1):
            here = state + shift
            total, value = 0.0, 0.0
            for asks in range(2):
                node = states.check[state] if asks else states.keep[state]
                if node < 0:
                    continue
                layer = 1 if asks else states.layer[state]
                paid = prices.asking[here] if asks else prices.keeping[here]
                if states.ended[node]:
                    share = 0.0
                    for way in range(ways):
                        share += policy[here, asks * ways + way]
                    total += share
                    value += share * (prices.quality[answer] * states.score[node] - paid)
                    continue
                for way in range(ways):
                    following = states.state[node, way, layer]
                    if following >= 0:
                        share = policy[here, asks * ways + way]
                        total += share
                        drafting = prices.per_second[answer] * prices.drafting[node, way]
                        value += share * (values[following + shift] - paid - drafting)
            inside[here] = total
            values[here] = value / max(total, 1e-30)


@njit(nogil=True, cache=True)
def visit(states, prompts, at, policy, inside, visits):
    """Fill in how often each state is come to in an answer, forth from the first drafts; return how often each answer ends, which is 1.

    Args:
        states: of the process.
        prompts: [answers].
        at: [answers].
        policy: as :func:`evaluate` was given it.
        inside: as :func:`evaluate` found it.
        visits: [states of the batch].
    """
    ways = states.state.shape[1]
    ends = np.zeros(len(prompts))
    visits[:] = 0.0
    for answer in range(len(prompts)):
        first, stop = states.first[prompts[answer]], states.first[prompts[answer] + 1]
        shift = at[answer] - first
        visits[states.root[prompts[answer]] + shift] = 1.0
        for state in range(first, stop):
            here = state + shift
            if visits[here] == 0.0:
                continue
            come = visits[here] / max(inside[here], 1e-30)
            for asks in range(2):
                node = states.check[state] if asks else states.keep[state]
                if node < 0:
                    continue
                layer = 1 if asks else states.layer[state]
                for way in range(ways):
                    share = come * policy[here, asks * ways + way]
                    if states.ended[node]:
                        ends[answer] += share
                    else:
                        following = states.state[node, way, layer]
                        if following >= 0:
                            visits[following + shift] += share
    return ends


@njit(nogil=True, cache=True)
def advantages(states, prices, prompts, at, values, least_visits, visits, found, gains):
    """List the states that are visited, and what each action gains there over the state's value.

    Args:
        states: of the process.
        prices: of the batch.
        prompts: [answers].
        at: [answers].
        values: [states of the batch].
        least_visits: states visited less are left out.
        visits: [states of the batch].
        found: [states of the batch]: gets their places in the batch.
        gains: [states of the batch, actions]: in this order; NaN for an action that cannot be taken.

    Returns:
        How many there are.
    """
    ways = states.state.shape[1]
    count = 0
    for answer in range(len(prompts)):
        first, stop = states.first[prompts[answer]], states.first[prompts[answer] + 1]
        shift = at[answer] - first
        for state in range(first, stop):
            here = state + shift
            if visits[here] < least_visits:
                continue
            found[count] = here
            for asks in range(2):
                node = states.check[state] if asks else states.keep[state]
                layer = 1 if asks else states.layer[state]
                paid = prices.asking[here] if asks else prices.keeping[here]
                for way in range(ways):
                    gain = math.nan
                    if node >= 0 and states.ended[node]:
                        gain = prices.quality[answer] * states.score[node] - paid - values[here]
                    elif node >= 0 and states.state[node, way, layer] >= 0:
                        drafting = prices.per_second[answer] * prices.drafting[node, way]
                        gain = values[states.state[node, way, layer] + shift] - paid - drafting - values[here]
                    gains[count, asks * ways + way] = gain
            count += 1
    return count


@njit(nogil=True, cache=True)
def plan(states, prices, prompts, at, values, best):
    """Fill in the value of each state of the best that can be done from it, knowing all outcomes, and an action that does it.

    Args:
        states: of the process.
        prices: of the batch.
        prompts: [answers].
        at: [answers].
        values: [states of the batch].
        best: [states of the batch]: actions.
    """
    ways = states.state.shape[1]
    for answer in range(len(prompts)):
        first, stop = states.first[prompts[answer]], states.first[prompts[answer] + 1]
        shift = at[answer] - first
        for state in range(stop - 1, first - 1, -1):
            here = state + shift
            most = -math.inf
            for asks in range(2):
                node = states.check[state] if asks else states.keep[state]
                if node < 0:
                    continue
                layer = 1 if asks else states.layer[state]
                paid = prices.asking[here] if asks else prices.keeping[here]
                for way in range(ways):
                    if states.ended[node]:
                        value = prices.quality[answer] * states.score[node] - paid
                    else:
                        following = states.state[node, way, layer]
                        if following < 0:
                            continue
                        value = values[following + shift] - paid - prices.per_second[answer] * prices.drafting[node, way]
                    if value > most:
                        most = value
                        best[here] = asks * ways + way
            values[here] = most


@njit(nogil=True, cache=True)
def follow(states, prices, prompts, at, asks_of, way, values):
    """Fill in the value of each state under a rule that always drafts in one way, [states of the batch] whether it asks.

    Where the graph does not know what the rule would do, the rule does the other; and where it does not know the way of drafting,
    the value is the mean over those that it knows.
    """
    ways = states.state.shape[1]
    for answer in range(len(prompts)):
        first, stop = states.first[prompts[answer]], states.first[prompts[answer] + 1]
        shift = at[answer] - first
        for state in range(stop - 1, first - 1, -1):
            here = state + shift
            for attempt in range(2):
                asks = asks_of[here] if attempt == 0 else not asks_of[here]
                node = states.check[state] if asks else states.keep[state]
                if node < 0:
                    continue
                layer = 1 if asks else states.layer[state]
                paid = prices.asking[here] if asks else prices.keeping[here]
                if states.ended[node]:
                    values[here] = prices.quality[answer] * states.score[node] - paid
                    break
                total, count = 0.0, 0
                for each in range(ways):
                    drawn = way if states.state[node, way, layer] >= 0 else each
                    following = states.state[node, drawn, layer]
                    if following >= 0:
                        total += values[following + shift] - prices.per_second[answer] * prices.drafting[node, drawn]
                        count += 1
                if count:
                    values[here] = total / count - paid
                    break
