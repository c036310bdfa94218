"""Synera's environment: what its action, observation and episode are. The tables in its docstring are made of the rows.

What does not live here: its worlds (replay.py, live.py), its rows (schema.py).
"""

from __future__ import annotations

import inspect
from abc import ABC

from gymnasium import logger

from runtime.synera.chunk import ChunkRecord
from runtime.synera.session import EnergyModel
from synera_env.base import DecisionEnv
from synera_env.reward import Preference
from synera_env.synera.schema import synera_schema


class SyneraEnv(DecisionEnv, ABC):
    """Offloading decisions of device-cloud LLM inference, one chunk of draft tokens a step.

    ## Description

    A phone's small model (SLM) answers a prompt chunk by chunk. At every step a chunk of draft tokens is in hand, and
    the action decides whether it is kept or sent to the cloud's large model (LLM), which keeps the longest correct
    prefix and adds one token of its own; and how the next chunk is drafted. The loop itself is
    `runtime.synera.session.Session` in every world.

    ## Action space

    `Box(-1, 1)`, float32, one entry a knob, values outside are clipped. Thresholds and budget apply to the chunk in hand, exit and
    draft length to the next one. A chunk is offloaded when it is uncertain and important and the budget allows it. While
    its check is in flight the device drafts the next chunk on from a guess of the outcome, where that is at least as
    probable as `draft_ahead` (`runtime.synera.ahead`); it changes times and energy, never tokens.
    The whole numbers of a knob share the range in equal parts. For an SLM with two exits:

    KNOB_TABLE

    ## Observation space

    `Box(float32)`, clipped to these bounds; nothing that a device cannot know is in it.

    FEATURE_TABLE

    ## Reward

    `w_quality * d_quality - w_latency * seconds - w_cost * cloud_seconds - w_energy * joules - w_traffic * megabytes`;
    quality is the task's score and is paid at the last step. Each term is in `info["reward_terms"]`. The weights
    (`synera_env.reward.Preference`) are sampled for each episode unless given, and observed.

    ## Episode

    Starts with the first chunk drafted (full depth, four tokens). Terminates when the answer is complete; at the end
    `info["episode_metrics"]` has the metrics of `synera_env.metrics`. Where nobody can tell the quality (a live answer
    without a scorer) it is NaN there, so is the reward of the answer, the last step's reward has no term for it, and
    `info["quality_known"]` is False.

    In replay an episode is truncated, with `info["uncovered"]` (why: `info["reason"]`), when a step leaves the recorded graph:
    when something must be read at a node that is not there. The step counts as **not taken**: the observation is once more
    that of the decision point before it, the reward is 0 (each term in `info["reward_terms"]`, too), `info["offloaded"]` is
    False, and there are no `episode_metrics`. What the rest is worth is the value of that observation to the learner; PPO
    adds it by itself (`TimeLimit.truncated`), so the step's advantage is 0.

    That is neither free nor charged for: the value holds all that is still to be paid and earned. Nothing is learned of the
    step, for it or against it, and a policy that leaves is worth what it is where it stays, as if it drew again until an
    action stays inside; so, with the critic right, none gains by leaving, and the critic is asked of no other points than it
    is trained on. What bias is left is that of the steps left out, and shrinks with their share (`synera inspect-trace
    --coverage`). Measured on the training graphs, cut likeliest nodes first until 98.5 % of the decisions stayed inside, for
    a rule that offloads at random: an answer's value was off by -0.02 of 0.25, and what offloading gains where the draft is
    least confident came out as 0.09 instead of 0.10; had leaving ended the answer, charged with the rest of it and without
    quality, by -0.16, and as 0.02. A learner that takes a truncated episode for one that ended makes leaving a bargain.
    Graphs that grow are never left.

    Prompts of which not even the first chunk was recorded are not drawn.

    ## Network and cloud

    An episode plays on a link trace from some time on. At its start outages are drawn (`synera_env.radio.Outages`): gaps in
    which nothing gets through, and blips that cost a request its first copy. A check is given `check_deadline` times what it should
    take at most, by the round trips, queue and compute times that the answer has measured (`runtime.deadline.Patience`; RFC 6298),
    1 s at least, 2 s before anything is known. Half-way it is sent once more, whichever answer is there first counts, and both copies
    are paid for. What has no answer by then is abandoned: the draft stands, and the cloud is left alone for 0.5 s, after further
    losses in a row for 1, 2, 4 and 8 s; meanwhile checks are lost at once and free. Then it is tried in the background, by opening
    another session, which no check waits for; once that is open checks are sent again, the first one with the whole history. Live
    the outages are emulated with the link. How long a check waits at the cloud, and how many requests of others it meets there, is
    drawn from the cloud profile in replay, and is what it is live.

    ## Reset options

    `prompt` (index), `link` (index), `link_offset_seconds` (0 .. the link's length), `preference` (a `Preference` or a
    mapping of its weights); what is not given is drawn. Actions never change what later episodes draw.

    ## Arguments

    Of `SyneraReplay-v0`: `graphs`, `links`, `device`, `cloud`, `preference`, `outages`, `render_mode`, `check_deadline` (1..1000);
    all have bundled defaults. Of `SyneraLive-v0`: `cloud` (`host:port`), `device`, `prompts`, `scorer`, `links`, `emulate_link`,
    `preference`, `outages`, `render_mode`, `check_deadline`. What lies in a file may be given by its path, what has few fields as a mapping of
    them; both are checked at once. See the classes.

    ## Render modes

    `ansi`: a line a chunk. `rgb_array`: a picture, uint8 [height, width, 3], of the answer so far.

    ## Versions

    v0: the only one so far, and not yet frozen. Since its first form: the knob `draft_ahead` and the feature
    `guess_hits` came; outages, lost checks and the load of others are drawn (before, no replayed check was ever lost, and `load` was 0 or 1/8); the weights' features are bounded to a hundredth and a
    hundred times the default; a step that leaves the graph counts as not taken; each episode has its own generator; a check has a
    deadline and is repeated, and a lost cloud is tried in the background. So rewards,
    observations and the schema's hash differ from those of before, and what was trained then is refused.
    """

    def _line(self, record: ChunkRecord) -> str:
        decision = "keep   " if not record.offloaded else "offload" if record.error is None else "lost   "
        return (
            f"{decision} confidence {record.draft.confidence:.3f} "
            f"draft {self._said(record.draft.ids)} -> {self._said(record.committed)} at {record.committed_at:.3f} s"
        )

    def _confidence(self, record: ChunkRecord) -> float:
        return record.draft.confidence


def warn_without_energy(name: str, energy: EnergyModel, preference: Preference | None) -> None:
    """Warn of a device profile that states no energy while a preference (None: any) prices it: the term would be 0."""
    priced = preference is None or preference.energy > 0
    if priced and not energy.joules(1.0, 1.0, 1_000_000) > 0:
        logger.warn(
            "%s",
            f"device profile {name!r} states no watts, so energy is not in the reward though its weight is above 0; "
            "state busy_watts, wait_watts or radio_joules_per_mb in it, or set the preference's energy to 0",
        )


def _with_tables(docstring: str) -> str:
    schema = synera_schema(exits=2)
    tables = {"KNOB_TABLE": schema.knob_table(), "FEATURE_TABLE": schema.feature_table()}
    for mark, table in tables.items():
        docstring = docstring.replace(mark, table)
    return docstring


if SyneraEnv.__doc__ is not None:  # python -OO drops it
    SyneraEnv.__doc__ = _with_tables(inspect.cleandoc(SyneraEnv.__doc__))
