"""From a folder to what is known of all its files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.doctor.advice import crop_size
from data.doctor.findings import Survey
from data.doctor.layout import Layout, find_layout
from data.doctor.probe import Job, Probe, is_side_by_side, probe
from data.folders.parallel import run_jobs
from data.shards import open_folder
from util.errors import UserError

SAMPLED = 24
"""Files that are looked at to find out whether they hold A and B side by side."""


@dataclass(frozen=True)
class Settings:
    """What is said about a data set; see datasets/doctor.py.

    Attributes:
        label_colors: the colours of the classes as 0xRRGGBB.
        crop_size: 0: what fits most images.
    """

    dataroot: str
    phases: Sequence[str] = ()
    mode: str = ""
    parts: Sequence[str] = ()
    label_nc: int = 0
    label_ignore: int | None = None
    label_colors: frozenset[int] = frozenset()
    crop_size: int = 0
    tiff_pages: str = "samples"
    slice_axis: int = 2


def take_survey(settings: Settings, processes: int) -> Survey:
    """Read all files of a data set.

    Raises:
        UserError: There is no such folder, or none with images.
    """
    layout = find_layout(
        open_folder(settings.dataroot),
        phases=settings.phases,
        mode=settings.mode,
        parts=settings.parts,
        labels=settings.label_nc > 0,
        tiff_pages=settings.tiff_pages,
        slice_axis=settings.slice_axis,
    )
    layout = _with_halves(layout, settings.mode)
    samples = layout.samples()
    kinds = {part.name: part.kind for part in layout.parts}
    jobs = [Job(sample, kinds, not settings.label_colors) for sample in samples]
    found: list[Probe] = []
    for sample, result in zip(samples, run_jobs(probe, jobs, processes, "sample"), strict=True):
        if result is None:
            raise UserError(
                f"{', '.join(sample.paths.values())}: cannot be looked at, see above; remove it, or lower"
                " --num_threads if memory is short"
            )
        found.append(result)
    survey = Survey(
        layout, found, settings.label_nc, settings.label_ignore, settings.label_colors, settings.crop_size
    )
    if not settings.crop_size and survey.images:
        survey.crop_size = crop_size([facts for files in survey.images.values() for facts in files])
    return survey


def _with_halves(layout: Layout, mode: str) -> Layout:
    """Return the layout with A and B side by side, if the files look like that or `mode` says so."""
    images = [part for part in layout.parts if part.name == "images"]
    if len(images) < len(layout.parts) or mode not in ("", "aligned") or not images[0].phase:
        return layout
    paths = [path for part in images for path in part.files.values()]
    if mode == "":
        looks = [look for path in paths[:: len(paths) // SAMPLED + 1] if (look := is_side_by_side(path))]
        ratios, seams = np.array(looks).T if looks else (np.zeros(1), np.zeros(1))
        # Two white backgrounds have no seam between them.
        if np.median(seams) < 2.5 and (np.abs(ratios - 2) < 0.01).mean() < 0.9:
            return layout
    return replace(layout, mode="aligned", parts=[replace(part, kind="both") for part in images])
