"""Translate a data set with a trained model into a gallery.

    python test.py --dataroot ./datasets/facades --name facades_pix2pix --model pix2pix --direction BtoA

The weights come from ``<checkpoints_dir>/<name>/``, the architecture from the options recorded there; the
gallery goes to ``<results_dir>/<name>/<phase>_<epoch>/index.html``.
"""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from data import DATASETS, Loader, create_loader
from data.prefetch import on_device
from models import MODELS, create_model
from models.base_model import BaseModel
from models.objectives.backbones import untrained_backbones
from options.parse import options_text, parse, read_changed, save
from options.test_options import TestOptions
from training.ema import EMA_SUFFIX
from training.loggers.base import Visuals
from util import distributed
from util.batch import Batch
from util.device import prepare_device, processes_to_launch
from util.errors import UserError, run_command
from util.image_io import to_uint8
from util.metrics.measure import Metrics
from util.metrics.summary import Summary, remove_summary, write_summary
from util.pages.gallery import About, Gallery
from util.weights import load_weights, weights_path

PEERS_NUM_TEST = 50

log = logging.getLogger(__name__)


class Result(NamedTuple):
    """What becomes of an image: its name, what is shown, what is said under that, what was measured."""

    name: str
    visuals: Visuals
    captions: dict[str, str]
    measured: dict[str, float]


TO_SAVE_MEMORY = (
    "Try --tile 512 (with --preprocess none), --batch_size 1 or --precision bf16, on a CPU also"
    " --num_threads 0"
)


def main(argv: list[str]) -> int:
    options = parse(TestOptions, argv, MODELS, DATASETS)
    if (processes := processes_to_launch(options.run.gpu_ids)) > 1:
        return distributed.launch(processes, __file__, argv)
    if options.display.use_wandb:
        log.warning("--use_wandb: only train.py logs to Weights & Biases; results are in the gallery")
    device = prepare_device(options.run.gpu_ids, "gpu_ids" in options.explicit, options.run.deterministic)
    log.info("%s", options_text(options))
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
    metrics = Metrics.load(options.metrics.names, device, options.metrics.weights)
    if distributed.rank():
        for _ in translate(loader, model, metrics):
            pass
        metrics.compute()
        distributed.shutdown()
        return 0

    save(options)
    if options.results.num_test is None and len(loader) > PEERS_NUM_TEST:
        log.info("Translating all %d images; the peer's --num_test is %d", len(loader), PEERS_NUM_TEST)
    rows: list[tuple[str, dict[str, float]]] = []
    shown = 0
    with create_gallery(options, loader.dataset.paired) as gallery:
        remove_summary(gallery.folder)
        if overview := model.overview():
            gallery.add("overview", {name: to_uint8(image) for name, image in overview.items()})
        for result in translate(loader, model, metrics):
            name = gallery.add(result.name, result.visuals, result.captions, result.measured)
            shown += 1
            if result.measured:
                rows.append((name, result.measured))
        summary = report(metrics, rows, gallery.folder)
        gallery.summarize(summary)
    gallery.link_from(options.run_folder / "web" / "index.html", summary)
    if not rows and "metrics" in options.explicit and metrics.needs_pairs:
        log.warning("--metrics %s: these results have no truth to be compared with", options.metrics.metrics)
    log.info("%d images: %s", shown, gallery.page.path)
    distributed.shutdown()
    return 0


def report(metrics: Metrics, rows: Sequence[tuple[str, Mapping[str, float]]], folder: Path) -> Summary:
    """Log and write the metrics of each image, by its name, and of all together; return the latter."""
    summary = metrics.compute()
    for line in summary.lines():
        log.info("%s", line)
    if rows or summary.mean or summary.left_out:
        write_summary(folder, rows, summary)
    return summary


def translate(loader: Loader, model: BaseModel, metrics: Metrics) -> Iterator[Result]:
    """Yield every image's translation in the order of the files; of several processes in the first."""
    waiting: dict[int, Result] = {}
    left_out: set[int] = set()
    turn = 0
    batches = on_device(loader.epoch(0), model.device, model.dtype)
    for batch in tqdm(distributed.lockstep(batches), disable=True if distributed.rank() else None):
        mine = {} if batch is None else results(batch, model, metrics, loader.dataset.paired)
        for found, bad in distributed.gather_objects((mine, loader.skipped)):
            waiting |= found
            left_out |= bad
        # Batches arrive by turns, and those of mixed sizes in parts: the order is that of the files.
        while turn in waiting or turn in left_out:
            if turn in waiting:
                yield waiting.pop(turn)
            turn += 1
    for index in sorted(waiting):
        yield waiting[index]


def results(batch: Batch, model: BaseModel, metrics: Metrics, paired: bool) -> dict[int, Result]:
    """Return what becomes of each image of a batch, by its index."""
    visuals, captions = model.translate(batch), model.captions(batch)
    measured = metrics.update_visuals(batch, visuals, paired)
    return {
        index: Result(
            Path(batch.paths_A[i]).stem,
            {name: to_uint8(image[i]) for name, image in visuals.items()},
            captions[i],
            measured[i],
        )
        for i, index in enumerate(batch.index.tolist())
    }


def create_gallery(options: TestOptions, paired: bool) -> Gallery:
    """Return the gallery at the peer's path."""
    run, results = options.run, options.results
    title = f"Experiment = {options.run_name}, Phase = {options.data.phase}, Epoch = {run.tag}"
    recorded = options.run_folder / "train_opt.txt"
    flags: dict[str, Mapping[str, object]] = {
        "test.py": {k: v for k, v in options.values().items() if v != options.defaults[k]}
    }
    if recorded.exists():
        flags = {"train.py": read_changed(recorded.read_text()), **flags}
    return Gallery(
        options.results_folder,
        title,
        width=options.display.display_winsize,
        aspect_ratio=results.aspect_ratio,
        file_format=results.format,
        png_level=results.png_level,
        warning=untrained_backbones(options),
        about=About(options.run_name, options.data.phase, run.tag, paired, flags, recorded),
    )


if __name__ == "__main__":
    sys.exit(run_command(main, TO_SAVE_MEMORY))
