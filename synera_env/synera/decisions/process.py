"""The abstract decision process over token graphs: its actions, its states, and how they follow one another.

What does not live here: what steps cost (prices.py), what is seen of a state (sight.py), values and visits (agents/counterfactual).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SettingError
from runtime.settings import within
from runtime.synera.knobs import Knobs
from synera_env.schema import Schema
from synera_env.synera.decisions.drafts import LAYERS, Drafts, Nodes, Ways, draft_all, no_drafts, states_of
from traces.profile import DeviceProfile, draft_seconds, segment_ms
from traces.synera.graph import GraphSet


@dataclass(frozen=True)
class Actions:
    """What can be done with a draft in hand: keep it or have it checked, times how the next one is drafted.

    Action `asks * ways + way`: first those that keep, by way, then those that ask. One to one settings of the schema's knobs,
    its `choices` (:class:`synera_env.discrete.DiscreteChoices` has the table) but for `draft_ahead`, which is the same in all.
    """

    knobs: tuple[Knobs, ...]
    """[actions]"""
    first: Knobs
    """How the first chunk is drafted; one of the ways."""

    @classmethod
    def of(cls, schema: Schema, draft_ahead: float = 1.0) -> Self:
        """Return the choices of a Synera schema.

        Args:
            schema: whose choices.
            draft_ahead: the knob's value, 0..1; the process knows nothing of drafting ahead, so that at 1, which never
                does, its times are those of the replay.

        Raises:
            SettingError: `draft_ahead` is out of range, or the choices are not keep and ask times the same ways.
        """
        within("draft_ahead", draft_ahead, 0.0, 1.0)
        if schema.system != "synera":
            raise SettingError(f"the counterfactual process is of synera's chunks; the system {schema.system} has none")
        made = cls(tuple(replace(knobs, draft_ahead=draft_ahead) for knobs in schema.choices), schema.first_knobs)
        half = len(made.knobs) // 2
        kept, asked = (tuple(map(_way, made.knobs[part])) for part in (slice(half), slice(half, None)))
        sends = [knobs.wants_offload(0.0, 1.0, 1, 0) for knobs in made.knobs]
        if kept != asked or sends != [False] * half + [True] * half or made.first_way < 0:
            raise SettingError(
                f"the {len(made.knobs)} choices are not keep and ask times the same ways, the first chunk's among them"
            )
        return made

    @property
    def ways(self) -> int:
        """Ways of drafting; half as many as there are actions."""
        return len(self.knobs) // 2

    @property
    def first_way(self) -> int:
        """Of the first chunk; -1 where no action has it."""
        exits = max(knobs.exit_index for knobs in self.knobs) + 1
        wanted = _way(replace(self.first, exit_index=self.first.exit_index % exits))
        return next((way for way, knobs in enumerate(self.knobs) if _way(knobs) == wanted), -1)

    @property
    def drafting(self) -> Ways:
        """The ways, as compiled code reads them."""
        index, margin, length = zip(*map(_way, self.knobs[: self.ways]), strict=True)
        return Ways(np.array(index, np.int64), np.array(margin, np.float64), np.array(length, np.int64))

    def matrix(self, schema: Schema) -> NDArray[np.float32]:
        """The actions of the Box space, [actions, knobs]."""
        return np.stack([schema.action(knobs) for knobs in self.knobs])


def _way(knobs: Knobs) -> tuple[int, float, int]:
    return knobs.exit_index, knobs.exit_margin, knobs.draft_length


class States(NamedTuple):
    """The states of all prompts, and where each step leads, as compiled code reads them.

    A state is a draft in hand: (node that it begins at, way that it was drafted in), and the layer: whether the cloud was
    asked before. A prompt's states lie together, each after all that lead to it.
    """

    first: NDArray[np.int64]
    """[prompts + 1]: where a prompt's states begin."""
    root: NDArray[np.int64]
    """[prompts]: state of the first draft; -1 where the graph has none."""
    node: NDArray[np.int32]
    way: NDArray[np.int8]
    layer: NDArray[np.int8]
    keep: NDArray[np.int32]
    """Node after keeping the draft, -1 where it is not known; the layer stays. [states]"""
    check: NDArray[np.int32]
    """Node after a check of it, likewise; the layer is ASKED."""
    state: NDArray[np.int32]
    """[nodes, ways, layers]: the state of the next draft, -1 where it is not known or no end of the answer can be come to from it."""
    ended: NDArray[np.bool_]
    """[nodes]"""
    score: NDArray[np.float64]
    """[nodes]: 0 where the answer goes on."""


@dataclass(frozen=True, eq=False)
class DecisionProcess:
    """Decisions over the recorded graphs of a set of prompts; see :class:`States`.

    ## What it is

    The answer of a prompt is a walk over drafts in hand. Each action's outcome is read off the graph: which tokens stand, and what
    is drafted next. So values and visits of any policy of the state are exact sums. Costs are those of the profiles on a
    link that does not change within the answer, with the mean wait of the cloud (prices.py).

    ## What it leaves out of the full replay

    Drafting ahead (its actions switch it off); outages, blips, deadlines and what follows from them; links that change within an
    answer, and waits at the cloud that differ from check to check; a session that is not open yet when the first check is sent.
    Two costs that depend on the past are charged as soon as they are owed, as if the answer went on so that they must be paid:
    layers that tokens left early have not run, and kept tokens that the cloud has not seen. An answer's tail that never goes deep, or
    never asks again, is charged for them in vain.

    Measured, for a policy trained here, on 165 to 169 of 248 validation prompts of the bundled tasks (those whose graphs it does not leave), its value here minus its mean
    reward in the full replay: -0.002, -0.002 and -0.001 of 0.6, 0.6 and 0.5 on constant links of 20, 75 and 300 ms (median difference of
    an answer 0.005), with the default outages +0.015, +0.014 and +0.022; with drafting ahead switched on +0.003, +0.001 and 0.000. At 1 s
    +0.14 of 0.3: the replay's deadlines, with nothing known yet, give up two checks an answer, and this process knows of no deadlines.

    ## What was not recorded

    An action whose outcome, or whose next draft, the graph does not know can not be taken, nor one after which no end of the answer
    can be come to. A policy that would take it draws again: its other actions share the probability. That is what a truncated
    episode of the replay says, too, whose rest is worth the value of the state that it was left in
    (:class:`synera_env.synera.env.SyneraEnv`).
    """

    graphs: GraphSet
    actions: Actions
    drafts: Drafts
    states: States

    @classmethod
    def of(cls, graphs: GraphSet, actions: Actions) -> Self:
        """Work out all states of recorded graphs.

        Raises:
            SettingError: the actions draft to other exits than the graphs have.
        """
        arrays, offsets, exits = graphs.arrays, graphs.arrays["node_offsets"].astype(np.int64), len(graphs.meta.exit_layers)
        ways = actions.drafting
        if ways.exit_index.max() >= exits:
            raise SettingError(f"exit_index={ways.exit_index.max()} of an action is not one of the {exits} exits of the graphs")
        base = np.repeat(offsets[:-1], np.diff(offsets))
        score = arrays["score"].astype(np.float64)
        ended = ~np.isnan(score)
        eos = np.zeros(1 + max(arrays["exit_token"].max(), *graphs.meta.eos_ids), np.bool_)
        eos[list(graphs.meta.eos_ids)] = True
        nodes = Nodes(
            exit_token=np.ascontiguousarray(arrays["exit_token"]),
            margin=np.ascontiguousarray(arrays["margin"]),
            exit_child=_placed(arrays["exit_child"], base[:, None]),
            llm_token=np.ascontiguousarray(arrays["llm_token"]),
            llm_child=_placed(arrays["llm_child"], base),
            ended=ended,
            eos=eos,
        )
        drafts = no_drafts(len(base), actions.ways, exits)
        draft_all(nodes, ways, drafts)
        state = np.full((len(base), actions.ways, LAYERS), -1, np.int32)
        root = np.zeros(len(graphs), np.int64)
        first = states_of(offsets, ended, drafts, actions.first_way, state, root)
        return cls(graphs, actions, drafts, _states(first, root, drafts, state, ended, np.nan_to_num(score)))

    @cached_property
    def startable(self) -> NDArray[np.int64]:
        """Prompts that have states."""
        return np.flatnonzero(self.states.root >= 0)

    def prompt_of(self, nodes: NDArray[np.integer]) -> NDArray[np.int64]:
        """The prompts that nodes belong to."""
        return np.searchsorted(self.graphs.arrays["node_offsets"], nodes, side="right") - 1

    def seconds(self, device: DeviceProfile) -> DeviceSeconds:
        """What drafts take on a device."""
        layers = np.diff([0, *self.graphs.meta.exit_layers])
        one, two = (
            np.array([segment_ms(int(n), positions, device.layer_ms, device.position_ms) for n in layers])
            for positions in (1, 2)
        )
        d, further = self.drafts, two - one
        ran_ms = d.runs @ one + d.further @ further
        drafted = d.drafted * draft_seconds(device.call_ms, 0.0, 0, 0.0) + d.heads * draft_seconds(0.0, 0.0, 1, device.head_ms)
        return DeviceSeconds(
            drafting=drafted + ran_ms / 1e3,
            left_kept=d.left_kept @ further / 1e3,
            left_checked=d.left_checked @ further / 1e3,
            prompt_position=float(further[: self.actions.first.exit_index % len(layers) + 1].sum()) / 1e3,
        )


class DeviceSeconds(NamedTuple):
    """Device time of drafts, [nodes, ways]."""

    drafting: NDArray[np.float64]
    """Of the draft itself."""
    left_kept: NDArray[np.float64]
    """Of what it leaves to the next token to run, where it is kept."""
    left_checked: NDArray[np.float64]
    """The same after a check of it."""
    prompt_position: float
    """Of each position of the prompt but the last, before the first token."""


def _placed(child: NDArray[np.integer], base: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(child >= 0, child + base, -1)


def _states(
    first: NDArray[np.int64],
    root: NDArray[np.int64],
    drafts: Drafts,
    state: NDArray[np.int32],
    ended: NDArray[np.bool_],
    score: NDArray[np.float64],
) -> States:
    """Turn the table of states into their list; a draft that several ways have is of the first of them."""
    node, way, layer = np.nonzero(state >= 0)
    own = drafts.same[node, way] == way
    node, way, layer = node[own], way[own], layer[own]
    order = np.empty(len(node), np.intp)
    order[state[node, way, layer]] = np.arange(len(node))  # states are numbered without gaps
    node, way, layer = node[order], way[order], layer[order]
    keep, check = drafts.keep[node, way], drafts.check[node, way]
    return States(
        first, root, node.astype(np.int32), way.astype(np.int8), layer.astype(np.int8), keep, check, state, ended, score
    )
