"""The words of the generated world: names, goods, questions, and the forms that answers may take. No facts; see tinyworld.py.

A form is a sentence with `[one|other]` where either may stand and `{field}` where a word of the answer goes; `{v}`, a value, may
be several words. Of several forms and of each choice the first is the canonical one. What does not live here: which statement is made (tinyworld.py) and what
it is worth (scorers.py).
"""

from __future__ import annotations

import re

import numpy as np

_CHOICE = re.compile(r"\[([^]]*)\]")
_PARTS = re.compile(r"(\[[^]]*\]|\{\w\})")

ATTRIBUTES = ("river", "founding", "trade", "mayor", "neighbour", "feast")

QUESTIONS: dict[str, tuple[str, ...]] = {
    "river": (
        "Which river runs through {t}?",
        "What is the river of {t}?",
        "On which river does {t} stand?",
        "Tell me the river of {t}.",
    ),
    "founding": (
        "When was {t} founded?",
        "What is the founding year of {t}?",
        "In which year was {t} founded?",
        "Tell me the founding year of {t}.",
    ),
    "trade": (
        "What do the people of {t} make?",
        "What is the trade of {t}?",
        "By which trade does {t} live?",
        "Tell me the trade of {t}.",
    ),
    "mayor": (
        "Who is the mayor of {t}?",
        "What is the name of the mayor of {t}?",
        "Who leads {t}?",
        "Tell me the mayor of {t}.",
    ),
    "neighbour": (
        "Which town lies nearest to {t}?",
        "What is the neighbour of {t}?",
        "Which town is next to {t}?",
        "Tell me the neighbour of {t}.",
    ),
    "feast": (
        "Which feast is held in {t}?",
        "What is the feast of {t}?",
        "What do the people of {t} celebrate?",
        "Tell me the feast of {t}.",
    ),
}
FACT_ANSWERS = (
    "The {a} of {t} is {v}.",
    "[It|That] is {v}.",
    "[For|In] {t} the {a} is {v}.",
    "{v} is the {a} of {t}.",
    "As for {t}, its {a} is {v}.",
    "The answer is {v}.",
)
SENTENCES: dict[str, tuple[str, ...]] = {
    "river": (
        "The [river|water] that [runs|flows] through {t} is [called|named] {v}.",
        "{t} [stands|lies] on the [banks of the|river] {v}.",
        "[Through|Past] the [streets|houses] of {t} [runs|flows] the {v}.",
        "The {v} is the river of {t}.",
        "The [old stone|wooden] bridges of {t} cross the [wide|cold] river {v}.",
    ),
    "founding": (
        "The town of {t} was [founded|begun] in the year {v}.",
        "The first [houses|walls] of {t} were [built|raised] in {v}.",
        "In {v} the first [stones|streets] of {t} were laid.",
        "People have lived in {t} since [the year|about] {v}.",
        "{t} [goes back|dates] to [the year|about] {v}.",
    ),
    "trade": (
        "Most [people|families] of {t} live by [making|selling] {v}.",
        "In every [street|lane] of {t} one can find a shop that sells {v}.",
        "{t} is known [far and wide|everywhere] for its {v}.",
        "The [main|oldest] trade of {t} is {v}.",
        "The [best|finest] {v} come from the workshops of {t}.",
    ),
    "mayor": (
        "The mayor who leads the [council|town] of {t} is {v}.",
        "For [many|some] years the mayor of {t} has been {v}.",
        "{v} is the mayor of {t}.",
        "{v} [leads|speaks for] the [council|people] of {t}.",
        "The people of {t} [chose|trust] {v} as their mayor.",
    ),
    "neighbour": (
        "A day of walking [brings|takes] you from {t} to [the town of|nearby] {v}.",
        "The nearest town to {t} is [called|named] {v}.",
        "[Not far|A short way] from {t} [lies|stands] {v}.",
        "The [road|path] from {t} [leads|goes] to {v}.",
        "{t} and {v} are neighbours.",
    ),
    "feast": (
        "[Once a|Each] year the whole of {t} meets for the feast of {v}.",
        "When the [summer|winter] ends there is a great feast of {v} in {t}.",
        "{t} [celebrates|holds] the feast of {v} [each|every] year.",
        "The [great|old] feast of {t} is that of {v}.",
        "[Guests|Singers] come to {t} for the feast of {v}.",
    ),
}
STEPS: dict[str, tuple[str, ...]] = {
    "+": (
        "{a} + {k} = {b}.",
        "[Now|Then] {n} has {a} + {k} = {b}.",
        "{a} and {k} [makes|gives] {b}.",
        "Adding {k} to {a} [makes|gives] {b}.",
    ),
    "-": (
        "{a} - {k} = {b}.",
        "[Now|Then] {n} has {a} - {k} = {b}.",
        "{a} less {k} [is|leaves] {b}.",
        "Taking {k} from {a} [leaves|gives] {b}.",
    ),
    "x": (
        "{a} x {k} = {b}.",
        "[Now|Then] {n} has {a} x {k} = {b}.",
        "{a} times {k} [is|makes] {b}.",
        "Counting {k} times {a} [makes|gives] {b}.",
    ),
}
"""How a step from `a` by `k` to `b` is told, by its sign."""
RESULTS = (
    "The answer is {v}.",
    "So {n} has {v} {i} now.",
    "In the end {n} [has|holds] {v} {i}.",
    "That [makes|leaves] {v} {i} for {n}.",
)
LINES = (
    "{q} {g} at {p} cost {c}, [so far|together] {v}.",
    "{q} x {p} = {c} for the {g}, [so far|together] {v}.",
    "The {q} {g} cost {c}, which [makes|gives] {v}.",
    "For {q} {g} we pay {c}, in all {v}.",
)
"""How a line of a bill is told: `q` goods `g` at `p` each cost `c`, and all so far `v`."""
TOTALS = (
    "The total is {v}.",
    "So the bill [is|comes to] {v}.",
    "In all we pay {v}.",
    "All of it [costs|comes to] {v}.",
)
FORM_GROUPS = (FACT_ANSWERS, *SENTENCES.values(), *STEPS.values(), RESULTS, LINES, TOTALS)
"""Every group of forms that say the same."""

TRADES = (
    "wool glass salt honey paper rope lamps bells boats soap candles leather pottery silver carpets barrels hats clocks "
    "knives nets baskets cheese wine bread ink tiles flutes drums saddles gloves kites mirrors dyes silk linen combs oil "
    "chairs masks maps"
).split()
FEASTS = (
    "lanterns apples masks bells rain snow fires boats stars moons songs bread wine flowers horses drums kites ghosts "
    "wolves swans owls bears crowns mirrors ribbons candles giants shadows fish torches harvest salt shells clouds stones "
    "dreams winds honey feathers swords"
).split()
FIRST = (
    "Mira Tomas Lena Oskar Ines Felix Nora Pavel Ruth Anton Clara Hugo Elsa Viktor Greta Emil Sofia Martin Alma Jonas "
    "Irma Karl Vera Otto Hanna Leon Ada Rolf Maud Boris Edda Simon Lucia Peter Tilda Max Olga Ralf Wanda Igor"
).split()
LAST = (
    "Voss Lindt Karr Benn Holm Fisk Rask Dahl Moor Stein Brandt Falk Winter Sommer Graf Keller Roth Vogel Ziegler Busch "
    "Lang Kranz Horn Adler Berg Thal Frost Hagen Kern Lorenz Maass Nolte Oster Pohl Quist Reimer Sandor Treu Ulm Wieland"
).split()
ITEMS = "apples coins stamps cards shells beads books marbles pears nuts plums eggs".split()
GOODS = "pens cups lamps hats ropes maps bowls combs keys belts bags rings forks jars mats pots".split()
ADD = ("{n} finds {k} more.", "{n} buys {k} more.", "{n} is given {k} more.")
SUBTRACT = ("{n} gives away {k}.", "{n} loses {k}.", "{n} sells {k}.")
MULTIPLY: tuple[str, ...] = ("Then there are {k} times as many.",)
EXTRA_WORDS = "Describe Sketch Expand Bill have has does How many now total at What".split()


def word(forms: tuple[str, ...], rng: np.random.Generator | None = None) -> str:
    """Return one way to say it, its fields still open: the canonical one without `rng`, else any, each choice evenly."""
    if rng is None:
        return _CHOICE.sub(lambda choice: choice[1].split("|")[0], forms[0])

    def pick(choice: re.Match[str]) -> str:
        words = choice[1].split("|")
        return words[rng.integers(len(words))]

    return _CHOICE.sub(pick, forms[int(rng.integers(len(forms)))])


def pattern(form: str) -> re.Pattern[str]:
    """Return what matches a sentence in a form, however its choices are made; its groups are the fields."""

    def opened(part: str) -> str:
        if part.startswith("["):
            return "(?:" + "|".join(map(re.escape, part[1:-1].split("|"))) + ")"
        if part.startswith("{"):
            return f"(?P<{part[1]}>{'[^.]+' if part[1] == 'v' else '[^ .]+'})"
        return re.escape(part)

    return re.compile("".join(opened(part) for part in _PARTS.split(form)))
