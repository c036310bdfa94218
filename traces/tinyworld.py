"""The bundled tasks: a generated world, four kinds of prompts with exactly scored answers, and their tokenizer.

What lives here: prompts, reference answers, scores, splits. What does not: models, training, recorded traces.

Every prompt determines its reference answer: :func:`solve` parses the prompt against the world and works the answer
out, so scoring needs no stored key. Splits are a property of the prompt text (:func:`split_of`), hence disjoint by
construction; facts themselves are learned by heart, by design.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

KINDS = ("fact", "problem", "bill", "description")
"""The four scored task kinds."""
FORMS = (*KINDS, "sketch", "expansion")
"""The kinds and the two sketch forms of a description (prompt to key facts; key facts of a sentence to the sentence)."""
SPLITS = ("train", "validation", "test")
ATTRIBUTES = ("river", "founding", "trade", "mayor", "neighbour", "feast")
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<ans>", "<unk>")

_TOWNS = 400
_WORLD_SEED = 7
_QUESTIONS: dict[str, tuple[str, ...]] = {
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
_FACT_ANSWER = "The {a} of {t} is {v}."
# Two wordings an attribute: sentences at even and odd places of a description differ.
_SENTENCES: dict[str, tuple[str, str]] = {
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
_TRADES = [
    "wool",
    "glass",
    "salt",
    "honey",
    "paper",
    "rope",
    "lamps",
    "bells",
    "boats",
    "soap",
    "candles",
    "leather",
    "pottery",
    "silver",
    "carpets",
    "barrels",
    "hats",
    "clocks",
    "knives",
    "nets",
    "baskets",
    "cheese",
    "wine",
    "bread",
    "ink",
    "tiles",
    "flutes",
    "drums",
    "saddles",
    "gloves",
    "kites",
    "mirrors",
    "dyes",
    "silk",
    "linen",
    "combs",
    "oil",
    "chairs",
    "masks",
    "maps",
]
_FEASTS = [
    "lanterns",
    "apples",
    "masks",
    "bells",
    "rain",
    "snow",
    "fires",
    "boats",
    "stars",
    "moons",
    "songs",
    "bread",
    "wine",
    "flowers",
    "horses",
    "drums",
    "kites",
    "ghosts",
    "wolves",
    "swans",
    "owls",
    "bears",
    "crowns",
    "mirrors",
    "ribbons",
    "candles",
    "giants",
    "shadows",
    "fish",
    "torches",
    "harvest",
    "salt",
    "shells",
    "clouds",
    "stones",
    "dreams",
    "winds",
    "honey",
    "feathers",
    "swords",
]
_FIRST = [
    "Mira",
    "Tomas",
    "Lena",
    "Oskar",
    "Ines",
    "Felix",
    "Nora",
    "Pavel",
    "Ruth",
    "Anton",
    "Clara",
    "Hugo",
    "Elsa",
    "Viktor",
    "Greta",
    "Emil",
    "Sofia",
    "Martin",
    "Alma",
    "Jonas",
    "Irma",
    "Karl",
    "Vera",
    "Otto",
    "Hanna",
    "Leon",
    "Ada",
    "Rolf",
    "Maud",
    "Boris",
    "Edda",
    "Simon",
    "Lucia",
    "Peter",
    "Tilda",
    "Max",
    "Olga",
    "Ralf",
    "Wanda",
    "Igor",
]
_LAST = [
    "Voss",
    "Lindt",
    "Karr",
    "Benn",
    "Holm",
    "Fisk",
    "Rask",
    "Dahl",
    "Moor",
    "Stein",
    "Brandt",
    "Falk",
    "Winter",
    "Sommer",
    "Graf",
    "Keller",
    "Roth",
    "Vogel",
    "Ziegler",
    "Busch",
    "Lang",
    "Kranz",
    "Horn",
    "Adler",
    "Berg",
    "Thal",
    "Frost",
    "Hagen",
    "Kern",
    "Lorenz",
    "Maass",
    "Nolte",
    "Oster",
    "Pohl",
    "Quist",
    "Reimer",
    "Sandor",
    "Treu",
    "Ulm",
    "Wieland",
]
_ITEMS = ["apples", "coins", "stamps", "cards", "shells", "beads", "books", "marbles", "pears", "nuts", "plums", "eggs"]
_GOODS = [
    "pens",
    "cups",
    "lamps",
    "hats",
    "ropes",
    "maps",
    "bowls",
    "combs",
    "keys",
    "belts",
    "bags",
    "rings",
    "forks",
    "jars",
    "mats",
    "pots",
]
_ADD = ("{n} finds {k} more.", "{n} buys {k} more.", "{n} is given {k} more.")
_SUBTRACT = ("{n} gives away {k}.", "{n} loses {k}.", "{n} sells {k}.")
_MULTIPLY: tuple[str, ...] = ("Then there are {k} times as many.",)
_EXTRA_WORDS = [
    "Describe",
    "Sketch",
    "Expand",
    "Bill",
    "has",
    "have",
    "does",
    "How",
    "many",
    "now",
    "cost",
    "so",
    "far",
    "total",
    "answer",
    "at",
    "What",
]


class TaskError(ValueError):
    """A prompt that no bundled task kind can parse."""


@dataclass(frozen=True)
class Task:
    """One prompt of the bundled world."""

    kind: str
    """One of :data:`FORMS`."""
    prompt: str
    answer: str
    """The reference answer; scores 1.0."""


@dataclass(frozen=True)
class World:
    """The towns and their facts."""

    facts: dict[str, dict[str, str]]
    """town -> attribute -> value."""

    @property
    def towns(self) -> tuple[str, ...]:
        """Town names, in generation order."""
        return tuple(self.facts)


def _names(rng: np.random.Generator, count: int, starts: str, middles: str, ends: str) -> list[str]:
    names = sorted({(a + b + c).capitalize() for a in starts.split() for b in middles.split() for c in ends.split()})
    return [names[i] for i in rng.permutation(len(names))[:count]]


@lru_cache(maxsize=1)
def world() -> World:
    """Return the one bundled world (seeded; the same on every machine)."""
    rng = np.random.default_rng(_WORLD_SEED)
    towns = _names(
        rng,
        _TOWNS,
        "bel mar tor ves cal dun fen gar hol kes lor nim pel ros sal",
        "a e i o u",
        "mora dale wick stad burn ford ham",
    )
    rivers = _names(rng, 60, "sa vi lo ka mu ne ri to", "r l n s", "n a e ve th")
    pick = rng.choice
    facts = {
        town: {
            "river": str(pick(rivers)),
            "founding": str(rng.integers(1100, 1900)),
            "trade": str(pick(_TRADES)),
            "mayor": f"{pick(_FIRST)} {pick(_LAST)}",
            "neighbour": towns[(i + 1 + int(rng.integers(len(towns) - 1))) % len(towns)],
            "feast": str(pick(_FEASTS)),
        }
        for i, town in enumerate(towns)
    }
    return World(facts)


def split_of(prompt: str) -> str:
    """Return the split that a prompt belongs to: 90 % train, 5 % validation, 5 % test, by a checksum of its text."""
    bucket = zlib.crc32(prompt.encode()) % 20
    return {0: "test", 1: "validation"}.get(bucket, "train")


# ---------------------------------------------------------------- prompts


def _fact_prompt(rng: np.random.Generator) -> str:
    attribute = ATTRIBUTES[rng.integers(len(ATTRIBUTES))]
    wordings = _QUESTIONS[attribute]
    return wordings[rng.integers(len(wordings))].format(t=_any_town(rng))


def _problem_prompt(rng: np.random.Generator) -> str:
    name, value = str(rng.choice(_FIRST)), int(rng.integers(5, 100))
    item = str(rng.choice(_ITEMS))
    text = [f"{name} has {value} {item}."]
    wordings: tuple[str, ...]
    for _ in range(rng.integers(2, 5)):
        operation = rng.choice(["+", "*"] if value < 5 else ["+", "-", "*"] if value <= 200 else ["+", "-"])
        if operation == "*":
            k = int(rng.integers(2, 5))
            wordings, value = _MULTIPLY, value * k
        elif operation == "+":
            k = int(rng.integers(2, 100))
            wordings, value = _ADD, value + k
        else:
            k = int(rng.integers(1, min(value, 100)))
            wordings, value = _SUBTRACT, value - k
        text.append(wordings[rng.integers(len(wordings))].format(n=name, k=k))
    text.append(f"How many {item} does {name} have now?")
    return " ".join(text)


def _bill_prompt(rng: np.random.Generator) -> str:
    goods = rng.choice(_GOODS, size=rng.integers(2, 4), replace=False)
    lines = [f"{rng.integers(2, 10)} {good} at {rng.integers(2, 40)}" for good in goods]
    return f"Bill: {', '.join(lines)}. What is the total?"


def _any_town(rng: np.random.Generator) -> str:
    towns = world().towns
    return towns[rng.integers(len(towns))]


def _topics(rng: np.random.Generator, verb: str) -> str:
    attributes = rng.permutation(ATTRIBUTES)[: rng.integers(4, 7)]
    return f"{verb} {_any_town(rng)}: {', '.join(attributes)}."


def _expansion_prompt(rng: np.random.Generator) -> str:
    town = _any_town(rng)
    attribute = ATTRIBUTES[rng.integers(len(ATTRIBUTES))]
    place = ("first", "then")[rng.integers(2)]
    return f"Expand {town}, {place}: {attribute} {world().facts[town][attribute]}."


_PROMPTS: dict[str, Callable[[np.random.Generator], str]] = {
    "fact": _fact_prompt,
    "problem": _problem_prompt,
    "bill": _bill_prompt,
    "description": lambda rng: _topics(rng, "Describe"),
    "sketch": lambda rng: _topics(rng, "Sketch"),
    "expansion": _expansion_prompt,
}


def sample(kind: str, rng: np.random.Generator, split: str = "train") -> Task:
    """Draw one task of a kind from a split (rejection sampling on the prompt's own split)."""
    if kind not in FORMS or split not in SPLITS:
        raise ValueError(f"no task kind {kind!r} in split {split!r}; kinds are {FORMS}, splits are {SPLITS}")
    while True:
        prompt = _PROMPTS[kind](rng)
        if split_of(prompt) == split:
            return Task(kind, prompt, solve(prompt))


def tasks(kind: str, split: str, count: int, seed: int = 0) -> list[Task]:
    """Return `count` distinct tasks of a kind and split, the same for the same seed."""
    rng = np.random.default_rng([seed, FORMS.index(kind), SPLITS.index(split)])
    found: dict[str, Task] = {}
    for _ in range(200 * count):
        task = sample(kind, rng, split)
        found.setdefault(task.prompt, task)
        if len(found) == count:
            return list(found.values())
    raise ValueError(f"the bundled world has fewer than {count} distinct {kind!r} prompts in split {split!r}")


def stream(rng: np.random.Generator, weights: dict[str, float], split: str = "train") -> Iterator[Task]:
    """Yield tasks for ever, kinds drawn in proportion to `weights`."""
    kinds, shares = list(weights), np.array(list(weights.values()), dtype=float)
    shares /= shares.sum()
    while True:
        yield sample(kinds[rng.choice(len(kinds), p=shares)], rng, split)


# ---------------------------------------------------------------- reference answers


_Parsed = tuple[str, tuple[str, ...]]  # town, attributes


def kind_of(prompt: str) -> str:
    """Return the form that a prompt belongs to.

    Raises:
        TaskError: the prompt is of no bundled kind.
    """
    first = prompt.split(" ", 1)[0]
    by_word = {"Bill:": "bill", "Describe": "description", "Sketch": "sketch", "Expand": "expansion"}
    if first in by_word:
        return by_word[first]
    if " has " in prompt and "How many" in prompt:
        return "problem"
    if _parse_fact(prompt) is not None:
        return "fact"
    raise TaskError(f"the prompt {prompt!r} is of none of the bundled kinds {FORMS}")


@lru_cache(maxsize=1)
def _question_patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple(
        (attribute, re.compile(re.escape(wording).replace(r"\{t\}", r"(\w+)")))
        for attribute, wordings in _QUESTIONS.items()
        for wording in wordings
    )


def _parse_fact(prompt: str) -> tuple[str, str] | None:
    for attribute, pattern in _question_patterns():
        if (match := pattern.fullmatch(prompt)) and match[1] in world().facts:
            return match[1], attribute
    return None


def _parse_topics(prompt: str) -> _Parsed:
    match = re.fullmatch(r"\w+ (\w+): ([\w, ]+)\.", prompt)
    attributes = tuple(match[2].split(", ")) if match else ()
    if not match or match[1] not in world().facts or not set(attributes) <= set(ATTRIBUTES):
        raise TaskError(f"cannot parse {prompt!r}; expected 'Describe TOWN: ATTRIBUTE, ATTRIBUTE.' with {ATTRIBUTES}")
    return match[1], attributes


def _solve_fact(prompt: str) -> str:
    parsed = _parse_fact(prompt)
    if parsed is None:
        raise TaskError(f"cannot parse {prompt!r} as a question about a town")
    town, attribute = parsed
    return _FACT_ANSWER.format(a=attribute, t=town, v=world().facts[town][attribute])


def _solve_problem(prompt: str) -> str:
    numbers = re.findall(r"(\d+)", prompt)
    sentences = prompt.split(". ")[1:-1]
    if not numbers or len(numbers) != len(sentences) + 1:
        raise TaskError(f"cannot parse {prompt!r} as a word problem")
    value, steps = int(numbers[0]), []
    for sentence, k in zip(sentences, map(int, numbers[1:]), strict=True):
        sign = "x" if "times" in sentence else "+" if "more" in sentence else "-"
        after = value * k if sign == "x" else value + k if sign == "+" else value - k
        steps.append(f"{value} {sign} {k} = {after}.")
        value = after
    return f"{' '.join(steps)} The answer is {value}."


def _solve_bill(prompt: str) -> str:
    total, steps = 0, []
    for quantity, good, price in re.findall(r"(\d+) (\w+) at (\d+)", prompt):
        cost = int(quantity) * int(price)
        total += cost
        steps.append(f"{quantity} {good} at {price} cost {cost}, so far {total}.")
    if not steps:
        raise TaskError(f"cannot parse {prompt!r} as a bill")
    return f"{' '.join(steps)} The total is {total}."


def _solve_description(prompt: str) -> str:
    town, attributes = _parse_topics(prompt)
    facts = world().facts[town]
    return " ".join(_SENTENCES[a][i % 2].format(t=town, v=facts[a]) for i, a in enumerate(attributes))


def _solve_sketch(prompt: str) -> str:
    town, attributes = _parse_topics(prompt)
    return "; ".join(f"{a} {world().facts[town][a]}" for a in attributes) + "."


def _solve_expansion(prompt: str) -> str:
    match = re.fullmatch(r"Expand (\w+), (first|then): (\w+) ([\w ]+)\.", prompt)
    if not match or match[3] not in ATTRIBUTES:
        raise TaskError(f"cannot parse {prompt!r}; expected 'Expand TOWN, first: ATTRIBUTE VALUE.'")
    return _SENTENCES[match[3]][match[2] == "then"].format(t=match[1], v=match[4])


_SOLVERS: dict[str, Callable[[str], str]] = {
    "fact": _solve_fact,
    "problem": _solve_problem,
    "bill": _solve_bill,
    "description": _solve_description,
    "sketch": _solve_sketch,
    "expansion": _solve_expansion,
}


def solve(prompt: str) -> str:
    """Return the reference answer of a prompt.

    Raises:
        TaskError: the prompt is of no bundled kind.
    """
    return _SOLVERS[kind_of(prompt)](prompt)


# ---------------------------------------------------------------- scores


@lru_cache(maxsize=1)
def _sentence_patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple(
        (attribute, re.compile(re.escape(wording).replace(r"\{t\}", r"\w+").replace(r"\{v\}", r"([\w ]+)")))
        for attribute, wordings in _SENTENCES.items()
        for wording in wordings
    )


def _stated_facts(answer: str) -> Counter[tuple[str, str, int]]:
    """The facts that a description states, as (attribute, token, place in value); years count digit by digit."""
    stated: Counter[tuple[str, str, int]] = Counter()
    for sentence in re.split(r"(?<=\.)\s+", answer.strip()):
        for attribute, pattern in _sentence_patterns():
            if match := pattern.fullmatch(sentence):
                tokens = match[1].split() if attribute != "founding" else list(match[1])
                stated.update((attribute, token, i) for i, token in enumerate(tokens))
    return stated


def _score_last_value(prompt: str, answer: str) -> float:
    def final(text: str) -> str | None:
        found = re.findall(r"\bis ([\w ]+)\.", text)
        return found[-1] if found else None

    return float(final(answer) == final(solve(prompt)))


def _score_description(prompt: str, answer: str) -> float:
    wanted, stated = _stated_facts(solve(prompt)), _stated_facts(answer)
    common = (wanted & stated).total()
    return 2.0 * common / (wanted.total() + stated.total())


def _score_exact(prompt: str, answer: str) -> float:
    return float(answer.strip() == solve(prompt))


_SCORERS: dict[str, Callable[[str, str], float]] = {
    "fact": _score_last_value,
    "problem": _score_last_value,
    "bill": _score_last_value,
    "description": _score_description,
    "sketch": _score_exact,
    "expansion": _score_exact,
}


def score(prompt: str, answer: str) -> float:
    """Return the quality of an answer, in [0, 1].

    Facts: the exact value. Problems and bills: the final number. Descriptions: token F1 over the facts stated
    (attribute, token and place must agree). Sketches and expansions: exact text.

    Raises:
        TaskError: the prompt is of no bundled kind.
    """
    return _SCORERS[kind_of(prompt)](prompt, answer)


# ---------------------------------------------------------------- tokenizer


def vocabulary() -> list[str]:
    """Return every token of the bundled tokenizer, special tokens first, in a fixed order."""
    texts = [w for group in (*_QUESTIONS.values(), *_SENTENCES.values()) for w in group]
    texts += [_FACT_ANSWER, *_ADD, *_SUBTRACT, *_MULTIPLY, "first then ; : , . ? + - x ="]
    texts += [*ATTRIBUTES, *_TRADES, *_FEASTS, *_FIRST, *_LAST, *_ITEMS, *_GOODS, *_EXTRA_WORDS]
    texts += [*world().towns, *(v for f in world().facts.values() for a, v in f.items() if a != "founding")]
    words = {w for text in texts for w in re.findall(r"[A-Za-z]+|[^\sA-Za-z\d{}]", re.sub(r"\{\w\}", " ", text))}
    return [*SPECIAL_TOKENS, *"0123456789", *sorted(words)]


def build_tokenizer() -> Tokenizer:  # type: ignore[name-defined]  # noqa: F821
    """Build the bundled `tokenizers.Tokenizer`: whole words, single digits, punctuation.

    `encode(prompt)` gives `<bos> prompt <ans>`, ready for the models; `encode(answer, add_special_tokens=False)` the
    bare answer; `decode` gives the text back exactly (numbers joined, punctuation attached).
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    ids = {token: i for i, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Punctuation()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <ans>", special_tokens=[("<bos>", ids["<bos>"]), ("<ans>", ids["<ans>"])]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(Regex(r"^"), " "),
            decoders.Fuse(),
            decoders.Replace(Regex(r"(?<=\d) (?=\d)"), ""),
            decoders.Replace(Regex(r" (?=[.,;:?])"), ""),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer
