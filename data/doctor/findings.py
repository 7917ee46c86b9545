"""What checks find, what they know of a data set, and the words that they share."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple, Self, TypeVar

import numpy as np

from data.doctor.layout import Layout
from data.doctor.probe import MAX_COLOURS, Facts, Probe

Level = Literal["fault", "warning", "note"]

LEVELS: tuple[Level, ...] = ("fault", "warning", "note")
"""A fault ends training or teaches something wrong; a warning is to be looked at; a note is to be known."""

T = TypeVar("T", bound=Hashable)

MOST = 0.75
"""Share of a part's files from which the others are exceptions."""


class Finding(NamedTuple):
    """One thing that is wrong, or worth knowing.

    Attributes:
        kind: names what is wrong, for headings.
        where: the path of the file or folder.
        what: what is wrong.
        advice: what to do; "" for nothing.
        files: the images to look at, `where` first.
    """

    level: Level
    kind: str
    where: str
    what: str
    advice: str = ""
    files: tuple[str, ...] = ()

    @classmethod
    def of(cls, level: Level, kind: str, facts: Facts, what: str, advice: str = "") -> Self:
        """Return a finding about one file."""
        return cls(level, kind, facts.path, what, advice, (facts.path,))


@dataclass
class Survey:
    """All that is known of a data set.

    Attributes:
        label_nc: the number of classes, 0 if it is not given.
        label_colors: the colours of the classes as 0xRRGGBB.
        crop_size: height and width that images should have at least.
    """

    layout: Layout
    probes: Sequence[Probe]
    label_nc: int = 0
    label_ignore: int | None = None
    label_colors: frozenset[int] = frozenset()
    crop_size: int = 256
    facts: list[Facts] = field(init=False)

    def __post_init__(self) -> None:
        self.facts = [facts for probe in self.probes for facts in probe.facts]

    @cached_property
    def by_part(self) -> dict[str, list[Facts]]:
        """The readable images of every part, in all phases."""
        parts: dict[str, list[Facts]] = defaultdict(list)
        for facts in self.facts:
            if not facts.error:
                parts[facts.part].append(facts)
        return dict(parts)

    @cached_property
    def images(self) -> dict[str, list[Facts]]:
        """Those of `by_part` that are images, not labels or masks."""
        return {part: facts for part, facts in self.by_part.items() if facts[0].kind == "image"}


Check = Callable[[Survey], Iterator[Finding]]
CHECKS: list[Check] = []


def check(function: Check) -> Check:
    CHECKS.append(function)
    return function


def find(survey: Survey) -> list[Finding]:
    """Return all findings, the worst first, those of a kind together."""
    findings: dict[tuple[str, str], Finding] = {}
    for function in CHECKS:
        for finding in function(survey):
            # Both halves of a file are often wrong in the same way.
            findings.setdefault((finding.kind, finding.where), finding)
    return sorted(findings.values(), key=lambda finding: LEVELS.index(finding.level))


def count_levels(findings: Sequence[Finding]) -> str:
    """Return how many findings there are of each level."""
    counts = Counter(finding.level for finding in findings)
    return ", ".join(counted(counts[level], level) for level in LEVELS)


def usual(values: Iterable[T]) -> tuple[T, float]:
    """Return the most frequent value and its share."""
    counts = Counter(values)
    value, count = counts.most_common(1)[0]
    return value, count / counts.total()


def class_count(files: Sequence[Facts]) -> int:
    """Return the number of classes in label maps; values far above those of all other files do not count."""
    highest = [max((value for value in facts.values or {} if value != 255), default=0) for facts in files]
    order = sorted(highest)
    if len(order) >= 5 and order[-1] > 2 * order[-2] + 1:
        return order[-2] + 1
    return order[-1] + 1


def is_map(files: Sequence[Facts]) -> bool:
    """Return whether images have so few colours, the same in most files, that they are maps of labels."""
    few = [facts.values for facts in files if facts.values]
    if len(files) < 3 or len(few) < 0.9 * len(files):
        return False
    colours = {value for values in few for value in values}
    if files[0].channels == 3:
        return 2 < len(colours) <= 2 * MAX_COLOURS
    highest = [max((value for value in values if value != 255), default=0) for values in few]
    return len(colours) > 2 and float(np.quantile(highest, 0.9)) < MAX_COLOURS


def side_of(facts: Facts) -> str:
    return f"{facts.part}: " if facts.part in ("A", "B") else ""


def size_of(facts: Facts) -> str:
    return f"{facts.width} x {facts.height}"


def rgb_text(value: int) -> str:
    return f"{value >> 16} {value >> 8 & 255} {value & 255}"


def counted(number: int, unit: str) -> str:
    return f"{number} {unit}" + "s" * (number != 1)
