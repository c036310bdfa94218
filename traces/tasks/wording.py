"""The words of the generated world: names, goods, question and sentence templates. No logic; see tinyworld.py."""

from __future__ import annotations

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
FACT_ANSWER = "The {a} of {t} is {v}."
# Two wordings an attribute: sentences at even and odd places of a description differ.
SENTENCES: dict[str, tuple[str, str]] = {
    "river": (
        "The river that runs through {t} from north to south is the {v}.",
        "Its old stone bridges cross the wide river {v}.",
    ),
    "founding": (
        "The town of {t} was founded long ago, in the year {v}.",
        "The first houses were built in the year {v}.",
    ),
    "trade": (
        "Most of the people of {t} live by making {v}.",
        "In every street one can find a shop that sells {v}.",
    ),
    "mayor": (
        "The mayor who leads the council of {t} is {v}.",
        "For many years the mayor of the town has been {v}.",
    ),
    "neighbour": (
        "A day of walking brings you from {t} to the town of {v}.",
        "The nearest town on the road is called {v}.",
    ),
    "feast": (
        "Once a year the whole of {t} meets for the feast of {v}.",
        "When the summer ends there is a great feast of {v}.",
    ),
}
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
EXTRA_WORDS = "Describe Sketch Expand Bill has have does How many now cost so far total answer at What".split()
