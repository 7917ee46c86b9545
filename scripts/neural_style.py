"""Paint the content of one image in the style of others, by optimising its pixels (Gatys et al. 2016).

    python scripts/neural_style.py --content photo.jpg --style painting.jpg --out O.png

The losses are written to O.png_losses.jsonl and, until the image is finished, the state to O.png_state.pth.
SIGINT (Ctrl-C), SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU finish the step, save, and exit with status 75;
the same command with --continue_train resumes from the state and returns the same image, on a CPU to the bit.
"""

import argparse
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))

from models.objectives.backbones import Fingerprint, load_vgg
from models.objectives.perceptual import BLOCKS, Features, layer_index, with_average_pooling
from models.style.optimization import LEARNING_RATES, Method, StyleTransfer
from training.checkpoint import load_state, remove_state, save_checkpoint, set_aside, state_path
from training.loggers.base import truncate_logs
from util import checking
from util.checking import COUNT, loading
from util.device import select_device
from util.errors import Parser, UserError, run_command
from util.files import append_text, start_file, sync
from util.image_io import read_image, save_image, to_uint8
from util.stopping import STOPPED_STATUS, StopSignals

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")

log = logging.getLogger(__name__)

STATE = {
    "options": {str: str},
    "backbone": {str: object},
    "transfer": {
        "size": COUNT,
        "step": COUNT,
        "painting": {"picture": Tensor, "kind": str, "optimizer": dict},
    },
    "logs": {str: COUNT},
}
"""The shape of a state."""


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the values of the flags, checked, with defaults that depend on other flags filled in."""
    parser = Parser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)

    def add(*flags: str, help: str, default: Any = None, **settings: Any) -> None:
        note = "" if default is None else f" (default: {default})"
        parser.add_argument(*flags, help=help + note, default=default, **settings)

    add("--content", type=Path, required=True, help="the image to paint")
    add("--style", type=Path, nargs="+", required=True, help="one or more images whose style to use")
    add("--out", type=Path, required=True, help="the image to write; its folder is created")
    add("--style_blend", type=float, nargs="+", help="a weight for each style (default: all equal)")
    add("--style_scale", type=float, default=1.0, help="size of the styles as a multiple of the result's")
    sizes = "longer side in pixels; with several, 128,256,512, each starts from the previous result, enlarged"
    add("--size", "--sizes", dest="sizes", type=_numbers, default="512", metavar="N[,N...]", help=sizes)
    add("--steps", type=int, default=500, help="steps at each size")
    optimizer = "lbfgs needs fewer steps; adam has a smaller state"
    add("--optimizer", choices=LEARNING_RATES, default="lbfgs", help=optimizer)
    rates = ", ".join(f"{rate} for {name}" for name, rate in LEARNING_RATES.items())
    add("--lr", type=float, help=f"learning rate (default: {rates})")
    add("--init", choices=("content", "noise"), default="content", help="the initial image")
    add("--seed", type=int, default=0, help="seed of the noise")
    colours = "keep the content's colours: paint only its luminance, or recolour the styles like it"
    add("--preserve_color", choices=("none", "luminance", "histogram"), default="none", help=colours)
    add("--lambda_content", type=float, default=1.0, help="weight of the content loss; 0: paint a texture")
    add("--lambda_style", type=float, default=1e5, help="weight of the style loss")
    add("--lambda_tv", type=float, default=0.0, help="weight of the total variation, which smooths the image")
    add("--network", choices=BLOCKS, default="vgg19", help="the network whose features are compared")
    add("--content_layers", type=_names, default="relu4_2", metavar="L[,L...]", help="its layers for content")
    style_layers = "relu1_1,relu2_1,relu3_1,relu4_1,relu5_1"
    add("--style_layers", type=_names, default=style_layers, metavar="L[,L...]", help="its layers for style")
    add("--pooling", choices=("max", "avg"), default="max", help="its poolings")
    weights = "its weights: imagenet (downloaded), a path, or random (for tests)"
    add("--vgg_weights", default="imagenet", help=weights)
    add("--gpu_ids", help="which GPU: 0 or 1; -1 is the CPU (default: 0, or the CPU where there is none)")
    add("--save_every", type=int, help="also write O_000050.png ... every N steps (default: never)")
    add("--save_latest_minutes", type=float, default=5.0, help="minutes between two saves of the state")
    add("--keep_state", action="store_true", help="keep the state at the end, to resume with more --steps")
    add("--continue_train", action="store_true", help="resume from the saved state")
    options = parser.parse_args(argv)
    if options.lr is None:
        options.lr = LEARNING_RATES[options.optimizer]
    if options.style_blend is None:
        options.style_blend = [1.0] * len(options.style)
    check(options)
    return options


def check(options: argparse.Namespace) -> None:
    """Raise a `UserError` for invalid values."""
    for flag in ("lr", "style_scale", "lambda_content", "lambda_style", "lambda_tv"):
        value, may_be_zero = getattr(options, flag), flag.startswith("lambda")
        if not (math.isfinite(value) and (value > 0 or (may_be_zero and value == 0))):
            raise UserError(f"--{flag} {value}: must be a number above 0{' or 0' if may_be_zero else ''}")
    for flag, least in (("steps", 1), ("save_every", 1), ("seed", 0), ("save_latest_minutes", 0)):
        value = getattr(options, flag)
        if value is not None and not value >= least:
            raise UserError(f"--{flag} {value}: must be at least {least}")
    if not options.lambda_content and not options.lambda_style:
        raise UserError("--lambda_content 0 --lambda_style 0: nothing is left to paint; give one a weight")
    if options.sizes != sorted(set(options.sizes)) or options.sizes[0] < 1:
        raise UserError(
            f"--sizes {_as_typed(options.sizes)}: give positive numbers that grow, as 128,256,512 do"
        )
    if len(options.style_blend) != len(options.style):
        count, styles = len(options.style_blend), len(options.style)
        raise UserError(f"--style_blend: {count} weights for {styles} images of --style; give one for each")
    if not (min(options.style_blend) >= 0 and 0 < sum(options.style_blend) < math.inf):
        raise UserError(
            f"--style_blend {_as_typed(options.style_blend)}: give weights from 0 on, and not all 0"
        )
    for flag in ("content_layers", "style_layers"):
        for layer in getattr(options, flag):
            try:
                layer_index(options.network, layer)
            except ValueError as error:
                raise UserError(f"--{flag}: {error}") from None
    if options.out.suffix.lower() not in ENDINGS or options.out.is_dir():
        raise UserError(f"--out {options.out}: give an image's name that ends in one of {', '.join(ENDINGS)}")


class Run:
    """A style transfer with its losses, its state and their files, which are next to the image."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.out = options, options.out
        self.folder, self.tag = self.out.parent, self.out.name
        self.log_file = self.folder / f"{self.tag}_losses.jsonl"
        device = select_device(options.gpu_ids or "0", explicit=options.gpu_ids is not None)
        content, *styles = [
            read("content", options.content),
            *(read("style", path) for path in options.style),
        ]
        vgg = load_vgg(options.network, options.vgg_weights)
        self.backbone = Fingerprint(vgg, "vgg_weights")
        layers = [
            *(options.content_layers if options.lambda_content else ()),
            *(options.style_layers if options.lambda_style else ()),
        ]
        vgg = with_average_pooling(vgg) if options.pooling == "avg" else vgg
        features = Features(vgg, options.network, layers).to(device)
        method = Method(**{field.name: getattr(options, field.name) for field in fields(Method)})
        self.transfer = StyleTransfer(content, styles, features, method)
        self.saved_at = time.monotonic()

    def start(self) -> None:
        """Start, or resume from the saved state and log the flags that have changed."""
        state = load_state(self.folder, self.tag) if self.options.continue_train else None
        if state is None:
            self.transfer.start(self.options.sizes[0])
            if self.options.continue_train:
                log.info("%s: there is no state to resume from; starting from the beginning", self.out)
            elif set_aside(self.folder, self.tag, f"{self.tag}_replaced"):
                log.warning("%s: an earlier run's state is kept as %s_replaced_state.pth", self.out, self.tag)
            start_file(self.log_file)
            return
        path = state_path(self.folder, self.tag)
        checking.check(state, STATE, path)
        then, now = state["options"], self.flags()
        changed = [
            f"--{name} {now[name]} (was {then[name]})"
            for name in sorted(now.keys() & then.keys())
            if now[name] != then[name]
        ]
        if changed:
            log.info("Flags that have changed: %s", ", ".join(changed))
        size = state["transfer"]["size"]
        if size not in self.options.sizes:
            raise UserError(f"--sizes {now['sizes']}: the saved state is of size {size}; add it")
        with loading(path):
            self.backbone.load_state_dict(state["backbone"])
            self.transfer.load_state_dict(state["transfer"])
        truncate_logs(self.folder, state["logs"], [self.log_file.name])
        log.info("Resuming at size %d after step %d", self.transfer.size, self.transfer.step)

    def steps(self) -> Iterator[dict[str, float]]:
        """Make the remaining steps, size by size; yield the losses of each."""
        transfer, sizes = self.transfer, self.options.sizes
        for size in sizes[sizes.index(transfer.size) :]:
            if size != transfer.size:
                transfer.enlarge(size)
            while transfer.step < self.options.steps:
                yield transfer.make_step()

    @property
    def number(self) -> int:
        """Number of steps made, over all sizes."""
        return self.options.sizes.index(self.transfer.size) * self.options.steps + self.transfer.step

    def paint(self, stop: StopSignals) -> bool:
        """Make the remaining steps; return False if a signal stopped them."""
        options, transfer = self.options, self.transfer
        total = options.steps * len(options.sizes)
        with logging_redirect_tqdm(), tqdm(total=total, initial=self.number, disable=None) as bar:
            for losses in self.steps():
                bar.set_description(f"size {transfer.size}")
                bar.set_postfix(losses)
                bar.update()
                record = {"size": transfer.size, "step": transfer.step, **losses}
                append_text(self.log_file, f"{json.dumps(record)}\n")
                if options.save_every and self.number % options.save_every == 0:
                    self.write(self.out.with_stem(f"{self.out.stem}_{self.number:06}"))
                stopping = bool(stop.received)
                if stopping or time.monotonic() - self.saved_at >= 60 * options.save_latest_minutes:
                    self.save()
                if stopping:
                    return False
        return True

    def write(self, path: Path) -> None:
        """Write the current image."""
        save_image(to_uint8(self.transfer.result()), path)

    def save(self) -> None:
        """Write the state."""
        with self.log_file.open("rb") as file:
            sync(file.fileno())
            length = os.fstat(file.fileno()).st_size
        state = {
            "options": self.flags(),
            "backbone": self.backbone.state_dict(),
            "transfer": self.transfer.state_dict(),
            "logs": {self.log_file.name: length},
        }
        save_checkpoint(self.folder, [self.tag], state, nets={})
        self.saved_at = time.monotonic()

    def flags(self) -> dict[str, str]:
        """Return the values of all flags except ``--continue_train``, as typed."""
        return {
            name: _as_typed(value) for name, value in vars(self.options).items() if name != "continue_train"
        }


def main(argv: list[str]) -> int:
    """Run the command line; return the exit status."""
    options = parse(argv)
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {options.out}: its folder cannot be created ({error.strerror})") from error
    with StopSignals() as stop:
        run = Run(options)
        run.start()
        if run.paint(stop):
            run.write(options.out)
            if options.keep_state:
                run.save()
            else:
                remove_state(run.folder, run.tag)
            log.info("Done: %s", options.out)
            return 0
    log.info("Stopped by %s; the state is saved, resume with --continue_train", stop.received)
    return STOPPED_STATUS


def read(flag: str, path: Path) -> Image.Image:
    """Return the image at `path`.

    Args:
        flag: the flag that gave the path, for messages.

    Raises:
        UserError: it does not exist or cannot be read.
    """
    if not path.is_file():
        raise UserError(f"--{flag} {path}: there is no such file")
    return read_image(path)


def _names(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _as_typed(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    sys.exit(run_command(main))
