"""A template for your own data set: copied to ``data/mine_dataset.py``, it is ``--dataset_mode mine``.

It makes pairs from single images: B is the image, A the same image blurred. A model trained on it sharpens.
"""

from dataclasses import dataclass
from random import Random
from typing import Self

from PIL import ImageFilter
from torch import Tensor

from data.base_dataset import BaseDataset, Opened, Sample, check_channels
from data.image_folder import find_images
from data.shards import open_folder
from data.transforms import Transform
from options.base_options import CommandOptions
from options.option import option
from util.image_io import read_image
from util.parts import Sides


@dataclass(frozen=True)
class TemplateOptions:
    """Flags of your data set: each becomes ``--<name>``, is validated and appears in --help."""

    blur_radius: float = option(2.0, "radius of the blur in A, in pixels of the file", minimum=0)


class TemplateDataset(BaseDataset):
    """The images in ``dataroot/<phase>/``, each with a blurred copy."""

    Options = TemplateOptions
    paired = True  # B is the ground truth for A: test.py compares results with it
    layout = "phase"  # images in dataroot/<phase>/: for make_shards.py, and for the example that tests read

    def __init__(
        self,
        paths: list[str],
        transform: Transform,
        *,
        blur_radius: float,
        grey: tuple[bool, bool],
        seed: int,
    ):
        super().__init__(transform, seed)
        self.paths, self.blur_radius, self.grey = paths, blur_radius, grey
        self.sides = Sides.of_grey(*grey)  # what A and B hold

    @classmethod
    def from_options(cls, options: CommandOptions) -> Self:
        """Find the files, and pass the constructor the options that it needs."""
        run, data, network = options.run, options.data, options.network
        paths = find_images(open_folder(run.dataroot) / data.phase)[: data.max_dataset_size]
        grey = check_channels("input_nc", network.input_nc), check_channels("output_nc", network.output_nc)
        transform = Transform.from_options(data)
        return cls(paths, transform, blur_radius=options.dataset.blur_radius, grey=grey, seed=run.seed)

    def __len__(self) -> int:
        return len(self.paths)

    def sources(self) -> list[list[tuple[str, ...]]]:
        """Return the files of every sample, for streams."""
        return [[(path,) for path in self.paths]]

    def read(self, index: int, rng: Random) -> Sample:
        """Read one sample; all randomness comes from `rng`, so that it can be repeated."""
        opened = self.first_good(self._open, index, len(self))  # skips images that cannot be read
        A, B = self.prepare(opened, rng).images  # in one call, so that both are cropped and flipped alike
        path = opened[0].files[0]
        return Sample(index, A, B, path, path)

    def _open(self, position: int) -> list[Opened]:
        path = self.paths[position]
        A, B = self.cached(path, f"{self.blur_radius=} {self.grey=}", lambda: self._make_pair(path))
        return [Opened(self.sides.A, (path,), (A,)), Opened(self.sides.B, (path,), (B,))]

    def _make_pair(self, path: str) -> tuple[Tensor, Tensor]:
        """Return both images, scaled: the expensive part, which is the same in every epoch."""
        image = read_image(path)
        blurred = image.filter(ImageFilter.GaussianBlur(self.blur_radius))
        return self.transform.scale(blurred, self.grey[0]), self.transform.scale(image, self.grey[1])
