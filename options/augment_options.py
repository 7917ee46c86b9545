"""The words of ``--augment``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from util.errors import UserError, did_you_mean

Interval = tuple[float, float]


@dataclass(frozen=True)
class Word:
    """A word of ``--augment`` that has an amount.

    Attributes:
        example: how it is written.
        least, most: limits of the amount.
        meaning: the amount, for messages.
        until: the other end of the interval that an amount X is drawn from; None: it must be written LO-HI.
        symmetric: the amount X is drawn from -X to X instead, and LO-HI has no meaning.
    """

    example: str
    least: float
    most: float
    meaning: str
    until: float | None = None
    symmetric: bool = False


SWITCHES = ("vflip", "rot90")
GEOMETRIC: Mapping[str, Word] = {
    "rotate": Word("rotate:15", 0, 180, "degrees", symmetric=True),
    "scale": Word("scale:0.9-1.1", 0.1, 10, "smallest and largest factor"),
    "shift": Word("shift:0.05", 0, 0.5, "fraction of the image's sides", symmetric=True),
}
PHOTOMETRIC: Mapping[str, Word] = {
    "color": Word("color:0.2", 0, 1, "largest change of a factor", symmetric=True),
    "noise": Word("noise:0.02", 0, 1, "standard deviation, as a fraction of the values' range", until=0),
    "blur": Word("blur:1", 0, 50, "standard deviation, in pixels", until=0),
    "jpeg": Word("jpeg:60", 1, 100, "quality", until=100),
}
"""Words that change values in place of positions; ``:AB`` after the amount applies them to the target too."""
AMOUNTS = {**GEOMETRIC, **PHOTOMETRIC}
EXAMPLES = (*SWITCHES, *(word.example for word in AMOUNTS.values()))


@dataclass(frozen=True)
class Augment:
    """What ``--augment`` lists.

    Attributes:
        words: the words in it.
        intervals: what the amount of each word with one is drawn from, uniformly.
        both: the photometric words that apply to input and target.
    """

    words: frozenset[str] = frozenset()
    intervals: Mapping[str, Interval] = field(default_factory=dict, hash=False)
    both: frozenset[str] = frozenset()

    def interval(self, word: str, neutral: float = 0.0) -> Interval:
        """Return what the amount of a word is drawn from; only `neutral` if the word is not listed."""
        return self.intervals.get(word, (neutral, neutral))

    @property
    def photometric(self) -> list[str]:
        """The words that change values, in the order of `PHOTOMETRIC`."""
        return [word for word in PHOTOMETRIC if word in self.words]


def parse_augment(text: str) -> Augment | None:
    """Return what ``--augment`` lists, such as ``vflip,rotate:15,color:0.2:AB``; None for ``none``.

    Raises:
        UserError: A word does not exist, is listed twice, or its amount is wrong.
    """
    if text == "none":
        return None
    intervals: dict[str, Interval] = {}
    words: set[str] = set()
    both: set[str] = set()
    for item in text.split(","):
        name, _, amount = item.strip().partition(":")
        if name not in SWITCHES and name not in AMOUNTS:
            hint = did_you_mean(name, (*SWITCHES, *AMOUNTS))
            raise UserError(
                f"--augment {text}: no word {name!r}{hint} Words: none, or some of {', '.join(EXAMPLES)}"
            )
        if name in words:
            raise UserError(f"--augment {text}: {name} is listed twice; list it once")
        words.add(name)
        if name in SWITCHES:
            if amount:
                raise UserError(f"--augment {text}: {item.strip()}: write {name}, without an amount")
            continue
        amount, colon, sides = amount.partition(":")
        if colon:
            if name in GEOMETRIC:
                raise UserError(
                    f"--augment {text}: {item.strip()}: {name} is the same for input and target; write"
                    f" {name}:{amount}"
                )
            if sides not in ("A", "AB"):
                raise UserError(
                    f"--augment {text}: {item.strip()}: expected {name}:{amount} (the input alone) or"
                    f" {name}:{amount}:AB (input and target)"
                )
            both |= {name} if sides == "AB" else set()
        intervals[name] = _interval(text, item.strip(), AMOUNTS[name], amount)
    return Augment(frozenset(words), intervals, frozenset(both))


def _interval(text: str, item: str, word: Word, amount: str) -> Interval:
    """Return what an amount such as ``15`` or ``0.9-1.1`` is drawn from."""
    number = r"((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    match = re.fullmatch(rf"{number}(?:-{number})?", amount)
    low, high = (match[1], match[2]) if match else (None, None)
    single = low is not None and high is None and (word.symmetric or word.until is not None)
    pair = low is not None and high is not None and not word.symmetric
    ends = [float(end) for end in (low, high) if end is not None] if single or pair else []
    positive = any(end > 0 for end in ends)
    if not positive or not all(word.least <= end <= word.most for end in ends) or ends != sorted(ends):
        forms = [word.example] if word.symmetric or word.until is None else [word.example, "LO-HI"]
        raise UserError(
            f"--augment {text}: {item}: expected {' or '.join(forms)} ({word.meaning}, from {word.least:g} to"
            f" {word.most:g}{', above 0' if word.least == 0 else ''})"
        )
    if pair:
        return ends[0], ends[1]
    if word.symmetric:
        return -ends[0], ends[0]
    assert word.until is not None
    return min(ends[0], word.until), max(ends[0], word.until)
