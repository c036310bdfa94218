"""The link-aware threshold: offload where the expected gain exceeds the expected cost, by what a device sees of draft and link.

What does not live here: how its figures are fitted on training prompts (agents/fitting.py).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from runtime.errors import SettingError
from synera_env import EXACT, Knobs, Preference, Schema
from synera_env.reward import TERMS

DRAFT = ("draft_tokens", "confidence", "margin", "entropy", "least_confidence", "importance", "mean_exit", "sketch", "progress")
"""Features that say what is in hand, and where in the answer."""
LINK = ("network", "queue", "compute", "load", "bytes")
"""Estimates of the link and the cloud: seconds of the network, of the queue and of the forward; requests / 8; and seconds a
kilobyte at the throughput seen."""
_KILOBYTE = 8000.0  # bits
_Weights = Annotated[tuple[float, ...], Field(min_length=1, max_length=1000)]


class Sight:
    """Reads off observations what the link-aware rule looks at."""

    def __init__(self, schema: Schema) -> None:
        """See the class.

        Raises:
            SettingError: the schema does not show it.
        """
        rows = {row.name for row in schema.features}
        shown = ("rtt", "queue", "compute", "load", "throughput", *(f"weight_{f.name}" for f in fields(Preference)))
        if missing := [name for name in (*DRAFT, *shown) if name not in rows]:
            raise SettingError(f"the system {schema.system} does not show {', '.join(missing)}; link-aware needs it")
        places = np.concatenate([schema.places(name) for name in DRAFT])
        self.names: tuple[str, ...] = (*(schema.entries[i] for i in places), *LINK)
        """Of the figures, in order."""
        self.draft_figures = len(places)
        self._draft = places
        at = {name: int(schema.places(name)[0]) for name in shown}
        self._link = [at[name] for name in ("rtt", "queue", "compute", "throughput")]
        self._load = at["load"]
        self._weights = [at[f"weight_{f.name}"] for f in fields(Preference)]

    def figures(self, observation: Any) -> NDArray[np.float64]:
        """Return the draft's and the link's, [..., figures]."""
        seen = np.asarray(observation, np.float64)
        link = 10.0 ** seen[..., self._link]  # all shown as log10
        link[..., 3] = _KILOBYTE / link[..., 3]
        estimates = np.insert(link, 3, seen[..., self._load], axis=-1)
        return np.concatenate([seen[..., self._draft], estimates], -1)

    def weights(self, observation: Any) -> NDArray[np.float64]:
        """Return the preference's, [..., terms]; one beyond a hundredth or a hundred times the default is shown as that."""
        return 10.0 ** np.asarray(observation, np.float64)[..., self._weights]


@dataclass(frozen=True)
class LinkAware:
    """Offloads where `sum_k w_k * d_k(x) > 0`; w_k is the preference's weight of term k of the reward.

    d_k(x) is what offloading the chunk in hand adds to term k of the answer, as expected of what is seen, x: to its quality, from
    the draft alone, less what it adds to its seconds, its cloud seconds, its joules and its megabytes, from the draft and the
    estimates of network, queue, compute, load and throughput. So w_quality * d_quality is the expected gain of a check, and the rest
    its expected cost:

        gain(draft) > w_latency * seconds(draft, link) + w_cost * cloud_seconds(...) + w_energy * joules(...) + w_traffic * MB(...)

    Each d_k is linear in x, `d_k(x) = b_k + sum_i a_ki * (x_i - center_i) / scale_i`: a check takes its network, queue and compute
    seconds, uses a share of the forward, and joules for the wait, so costs are nearly linear in the estimates; and what they do
    not show (tokens that a rejection wastes, checks that it saves later) is fitted along. The sum is linear in the weights, so that
    one rule serves every preference; the figures know none. The rule and its fit are ours.
    """

    __pydantic_config__ = EXACT

    offload: Knobs
    """Of a decision to offload; to keep is the same with no budget. Drafting is the same either way."""
    figures: Annotated[tuple[str, ...], Field(min_length=1, max_length=1000)]
    """What the weights are of, as :class:`Sight` names it."""
    center: _Weights
    scale: _Weights
    quality: _Weights
    """b, then a_i; of all five terms a minus says that offloading lowers the reward."""
    latency: _Weights
    cost: _Weights
    energy: _Weights
    traffic: _Weights
    kind: Literal["link-aware"] = "link-aware"

    def __post_init__(self) -> None:
        sizes = {len(self.center), len(self.scale), *(len(getattr(self, term)) - 1 for term in TERMS)}
        if sizes != {len(self.figures)}:
            raise SettingError(f"link-aware names {len(self.figures)} figures and has weights for {sorted(sizes)}")
        if not min(self.scale) > 0:
            raise SettingError(f"scale={min(self.scale)} of link-aware must be above 0")

    def controller(self, schema: Schema) -> LinkAwareRule:
        """Make it act.

        Raises:
            SettingError: the schema does not show what it looks at.
        """
        return LinkAwareRule(self, schema)


class LinkAwareRule:
    """:class:`LinkAware`, acting."""

    def __init__(self, fitted: LinkAware, schema: Schema) -> None:
        """See :meth:`LinkAware.controller`."""
        self.fitted, self._sight = fitted, Sight(schema)
        if fitted.figures != self._sight.names:
            raise SettingError("link-aware was fitted on other figures than this system shows; fit it again")
        self._center, self._scale = np.array(fitted.center), np.array(fitted.scale)
        terms = np.array([getattr(fitted, term) for term in TERMS])
        self._intercepts, self._weights = terms[:, 0], terms[:, 1:].T
        keep = replace(fitted.offload, offload_budget=0.0)
        self._actions = np.stack([schema.action(knobs) for knobs in (keep, fitted.offload)])

    def added(self, observation: Any) -> NDArray[np.float64]:
        """Return what offloading is expected to add to each term, unweighted, [..., terms]."""
        return (self._sight.figures(observation) - self._center) / self._scale @ self._weights + self._intercepts

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`."""
        worth = np.sum(self.added(observation) * self._sight.weights(observation), axis=-1)
        return self._actions[(worth > 0).astype(np.intp)], state
