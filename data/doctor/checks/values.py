"""Sizes and values of images."""

from collections.abc import Iterator

import numpy as np

from data.doctor.findings import MOST, Finding, Survey, check, is_map, side_of, size_of, usual


@check
def sizes(survey: Survey) -> Iterator[Finding]:
    for part, files in survey.images.items():
        shapes = [facts.size for facts in files]
        size, share = usual(shapes)
        ratio = float(np.median([width / height for width, height in shapes]))
        short = float(np.median([min(shape) for shape in shapes]))
        for facts in files:
            own, aspect = min(facts.size), facts.width / facts.height
            others = f"{size[0]} x {size[1]}" if share > MOST else f"about {short:.0f}"
            if own < survey.crop_size <= short or own < 0.25 * short:
                cropped = own < survey.crop_size
                yield Finding.of(
                    "fault" if own < survey.crop_size / 2 or share > MOST else "warning",
                    "too small",
                    facts,
                    f"{size_of(facts)} pixels, other files of {part} {others}"
                    + f": smaller than a crop of {survey.crop_size}" * cropped,
                    "get it in full size, or remove it",
                )
            elif not 1 / 2.5 < aspect / ratio < 2.5:
                yield Finding.of(
                    "warning",
                    "odd size",
                    facts,
                    f"{size_of(facts)} pixels, {aspect:.2f} as wide as high, others of {part} {ratio:.2f}",
                    "crop it: --preprocess resize_and_crop would distort it",
                )
            elif share > 0.9 and facts.size != size:
                yield Finding.of(
                    "warning",
                    "odd size",
                    facts,
                    f"{size_of(facts)} pixels, other files of {part} {others}",
                    "",
                )


@check
def constant(survey: Survey) -> Iterator[Finding]:
    for files in survey.images.values():
        uniform = [facts for facts in files if facts.is_constant]
        for facts in uniform:
            # Slices at the ends of a volume show nothing, and maps of labels may have one class.
            natural = hasattr(facts.path, "key") or is_map(files)
            yield Finding.of(
                "note" if natural else "fault",
                "one colour",
                facts,
                f"{side_of(facts)}all pixels are {facts.low:g}" if facts.high == facts.low else "one colour",
                "" if natural else "remove it",
            )


@check
def not_finite(survey: Survey) -> Iterator[Finding]:
    for facts in survey.facts:
        if facts.not_finite:
            total = facts.width * facts.height * facts.channels
            yield Finding.of(
                "fault",
                "NaN or infinite",
                facts,
                f"{facts.not_finite} of its {total} values are NaN or infinite",
                "correct it, or say what to use in their place: --nan_value",
            )


@check
def ranges(survey: Survey) -> Iterator[Finding]:
    for files in survey.images.values():
        dtype, _ = usual(facts.dtype for facts in files)
        alike = [facts for facts in files if facts.dtype == dtype and not facts.is_constant]
        if len(alike) < 4 or is_map(files):
            continue
        lows, highs = (np.array([facts.quantiles[k] for facts in alike]) for k in (1, -2))
        low, high = float(np.median(lows)), float(np.median(highs))
        span = (high - low) or 1.0
        for facts, own_low, own_high in zip(alike, lows, highs, strict=True):
            what = f"values from {facts.low:g} to {facts.high:g}, most of other files {low:g} to {high:g}"
            if own_high > high + 10 * span or own_low < low - 10 * span:
                yield Finding.of("fault", "range", facts, what, "scale it like the others")
            elif dtype == "uint8" and facts.high <= 1 < high / 10:
                yield Finding.of("fault", "range", facts, what, "multiply its values by 255")
            elif own_high - own_low < span / 50 and dtype != "uint8":
                yield Finding.of("fault", "range", facts, what, "scale it like the others")
            elif own_high - own_low < span / 12 and facts.high < low + span / 4:
                yield Finding.of("warning", "range", facts, f"very dark: {what}", "")
