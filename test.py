"""Translate a data set with a trained model into a gallery.

    python test.py --dataroot ./datasets/facades --name facades_pix2pix --model pix2pix --direction BtoA

The weights come from ``<checkpoints_dir>/<name>/``, the architecture from the options recorded there; the
gallery goes to ``<results_dir>/<name>/<phase>_<epoch>/index.html``.
"""

import logging
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from data import DATASETS, Loader, create_loader
from data.prefetch import on_device
from models import MODELS, create_model
from models.backbones import untrained_backbones
from models.base_model import BaseModel
from models.ema import EMA_SUFFIX
from options.parse import parse, save
from options.test_options import TestOptions
from util.device import keep_freed_memory, select_device, use_deterministic_algorithms
from util.errors import UserError, run_command
from util.gallery import Gallery
from util.image_io import to_uint8
from util.loggers import Visuals
from util.metrics import compare
from util.weights import load_weights, weights_path

PEERS_NUM_TEST = 50

log = logging.getLogger(__name__)

TO_SAVE_MEMORY = (
    "Try --tile 512 (with --preprocess none), --batch_size 1 or --precision bf16, on a CPU also"
    " --num_threads 0"
)


def main(argv: list[str]) -> int:
    options = parse(TestOptions, argv, MODELS, DATASETS)
    device = select_device(options.run.gpu_ids, "gpu_ids" in options.explicit)
    if options.run.deterministic:
        use_deterministic_algorithms()
    if device.type == "cpu":
        keep_freed_memory()
    loader = create_loader(options, device)
    model = create_model(options, device)
    for name, net in model.nets.items():
        averaged = options.results.ema and name.startswith("G")
        file = weights_path(options.run_folder, options.run.tag, name + EMA_SUFFIX * averaged)
        if averaged and not file.exists():
            raise UserError(f"--ema: there is no {file}; averages are kept where train.py has --ema_decay")
        load_weights(net, file)
    if options.results.eval:
        model.eval()
    save(options)
    if options.results.num_test is None and len(loader) > PEERS_NUM_TEST:
        log.info("Translating all %d pictures; the peer's --num_test is %d", len(loader), PEERS_NUM_TEST)

    with create_gallery(options) as gallery:
        if overview := model.overview():
            gallery.add("overview", {name: to_uint8(picture) for name, picture in overview.items()})
        measured = translate(loader, model, device, gallery)
    for what, numbers in measured.items():
        log.info("Mean %s: %.4f", what, sum(numbers) / len(numbers))
    log.info("%d pictures: %s", len(loader) - len(loader.left_out), gallery.page.path)
    return 0


def translate(
    loader: Loader, model: BaseModel, device: torch.device, gallery: Gallery
) -> dict[str, list[float]]:
    """Put every picture's translation into the gallery; return what was measured, a value a picture."""
    waiting: dict[int, tuple[str, Visuals, dict[str, str]]] = {}
    turn = 0
    measured: dict[str, list[float]] = {}
    for batch in tqdm(on_device(loader.epoch(0), device, model.dtype), disable=None):
        visuals, captions = model.translate(batch), model.captions(batch)
        for what, values in compare(visuals, loader.dataset.paired).items():
            measured.setdefault(what, []).extend(values.tolist())
        for i, index in enumerate(batch.index.tolist()):
            pictures = {name: to_uint8(picture[i]) for name, picture in visuals.items()}
            waiting[index] = Path(batch.paths_A[i]).stem, pictures, captions[i]
        # Batches of mixed sizes arrive in parts: the gallery keeps the order of the files all the same.
        while turn in waiting or turn in loader.left_out:
            if turn in waiting:
                gallery.add(*waiting.pop(turn))
            turn += 1
    for index in sorted(waiting):
        gallery.add(*waiting[index])
    return measured


def create_gallery(options: TestOptions) -> Gallery:
    """Return the gallery at the peer's path."""
    run, results = options.run, options.results
    folder = Path(results.results_dir) / options.run_name / f"{options.data.phase}_{run.epoch}"
    if run.load_iter:
        folder = folder.with_name(f"{folder.name}_iter{run.load_iter}")
    title = f"Experiment = {options.run_name}, Phase = {options.data.phase}, Epoch = {run.tag}"
    return Gallery(
        folder,
        title,
        width=options.display.display_winsize,
        aspect_ratio=results.aspect_ratio,
        file_format=results.format,
        png_level=results.png_level,
        warning=untrained_backbones(options),
    )


if __name__ == "__main__":
    sys.exit(run_command(main, TO_SAVE_MEMORY))
