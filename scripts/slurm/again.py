"""Print --continue_train if the run with these flags of train.py exists, otherwise nothing."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data import DATASETS
from models import MODELS
from options.parse import parse
from options.train_options import TrainOptions
from util.errors import run_command


def main(argv: list[str]) -> int:
    options = parse(TrainOptions, argv, MODELS, DATASETS)
    if (options.run_folder / "train_opt.json").exists():
        print("--continue_train")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
