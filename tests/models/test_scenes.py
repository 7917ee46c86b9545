"""Images that are translated tile by tile from file to bands of rows."""

import pytest
import torch
from torch import Tensor

from data import DATASETS
from models import MODELS, create_model, scenes
from models.scenes import translate_scene
from options.parse import parse
from options.test_options import TestOptions
from util.batch import Batch


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_bands_are_those_of_a_whole_image_in_tiles(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "STRIP_PIXELS", 2000)
    flags = ["--dataroot", "x", "--gpu_ids", "-1", "--model", "test", "--netG", "resnet_6blocks"]
    flags += ["--ngf", "4", "--norm", norm, "--tile", "64", "--preprocess", "none"]
    model = create_model(parse(TestOptions, flags, MODELS, DATASETS), torch.device("cpu"))
    A = torch.rand(1, 3, 150, 117, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batch = Batch(A, None, ["a"], ["a"], torch.tensor([3]))
    largest = 0

    def read(left: int, top: int, right: int, bottom: int) -> tuple[Tensor, None]:
        nonlocal largest
        part = A[0, :, top:bottom, left:right]
        largest = max(largest, part.shape[1])
        return part, None

    bands = [
        {name: image.clone() for name, image in band.items()}
        for band in translate_scene(model, batch, read, 150, 117)
    ]
    assert largest < 150 and len(bands) > 2
    for name, whole in model.translate(batch).items():
        joined = torch.cat([band[name] for band in bands], 1)
        assert joined.shape == whole.shape[1:]
        assert torch.allclose(joined, whole[0], atol=1e-6 if name == "real" else 0)
