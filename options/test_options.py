"""The flags of test.py alone."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from options.base_options import CommandOptions
from options.option import SameAs, Unless, option
from util.image_io import LOSSY_QUALITY, PNG_LEVEL

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResultOptions:
    """Which images are translated, how, and where they go."""

    results_dir: str = option("./results/", "where galleries are saved")
    num_test: int | None = option(None, "how many images to translate; the peer's default is 50", minimum=1)
    eval: bool = option(False, "no dropout, and batch norm with the statistics of training")
    tile: int | None = option(
        None,
        "translate images with a longer side than this in overlapping tiles of this side, which bounds the"
        " memory; for --preprocess none or scale_width",
        minimum=1,
    )
    ema: bool = option(False, "use the averages of the generators' weights (train.py --ema_decay)")
    aspect_ratio: float = option(
        1.0, "width / height of the saved images: 2 makes them twice as wide", above=0
    )
    format: str = option(
        "png",
        f"how images are saved; jpg and webp, with quality {LOSSY_QUALITY}, are smaller and not exact",
        choices=("png", "jpg", "webp"),
    )
    png_level: int = option(
        PNG_LEVEL,
        "compression of PNG files, 0 (none) to 9; the pixels are the same, and 1 takes half the time of the"
        " peer's 6 or less for 5 to 12 % more bytes",
        minimum=0,
        below=10,
        needs=("format", ("png",)),
    )


@dataclass(frozen=True)
class TestOptions(CommandOptions):
    """All options of test.py."""

    __test__ = False  # not a test, whatever pytest makes of its name
    COMMAND: ClassVar[str] = "test"
    DEFAULTS: ClassVar[Mapping[str, object]] = {
        "phase": "test",
        "model": "test",
        "serial_batches": True,
        "no_flip": True,
        "load_size": SameAs("crop_size"),
        # Results do not depend on it; images that nothing cuts may be large.
        "batch_size": Unless(4, "preprocess", ("scale_width", "none"), 1),
    }

    results: ResultOptions

    @property
    def results_folder(self) -> Path:
        """Where the gallery of this phase and checkpoint is."""
        tag = f"{self.run.epoch}_iter{self.run.load_iter}" if self.run.load_iter else self.run.epoch
        return Path(self.results.results_dir) / self.run_name / f"{self.data.phase}_{tag}"

    def __post_init__(self) -> None:
        data, tile = self.data, self.results.tile
        if tile and "crop" in data.preprocess and data.crop_size <= tile:
            log.warning(
                "--tile %d has no effect on the images of --crop_size %d that --preprocess %s cuts;"
                " --preprocess none leaves them as they are",
                tile,
                data.crop_size,
                data.preprocess,
            )
