"""Download a data set or a published generator of pix2pix or CycleGAN.

    python scripts/download.py pix2pix_dataset facades       # to datasets/facades/
    python scripts/download.py cyclegan_model horse2zebra    # to checkpoints/horse2zebra_pretrained/

The files are published by the authors of the papers; check their terms before redistributing anything.
"""

import argparse
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).parents[1]
HOST = "http://efrosgans.eecs.berkeley.edu"
CITYSCAPES = (
    "cityscapes: its licence forbids redistribution; download it from https://www.cityscapes-dataset.com"
)


@dataclass(frozen=True)
class Kind:
    """A kind of download: its `names`, and `url` and `target` with braces in place of the name."""

    url: str
    target: str
    names: tuple[str, ...]


KINDS = {
    "pix2pix_dataset": Kind(
        "/pix2pix/datasets/{}.tar.gz",
        "datasets/{}",
        ("edges2handbags", "edges2shoes", "facades", "maps", "night2day"),
    ),
    "cyclegan_dataset": Kind(
        "/cyclegan/datasets/{}.zip",
        "datasets/{}",
        (
            *("ae_photos", "apple2orange", "cezanne2photo", "facades", "horse2zebra", "iphone2dslr_flower"),
            *("maps", "mini", "mini_colorization", "mini_pix2pix", "monet2photo", "summer2winter_yosemite"),
            *("ukiyoe2photo", "vangogh2photo"),
        ),
    ),
    "pix2pix_model": Kind(
        "/pix2pix/models-pytorch/{}.pth",
        "checkpoints/{}_pretrained/latest_net_G.pth",
        ("day2night", "edges2shoes", "facades_label2photo", "map2sat", "sat2map"),
    ),
    "cyclegan_model": Kind(
        "/cyclegan/pretrained_models/{}.pth",
        "checkpoints/{}_pretrained/latest_net_G.pth",
        (
            *("apple2orange", "cityscapes_label2photo", "cityscapes_photo2label", "facades_label2photo"),
            *("facades_photo2label", "horse2zebra", "iphone2dslr_flower", "map2sat", "monet2photo"),
            *("orange2apple", "sat2map", "style_cezanne", "style_monet", "style_ukiyoe", "style_vangogh"),
            *("summer2winter_yosemite", "winter2summer_yosemite", "zebra2horse"),
        ),
    ),
}


def download(url: str, target: Path) -> None:
    """Download `url` to the file `target`.

    Raises:
        OSError: the server is unreachable or has no such file.
    """
    with urllib.request.urlopen(url, timeout=30) as answer, target.open("wb") as file:
        length = int(answer.headers.get("Content-Length", 0)) or None
        with tqdm.wrapattr(file, "write", total=length, desc=target.name, disable=None) as progress:
            shutil.copyfileobj(answer, progress)


def fetch(kind: Kind, name: str, root: Path) -> Path:
    """Download `name` below `root`, unpack it if it is an archive, and return its path."""
    target = root / kind.target.format(name)
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        file = Path(folder) / kind.url.format(name).rsplit("/", 1)[1]
        download(HOST + kind.url.format(name), file)
        if file.suffix == ".pth":
            file.replace(target)
        else:
            shutil.unpack_archive(file, folder, filter="data")
            (Path(folder) / name).replace(target)
    return target


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 0, or 1 after an error message of one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("name")
    parser.add_argument("--root", type=Path, default=ROOT, help="the project's folder")
    options = parser.parse_args(argv)
    kind, name = KINDS[options.kind], options.name
    if name == "cityscapes":
        print(CITYSCAPES, file=sys.stderr)
        return 1
    if name not in kind.names:
        print(f"{name}: there is no such {options.kind}. Choices: {', '.join(kind.names)}", file=sys.stderr)
        return 1
    try:
        print(fetch(kind, name, options.root))
    except OSError as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        url, target = HOST + kind.url.format(name), options.root / kind.target.format(name)
        print(
            f"{url} cannot be downloaded ({reason}); if you have the file, copy it to {target}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
