"""Pack a folder of images into tar files, the shards, with an index of the files in them.

    python datasets/make_shards.py --dataroot facades --dataset_mode aligned --phase train test --out S

Files are packed byte for byte, in the WebDataset format. ``--dataroot S`` then reads them like the folder;
copied to a web server or a bucket they can be read as a stream (docs/overview.md).
"""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from data import DATASETS
from data.packing import Parts, find_series, pack
from data.shards import INDEX_NAME
from options.file_options import part_names
from util.errors import Parser, UserError, run_command

log = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    modes = [mode for mode in DATASETS.names() if DATASETS.get(mode).layout]
    parser = Parser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("--dataroot", type=Path, required=True, help="the folder with the images")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the shards")
    parser.add_argument(
        "--dataset_mode",
        default="unaligned",
        help=f"the data set that reads them: {', '.join(modes)}, or the path of a file (docs/overview.md);"
        " default: unaligned",
    )
    parser.add_argument("--phase", nargs="+", help="which parts of the folder; default: train")
    parser.add_argument("--inputs", default="", help="the folders of --inputs in training, such as A1,A2")
    parser.add_argument("--outputs", default="", help="the folders of --outputs in training")
    parser.add_argument("--mask", action="store_true", help="pack the masks, too, in the folder <phase>M")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--shard_size", type=float, default=256, metavar="MB", help="of a shard; default: 256")
    size.add_argument("--per_shard", type=int, metavar="N", help="samples in a shard, instead of a size")
    options = parser.parse_args(argv)
    layout = DATASETS.get(options.dataset_mode).layout
    if layout is None:
        raise UserError(
            f"--dataset_mode {options.dataset_mode}: cannot be packed; choices: {', '.join(modes)}"
        )
    if options.shard_size <= 0 or (options.per_shard is not None and options.per_shard < 1):
        raise UserError("--shard_size and --per_shard must be positive")
    if options.phase and layout == "folder" and not options.inputs:
        raise UserError(
            f"--phase: --dataset_mode {options.dataset_mode} packs the whole folder; leave it out"
        )
    if not options.dataroot.is_dir():
        raise UserError(f"--dataroot {options.dataroot}: there is no such folder")
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise UserError(f"--out {options.out}: exists and is not empty; name a new folder")
    parts = Parts(part_names(options.inputs), part_names(options.outputs), options.mask)
    if (options.mask and layout != "pairs") or (any(parts) and layout == "phase"):
        raise UserError(
            f"--inputs, --outputs, --mask: --dataset_mode {options.dataset_mode} has no such folders"
        )
    series = find_series(options.dataroot, layout, options.phase or ["train"], parts)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        count = pack(options.dataroot, options.out, series, options.shard_size * 1e6, options.per_shard)
    except OSError as error:
        raise UserError(
            f"{error.filename or options.out}: {error.strerror or error}; without an {INDEX_NAME} the shards"
            f" in {options.out} cannot be read: delete the folder and try again"
        ) from error
    for name, samples in series.items():
        log.info("%s: %d samples", name, len(samples))
    log.info("%d shards and their %s: %s", count, INDEX_NAME, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
