"""A second system, as small as one can be: three knobs, its own stepper, ten lines of world.

The device writes a pot of tea: every step pours up to `cups`, and may ask the cloud, which pours right where the device
spills. What a newcomer would write, and nothing of `agents/` or of the shared files of `synera_env/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from runtime.errors import UncoveredError
from runtime.session import Cost, Step, StepRecord
from synera_env import DecisionEnv, Feature, Knob, Schema, View, preference_features
from synera_env.episode import Start
from traces.links.generators import constant_link

POT = 6


@dataclass(frozen=True)
class TeaKnobs:
    ask: float = 0.0
    cups: int = 1
    heat: float = 0.5


@dataclass(frozen=True)
class TeaPoint:
    left: int
    steady: float


SCHEMA = Schema(
    "tea",
    [
        Knob("ask", 0, 1, "share", "ask where the hand is less steady than this", (0.0, 1.0, 0.5)),
        Knob("cups", 1, 3, "cups", "most cups a step", (1, 2, 3), integer=True),
        Knob("heat", 0, 1, "share", "costs energy", (0.0, 0.5)),
    ],
    [
        Feature("left", "cups", 0, POT, "cups to pour", lambda v: v.point.left),
        Feature("steady", "share", 0, 1, "steadiness of the hand, twice", lambda v: [v.point.steady] * 2, size=2),
        *preference_features(),
    ],
    make_knobs=TeaKnobs,
    first_knobs=TeaKnobs(),
    presets={"alone": TeaKnobs(), "ask": TeaKnobs(ask=1.0, cups=3)},
    view=View,
)


@dataclass
class Tea:
    """Implements :class:`runtime.session.Stepper`; the hand is steady at every other cup."""

    burns_at: float = 2.0
    records: list[StepRecord] = field(default_factory=list)
    answer: tuple[int, ...] = ()
    closed: int = 0

    def begin(self, prompt: Sequence[int], knobs: TeaKnobs) -> TeaPoint:
        self.records, self.answer = [], ()
        return self._point()

    def advance(self, knobs: TeaKnobs) -> Step[TeaPoint, StepRecord]:
        steady, asked = self._point().steady, knobs.ask > self._point().steady
        poured = (1 if asked or steady > 0.5 else 0,) * min(knobs.cups, POT - len(self.answer))
        self.answer += poured
        seconds = 0.1 + 0.1 * asked
        at = seconds + (self.records[-1].committed_at if self.records else 0.0)
        cost = Cost(seconds=seconds, cloud_seconds=0.02 * asked, joules=knobs.heat)
        self.records.append(StepRecord(knobs=knobs, cost=cost, committed=poured, committed_at=at, offloaded=asked))
        if knobs.heat >= self.burns_at:
            raise UncoveredError("nobody has recorded burnt tea")
        return Step(self.records[-1], self._point() if len(self.answer) < POT else None)

    def close(self) -> None:
        self.closed += 1

    def _point(self) -> TeaPoint:
        return TeaPoint(POT - len(self.answer), 0.9 if len(self.answer) % 2 else 0.1)


@dataclass
class TeaEpisode:
    session: Tea
    prompt_tokens: tuple[int, ...] = (1,)
    prompt: str = "tea, please"
    kind: str = "tea"

    def text(self, tokens: Sequence[int]) -> str:
        return " ".join("right" if poured else "spilt" for poured in tokens)

    def score(self) -> float:
        return sum(self.session.answer) / POT


class TeaEnv(DecisionEnv):
    """The world: ten lines."""

    def __init__(self, burns_at: float = 2.0, **options: object) -> None:
        super().__init__(SCHEMA, 2, [constant_link()], **options)  # type: ignore[arg-type]
        self._burns_at = burns_at

    def _begin(self, start: Start) -> TeaEpisode:
        return TeaEpisode(Tea(self._burns_at))
