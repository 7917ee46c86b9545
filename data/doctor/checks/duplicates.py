"""Images that are in a data set twice."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from data.doctor.findings import Finding, Survey, check
from data.doctor.probe import Facts
from util.perceptual_hash import near_duplicates


@check
def duplicates(survey: Survey) -> Iterator[Finding]:
    if survey.layout.mode == "aligned":
        yield from _duplicate_samples(survey)
        return
    files = [facts for part in survey.images.values() for facts in part]
    for one, other in _alike(files):
        yield from _duplicate(files[one], files[other], files[one].part != files[other].part)


def _duplicate_samples(survey: Survey) -> Iterator[Finding]:
    """Yield samples of which all images are near-duplicates, and those of which one is."""
    alike: dict[tuple[int, int], list[str]] = defaultdict(list)
    by_sample = [
        {facts.part: facts for facts in probe.facts if facts.kind == "image" and not facts.error}
        for probe in survey.probes
    ]
    for part in survey.images:
        positions = [k for k, facts in enumerate(by_sample) if part in facts]
        for one, other in _alike([by_sample[k][part] for k in positions]):
            alike[positions[one], positions[other]].append(part)
    for (one, other), parts in alike.items():
        first, second = by_sample[one], by_sample[other]
        detailed = sum(facts.thumb.std() >= 6 for facts in second.values())
        yield from _duplicate(first[parts[0]], second[parts[0]], len(parts) < detailed)


def _alike(files: Sequence[Facts]) -> Iterator[tuple[int, int]]:
    if not files:
        return
    for one, other in near_duplicates(np.stack([facts.thumb for facts in files])):
        # Slices of one volume resemble each other.
        if getattr(files[one].path, "file", one) != getattr(files[other].path, "file", other):
            yield one, other


def _duplicate(one: Facts, other: Facts, partly: bool) -> Iterator[Finding]:
    order = {"train": 0, "val": 1, "test": 2}
    one, other = sorted((one, other), key=lambda facts: order.get(facts.phase, 3))
    between = one.phase != other.phase
    alone = f" (its {other.part} alone)" if partly and one.part == other.part else ""
    yield Finding(
        "fault" if between and not alone else "warning",
        "near-duplicate between splits" if between else "near-duplicate",
        other.path,
        f"nearly the same image as {one.path}{alone}",
        f"remove one: what is in {one.phase} says nothing about {other.phase}" if between else "remove one",
        (other.path, one.path),
    )
