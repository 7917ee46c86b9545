"""Pairs whose images do not show the same."""

from collections.abc import Iterator

import numpy as np

from data.doctor.alignment import Alignment
from data.doctor.findings import Finding, Level, Survey, check, size_of
from data.doctor.probe import Facts, Probe


@check
def unequal_sizes(survey: Survey) -> Iterator[Finding]:
    if survey.layout.mode != "aligned":
        return
    for probe in survey.probes:
        good = [facts for facts in probe.facts if not facts.error]
        for other in good[1:]:
            if other.size != good[0].size:
                yield Finding(
                    "fault",
                    "unequal sizes",
                    other.path,
                    f"{size_of(other)}, but its partner {good[0].path} is {size_of(good[0])}",
                    "scale or crop one to the size of the other",
                    (good[0].path, other.path),
                )


@check
def halves(survey: Survey) -> Iterator[Finding]:
    both = {part.name for part in survey.layout.parts if part.kind == "both"}
    files = [probe.facts[0] for probe in survey.probes if both and not probe.facts[0].error]
    if not files:
        return
    ratio = float(np.median([facts.width / facts.height for facts in files]))
    for facts in files:
        own = facts.width / facts.height
        if not 0.8 < own / ratio < 1.25:
            yield Finding.of(
                "fault",
                "half of one image",
                facts,
                f"its halves are {size_of(facts)} pixels, {own:.2f} as wide as high, those of others"
                f" {ratio:.2f}: A and B are not side by side in it?",
                "put A on the left, B on the right, both of one size",
            )


@check
def misaligned(survey: Survey) -> Iterator[Finding]:
    pairs = _aligned_pairs(survey)
    shifted = [(probe, found) for probe, found in pairs if any(found.shift)]
    changed = [(probe, found) for probe, found in pairs if found.change]
    if common := _common_shift(pairs):
        shift, count = common
        probe = shifted[0][0]
        yield Finding(
            "fault",
            "misaligned",
            str(survey.layout.dataroot),
            f"B is shifted against A in {count} of {len(pairs)} pairs: {_shift(shift, probe.facts[0])}",
            "register the images, or crop both sides",
            tuple(facts.path for facts in probe.facts),
        )
        return
    unsure = len(pairs) >= 4 and len(shifted) + len(changed) > len(pairs) / 4
    level: Level = "warning" if unsure else "fault"
    for probe, found in shifted:
        what = f"B is shifted against A by {_shift(found.shift, probe.facts[0])}"
        yield _about_pair(level, "misaligned", probe, what, "register the two images, or remove them")
    for probe, found in changed:
        what = f"B is {found.change} against A"
        yield _about_pair(level, "misaligned", probe, what, "undo that, or remove the pair")


@check
def wrong_partners(survey: Survey) -> Iterator[Finding]:
    pairs = _aligned_pairs(survey)
    if len(pairs) < 10 or _common_shift(pairs):
        return
    correlations = np.array([found.correlation for _, found in pairs])
    middle = float(np.median(correlations))
    if np.quantile(correlations, 0.15) > 0.5 * middle and middle > 0.1:
        for probe, found in pairs:
            if found.correlation < 0.2 * middle and not any(found.shift) and not found.change:
                what = (
                    "the edges in B are not where those in A are, unlike in other pairs: of different pairs?"
                )
                yield _about_pair("fault", "not a pair", probe, what, "give them their own partners")
    elif middle < 0.03:
        yield Finding(
            "warning",
            "not a pair",
            str(survey.layout.dataroot),
            "the edges of A and B are not at the same places in most pairs",
            "if files of one name do not belong together, use --dataset_mode unaligned",
        )


@check
def swapped(survey: Survey) -> Iterator[Finding]:
    """Find pairs whose A looks like the others' B, and whose B like their A."""
    pairs = [
        (probe, A, B)
        for probe in survey.probes
        for A, B in [_sides(probe)]
        if A and B and A.features and B.features and not (A.is_constant or B.is_constant)
    ]
    if survey.layout.mode != "aligned" or len(pairs) < 8:
        return
    differences = np.array([np.subtract(A.features, B.features) for _, A, B in pairs])
    middle = np.median(differences, 0)
    spread = np.median(np.abs(differences - middle), 0) + 1
    scores = np.clip(differences / spread, -10, 10) @ (middle / spread)
    typical = float(np.median(np.abs(scores)))
    ordered = scores[scores > 0]
    if len(ordered) < 0.85 * len(scores) or np.quantile(ordered, 0.1) < 0.3 * typical:
        return  # A and B look too much alike to tell them apart
    for (probe, _, _), score in zip(pairs, scores, strict=True):
        if score < -0.3 * typical:
            yield Finding(
                "fault",
                "swapped",
                probe.facts[0].path,
                "its A looks like the B of other pairs, and its B like their A",
                "exchange the two images",
                _paths(probe),
            )


Pairs = list[tuple[Probe, Alignment]]


def _aligned_pairs(survey: Survey) -> Pairs:
    """Return the pairs whose alignment is known, if images belong together in pairs."""
    if survey.layout.mode != "aligned":
        return []
    return [(probe, probe.alignment) for probe in survey.probes if probe.alignment]


def _common_shift(pairs: Pairs) -> tuple[tuple[float, float], int] | None:
    """Return the shift that most pairs have, as parts of width and height, and their number."""
    shifts = [found.shift for _, found in pairs if any(found.shift)]
    if len(pairs) < 4 or len(shifts) <= len(pairs) / 2:
        return None
    right, down = (float(shift) for shift in np.median(shifts, axis=0))
    alike = sum(abs(shift[0] - right) < 0.02 and abs(shift[1] - down) < 0.02 for shift in shifts)
    return ((right, down), alike) if alike > len(shifts) / 2 else None


def _about_pair(level: Level, kind: str, probe: Probe, what: str, advice: str) -> Finding:
    return Finding(level, kind, probe.facts[-1].path, what, advice, _paths(probe))


def _sides(probe: Probe) -> tuple[Facts | None, Facts | None]:
    """Return the first image of A and that of B."""
    images = [facts for facts in probe.facts if not facts.error and facts.kind == "image"]
    A, B = (next((f for f in images if f.part.startswith(side)), None) for side in "AB")
    return A, B


def _paths(probe: Probe) -> tuple[str, ...]:
    return tuple(dict.fromkeys(facts.path for facts in probe.facts if facts.kind != "mask"))


def _shift(shift: tuple[float, float], facts: Facts) -> str:
    right, down = round(shift[0] * facts.width), round(shift[1] * facts.height)
    words = [f"{abs(right)} pixels to the {'right' if right > 0 else 'left'}"] if right else []
    words += [f"{abs(down)} pixels {'down' if down > 0 else 'up'}"] if down else []
    return " and ".join(words) or "less than a pixel"
