"""Images that tests draw."""

from pathlib import Path

import numpy as np
from PIL import Image

from util.seeding import numpy_rng


def image(path: Path, width: int, height: int, seed: int = 0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = numpy_rng("picture", seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)
