"""Translate a data set with a trained model into a gallery.

    python test.py --dataroot ./datasets/facades --name facades_pix2pix --model pix2pix --direction BtoA

The weights come from ``<checkpoints_dir>/<name>/``, the architecture from the options recorded there; the
gallery goes to ``<results_dir>/<name>/<phase>_<epoch>/index.html``.
"""

import logging
import sys
from pathlib import Path

from tqdm import tqdm

from data import DATASETS, create_loader
from models import MODELS, create_model
from options.parse import parse, save
from options.test_options import TestOptions
from util.checkpoint import load_weights, weights_path
from util.device import select_device
from util.errors import run_command
from util.gallery import Gallery
from util.image_io import to_uint8
from util.loggers import Visuals
from util.metrics import l1

PEERS_NUM_TEST = 50

log = logging.getLogger(__name__)


def main(argv: list[str]) -> None:
    options = parse(TestOptions, argv, MODELS, DATASETS)
    device = select_device(options.run.gpu_ids, "gpu_ids" in options.explicit)
    loader = create_loader(options, device)
    model = create_model(options, device)
    for name, net in model.nets.items():
        load_weights(net, weights_path(options.run_folder, options.run.tag, name))
    if options.results.eval:
        model.eval()
    save(options)
    if options.results.num_test is None and len(loader) > PEERS_NUM_TEST:
        log.info("Translating all %d pictures; the peer's --num_test is %d", len(loader), PEERS_NUM_TEST)

    gallery = create_gallery(options)
    waiting: dict[int, tuple[str, Visuals]] = {}
    distances: list[float] = []
    for batch in tqdm(loader.epoch(0), disable=None):
        on_device = batch.to(device, model.dtype)
        visuals = model.translate(on_device)
        if loader.dataset.paired and "fake_B" in visuals:
            distances += l1(visuals["fake_B"], visuals["real_B"]).tolist()
        for i, index in enumerate(batch.index.tolist()):
            pictures = {name: to_uint8(picture[i]) for name, picture in visuals.items()}
            waiting[index] = Path(batch.paths_A[i]).stem, pictures
        # Batches of mixed sizes arrive in parts: the gallery keeps the order of the files all the same.
        while gallery.count in waiting:
            gallery.add(*waiting.pop(gallery.count))

    if distances:
        log.info("Mean L1 between fake_B and real_B: %.4f (0 to 2)", sum(distances) / len(distances))
    log.info("%d pictures: %s", gallery.count, gallery.page.path)


def create_gallery(options: TestOptions) -> Gallery:
    """Return the gallery at the peer's path."""
    run, results = options.run, options.results
    folder = Path(results.results_dir) / options.run_name / f"{options.data.phase}_{run.epoch}"
    if run.load_iter:
        folder = folder.with_name(f"{folder.name}_iter{run.load_iter}")
    title = f"Experiment = {options.run_name}, Phase = {options.data.phase}, Epoch = {run.tag}"
    return Gallery(folder, title, width=options.display.display_winsize, aspect_ratio=results.aspect_ratio)


if __name__ == "__main__":
    sys.exit(run_command(main))
