"""The flags of test.py only."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from options.base_options import CommandOptions
from options.option import SameAs, Unless, option
from util.image_io import LOSSY_QUALITY, PNG_LEVEL

PREVIEW_FORMATS = ("png", "jpg", "webp")
NATIVE_FORMATS = ("npy", "tif", "png16", "nii", "dcm")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResultOptions:
    """The images to translate, and their results."""

    results_dir: str = option("./results/", "folder of galleries", nonempty=True)
    num_test: int | None = option(None, "number of images to translate; the peer's default is 50", minimum=1)
    eval: bool = option(False, "evaluation mode: no dropout, and batch norm with the statistics of training")
    tile: int | None = option(
        None,
        "translate images with a side longer than this in overlapping tiles of this side, which limits"
        " memory; for --preprocess none or scale_width",
        minimum=1,
    )
    ema: bool = option(False, "use the moving averages of the generators' weights (train.py --ema_decay)")
    aspect_ratio: float = option(
        1.0, "width / height of the saved images: 2 makes them twice as wide", above=0
    )
    format: str = option(
        "auto",
        "file format of results. auto: png images, and if the output has not 8 bits, also files in its type"
        " and units: volumes (NIfTI) and DICOM as such, others as TIFF. npy, tif, png16, nii, dcm: such files"
        " in this format. png, jpg, webp: 8-bit images alone; jpg and webp, with quality"
        f" {LOSSY_QUALITY}, are smaller and lossy",
        choices=("auto", *PREVIEW_FORMATS, *NATIVE_FORMATS),
    )
    png_level: int = option(
        PNG_LEVEL,
        "compression level of PNG files, 0 (none) to 9; 1 takes at most half the time of the peer's 6, for"
        " files that are 5 to 12 % larger",
        minimum=0,
        below=10,
        needs=("format", ("auto", "png", *NATIVE_FORMATS)),
    )


@dataclass(frozen=True)
class TestOptions(CommandOptions):
    """All options of test.py."""

    __test__ = False  # not a test class for pytest
    COMMAND: ClassVar[str] = "test"
    DEFAULTS: ClassVar[Mapping[str, object]] = {
        "phase": "test",
        "model": "test",
        "serial_batches": True,
        "no_flip": True,
        "load_size": SameAs("crop_size"),
        # Results do not depend on the batch size; uncropped images may be large.
        "batch_size": Unless(4, "preprocess", ("scale_width", "none"), 1),
    }

    results: ResultOptions

    @property
    def results_folder(self) -> Path:
        """The folder of the gallery of this phase and checkpoint."""
        tag = f"{self.run.epoch}_iter{self.run.load_iter}" if self.run.load_iter else self.run.epoch
        return Path(self.results.results_dir) / self.run_name / f"{self.data.phase}_{tag}"

    def __post_init__(self) -> None:
        data, tile = self.data, self.results.tile
        if tile and "crop" in data.preprocess and data.crop_size <= tile:
            log.warning(
                "--tile %d has no effect on the images of --crop_size %d from --preprocess %s;"
                " --preprocess none does not crop",
                tile,
                data.crop_size,
                data.preprocess,
            )
