"""The flags that several of the commands in datasets/ have."""

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from util.device import cores
from util.image_limits import MAX_IMAGE_GB

FLAGS: Mapping[str, Mapping[str, Any]] = {
    "tiff_pages": {
        "choices": ("samples", "channels"),
        "default": "samples",
        "help": "pages of TIFF files, as in training",
    },
    "slice_axis": {"type": int, "choices": (0, 1, 2), "default": 2, "help": "of volumes, as in training"},
    "num_threads": {"type": int, "default": cores(), "help": "processes; default: one per core"},
    "max_image_gb": {
        "type": float,
        "default": MAX_IMAGE_GB,
        "metavar": "GB",
        "help": f"as in training; default: {MAX_IMAGE_GB}",
    },
}


def add_flags(parser: ArgumentParser, *names: str) -> None:
    """Add some of `FLAGS` to a parser."""
    for name in names:
        parser.add_argument(f"--{name}", **FLAGS[name])
