"""Translate a data set with a trained model into a gallery.

    python test.py --dataroot ./datasets/facades --name facades_pix2pix --model pix2pix --direction BtoA

The weights come from ``<checkpoints_dir>/<name>/``, the architecture from the options recorded there; the
gallery goes to ``<results_dir>/<name>/<phase>_<epoch>/index.html``.
"""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while the imports below take seconds

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor
from tqdm import tqdm

from data import DATASETS, Loader, create_loader
from data.base_dataset import BaseDataset
from data.prefetch import on_device
from models import MODELS, create_model
from models.base_model import BaseModel
from models.objectives.backbones import untrained_backbones
from models.scenes import translate_scene
from options.parse import argument_text, check_run, check_weights, options_text, parse, save
from options.records import read_changed
from options.test_options import PREVIEW_FORMATS, TestOptions
from util import distributed, formats
from util.batch import Batch, Scene
from util.checking import read_limited
from util.device import prepare_device, processes_to_launch
from util.display import Display
from util.errors import UserError, run_command
from util.image_io import Visuals
from util.metrics.measure import Metrics
from util.metrics.names import of_all_channels
from util.metrics.summary import remove_summary, write_summary
from util.metrics.target import Target
from util.pages.gallery import About, Gallery
from util.pages.native import Native
from util.remarks import remark
from util.results import Bands, NativeFormat
from util.text import decode
from util.weights import EMA_SUFFIX, load_weights, weights_path

PEERS_NUM_TEST = 50

LEFT_OUT_STATUS = 1
"""Exit status if images were left out because they cannot be read, without ``--bad_images``."""

TO_SAVE_MEMORY = (
    "Try --tile 512 (with --preprocess none), --batch_size 1 or --precision bf16, on a CPU also"
    " --num_threads 0"
)

log = logging.getLogger(__name__)


class Result(NamedTuple):
    """The row of one image in the gallery: its images and captions by label, and its metrics.

    Attributes:
        source: the path of the image.
        natives: generated images in the type and the units of their targets, by label.
    """

    name: str
    source: str
    visuals: Visuals
    captions: dict[str, str]
    metrics: dict[str, float]
    natives: dict[str, Native]


class Outputs(NamedTuple):
    """How results are shown, and how they are written beside that, if they are."""

    display: Display
    native: NativeFormat | None
    folder: Path

    @classmethod
    def from_options(cls, options: TestOptions, dataset: BaseDataset) -> Self:
        """Return what the flags choose.

        Raises:
            UserError: the results cannot be shown or written so.
        """
        files = options.files
        display = Display(dataset.sides, options.display.ranges, options.display.bands)
        kind = options.results.format
        if kind in PREVIEW_FORMATS:
            if not dataset.sides.B.is_8bit:
                log.info("--format %s: 8-bit images alone; --format auto keeps type and units too", kind)
            return cls(display, None, options.results_folder)
        if kind != "auto":
            dataset.find_boxes = True
        native = NativeFormat(kind, files.tiff_pages, files.slice_axis)
        native.check_packages()
        return cls(display, native, options.results_folder)


def main(argv: list[str]) -> int:
    check_run(TestOptions, argv)
    options = parse(TestOptions, argv, MODELS, DATASETS)
    check_weights(options)
    if (ranks := processes_to_launch(options.run.gpu_ids)) > 1:
        return distributed.launch(ranks, __file__, argv, expected=LEFT_OUT_STATUS)
    if options.display.use_wandb:
        log.warning("--use_wandb: only train.py logs to Weights & Biases; results are in the gallery")
    device = prepare_device(options.run.gpu_ids, "gpu_ids" in options.explicit, options.run.deterministic)
    log.info(options_text(options))
    loader = create_loader(options, device)
    model = load_model(options, device)
    target = Target(loader.dataset.sides.B, options.files.mask)
    metrics = Metrics.load(options.metric_names, device, options.metrics.weights, target)
    skipped: set[int] = set()
    outputs = Outputs.from_options(options, loader.dataset)
    results = translate(loader, model, metrics, outputs, skipped)
    if distributed.rank() == 0:
        results = started(results)
        save(options)
        if options.results.num_test is None and len(loader) > PEERS_NUM_TEST:
            log.info("Translating all %d images; the peer's --num_test is %d", len(loader), PEERS_NUM_TEST)
        write_gallery(options, results, model.overview(), metrics, outputs, loader.dataset.paired, skipped)
    else:  # rank 0 has the results of all ranks
        for _ in results:
            pass
        metrics.compute()
    distributed.shutdown()
    return LEFT_OUT_STATUS if skipped and "bad_images" not in options.explicit else 0


def load_model(options: TestOptions, device: torch.device) -> BaseModel:
    """Return the model with the weights of the chosen checkpoint.

    Raises:
        UserError: A file of weights is missing, has another architecture, or does not fit the flags.
    """
    model = create_model(options, device)
    for name, net in model.nets.items():
        averaged = options.results.ema and name.startswith("G")
        if options.run.tag == "best" and not averaged:
            averages = weights_path(options.run_folder, "best", name + EMA_SUFFIX)
            if averages.exists():
                log.warning("--epoch best: it was chosen by %s; --ema uses these weights", averages.name)
        file = weights_path(options.run_folder, options.run.tag, name + EMA_SUFFIX * averaged)
        if averaged and not file.exists():
            raise UserError(f"--ema: there is no {file}; train.py writes averages with --ema_decay")
        load_weights(net, file)
    model.check_weights()
    if options.results.eval:
        model.eval()
    return model


def translate(
    loader: Loader, model: BaseModel, metrics: Metrics, outputs: Outputs, skipped: set[int]
) -> Iterator[Result]:
    """Yield the results of all images in the order of the files; on ranks other than 0 nothing.

    Args:
        skipped: gets the positions of the images that cannot be read.
    """
    waiting: dict[int, Result] = {}
    index = 0
    batches = on_device(loader.epoch(0), model.device, model.dtype)
    for batch in tqdm(distributed.lockstep(batches), disable=True if distributed.rank() else None):
        results = {} if batch is None else results_of(batch, model, metrics, outputs, loader.dataset.paired)
        for rank_results, rank_skipped in distributed.gather_objects((results, loader.skipped)):
            waiting |= rank_results
            skipped.update(rank_skipped)
        # Ranks take batches in turns, and images of mixed sizes are in batches of their own.
        while index in waiting or index in skipped:
            if index in waiting:
                yield waiting.pop(index)
            index += 1
    for index in sorted(waiting):
        yield waiting[index]
    # Images at the end of a rank's part that cannot be read come with no batch.
    skipped.update(*distributed.gather_objects(loader.skipped))


def started(results: Iterator[Result]) -> Iterator[Result]:
    """Return `results` after computing the first: what cannot be translated leaves earlier results alone."""
    return chain(list(islice(results, 1)), results)


def results_of(
    batch: Batch, model: BaseModel, metrics: Metrics, outputs: Outputs, paired: bool
) -> dict[int, Result]:
    """Return the results of a batch by the images' positions in the data set."""
    if batch.scene:
        return {int(batch.index): result_of_scene(batch, batch.scene, model, outputs, paired)}
    visuals, captions = model.translate(batch), model.captions(batch)
    measured = metrics.update_visuals(batch, visuals, paired)
    results: dict[int, Result] = {}
    for row, index in enumerate(batch.index.tolist()):
        images = {label: image[row] for label, image in visuals.items()}
        results[index] = Result(
            formats.name_of(batch.paths_A[row]),
            batch.paths_A[row],
            outputs.display.previews(images),
            captions[row],
            measured[row],
            outputs.native.natives(images, batch, row, paired) if outputs.native else {},
        )
    return results


def result_of_scene(batch: Batch, scene: Scene, model: BaseModel, outputs: Outputs, paired: bool) -> Result:
    """Return the result of an image too large for memory: previews, and files that are written in bands."""
    path = batch.paths_A[0]
    remark(
        "scenes",
        f"{path}: {scene.width} x {scene.height} pixels are translated in parts; such images have no metrics",
    )
    with Bands(outputs.native, outputs.folder, batch, paired) as bands:
        for images in translate_scene(model, batch, scene.read, scene.height, scene.width):
            bands.add(images)
    previews = outputs.display.previews(bands.previews())
    captions = {label: f"{label}, scaled to 1/{bands.step}" for label in previews}
    return Result(formats.name_of(path), path, previews, captions, {}, bands.natives())


def write_gallery(
    options: TestOptions,
    results: Iterable[Result],
    overview: Mapping[str, Tensor],
    metrics: Metrics,
    outputs: Outputs,
    paired: bool,
    skipped: Set[int] = frozenset(),
) -> None:
    """Write results into the gallery as they come, then the metrics of all of them.

    Args:
        skipped: the images without a result, complete once `results` is exhausted.
    """
    rows: list[tuple[str, dict[str, float]]] = []
    count = 0
    with create_gallery(options, paired, outputs.display.notes()) as gallery:
        remove_summary(gallery.folder)
        if overview:
            gallery.add("overview", outputs.display.previews(overview))
        for result in results:
            name = gallery.add(
                result.name,
                result.visuals,
                result.captions,
                {name: value for name, value in result.metrics.items() if of_all_channels(name)},
                source=path_in(options.run.dataroot, result.source),
                natives=result.natives,
            )
            count += 1
            if result.metrics:
                rows.append((name, result.metrics))
        summary = metrics.compute()
        for line in summary.lines():
            log.info("%s", line)
        if rows or summary.mean or summary.left_out:
            write_summary(gallery.folder, rows, summary)
        gallery.summarize(summary)
    training_page = options.run_folder / "web" / "index.html"
    try:
        gallery.link_from(training_page, summary)
    except OSError as error:  # the run may be another user's
        log.info("%s: has no link to the gallery (%s)", training_page, error.strerror)
    if not rows and "metrics" in options.explicit and metrics.needs_pairs:
        log.warning("--metrics %s: these results have no truth to compare with", options.metrics.metrics)
    left_out = f" ({len(skipped)} left out, see the warnings above)" if skipped else ""
    log.info("%d images: %s%s", count, gallery.page.path, left_out)


def path_in(folder: str, path: str) -> str:
    """Return a path relative to the folder if it is inside, else the path."""
    start = f"{folder.rstrip('/')}/"
    return path[len(start) :] if path.startswith(start) else path


def create_gallery(options: TestOptions, paired: bool, display: Sequence[str]) -> Gallery:
    """Return the gallery at the peer's path, with what its head shows of the run."""
    run, results = options.run, options.results
    title = f"Experiment = {options.run_name}, Phase = {options.data.phase}, Epoch = {run.tag}"
    recorded = options.run_folder / "train_opt.txt"
    changed = {name: value for name, value in options.values().items() if value != options.defaults[name]}
    flags = {"test.py": {name: argument_text(value) for name, value in changed.items()}}
    if recorded.is_file():
        flags = {"train.py": read_changed(decode(read_limited(recorded))), **flags}
    return Gallery(
        options.results_folder,
        title,
        width=options.display.display_winsize,
        aspect_ratio=results.aspect_ratio,
        file_format=results.format if results.format in PREVIEW_FORMATS else "png",
        png_level=results.png_level,
        warning=untrained_backbones(options),
        about=About(options.run_name, options.data.phase, run.tag, paired, flags, recorded, display),
    )


if __name__ == "__main__":
    sys.exit(run_command(main, TO_SAVE_MEMORY))
