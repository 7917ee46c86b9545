"""Train and test every model briefly with the commands of users, on small generated data.

    python scripts/test_before_push.py [--folder FOLDER]

A quick end-to-end check before a push; the test suite (make test) is thorough.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
SMALL = "--gpu_ids -1 --load_size 72 --crop_size 64 --ngf 8 --ndf 8 --max_dataset_size 8"
TRAIN = f"{SMALL} --n_epochs 1 --n_epochs_decay 1 --save_latest_freq 10 --print_freq 4 --display_id -1"
COMMANDS = (
    f"train.py --dataroot pairs --name pix2pix --model pix2pix --netG unet_64 {TRAIN}",
    "test.py --dataroot pairs --name pix2pix --model pix2pix --num_test 2 --crop_size 64",
    f"train.py --dataroot unpaired --name cyclegan --model cycle_gan {TRAIN}",
    "test.py --dataroot unpaired --name cyclegan --model cycle_gan --num_test 2 --crop_size 64",
    "test.py --dataroot unpaired/testA --name cyclegan --model test --model_suffix _A --no_dropout"
    " --crop_size 64",
    f"train.py --dataroot unpaired --name color --model cycle_gan {TRAIN} --input_nc 1 --output_nc 3"
    " --netG unet_64 --norm instance --attention 16 --lambda_identity 0",
    "test.py --dataroot unpaired --name color --model cycle_gan --num_test 2 --crop_size 64",
    f"train.py --dataroot photos --name colors --model colorization --netG unet_64 {TRAIN}",
    "test.py --dataroot photos --name colors --model colorization --num_test 2 --crop_size 64",
    f"train.py --dataroot photos --name memory --model memory_colorization --netG unet_64 {TRAIN}"
    " --resnet_weights random",
    "test.py --dataroot photos --name memory --model memory_colorization --top_memory 3 --crop_size 64",
    f"train.py --dataroot unpaired --name style --model style_transfer --style_mode set {TRAIN}"
    " --vgg_weights random",
    "test.py --dataroot unpaired --name style --model style_transfer --num_test 2 --crop_size 64",
    f"train.py --dataroot unpaired --name unified --model unified {TRAIN} --vgg_weights random",
    "test.py --dataroot unpaired --name unified --model unified --num_test 2 --crop_size 64",
    f"train.py --dataroot photos --name dcgan --model dcgan {TRAIN} --gan_mode hinge --spectral_norm D",
    "test.py --name dcgan --model dcgan --num_samples 4",
    f"train.py --dataroot pairs --name template --model template {TRAIN}",
    f"train.py --dataroot pairs --name template --model template {TRAIN} --continue_train --n_epochs 2",
    "test.py --dataroot pairs --name template --model template --num_test 2 --crop_size 64",
)


def run(command: str, folder: Path) -> None:
    """Run one of the project's scripts in `folder`; exit with its status if it fails."""
    print(f"python {command}", flush=True)
    script, *arguments = command.split()
    status = subprocess.run([sys.executable, str(ROOT / script), *arguments], cwd=folder).returncode
    if status:
        sys.exit(status)


def make_data(folder: Path) -> None:
    """Draw pairs, and also write their halves to folders of single images."""
    run("datasets/make_demo_dataset.py --out pairs --train 12 --val 2 --test 4 --size 64", folder)
    for path in sorted((folder / "pairs").rglob("*.png")):
        phase = path.parent.name
        for place, left in ((f"unpaired/{phase}A", 0), (f"unpaired/{phase}B", 64), (f"photos/{phase}", 64)):
            target = folder / place / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.open(path).crop((left, 0, left + 64, 64)).save(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--folder", type=Path, help="folder to work in and to keep (default: a temporary one)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        make_data(folder)
        for command in COMMANDS:
            run(command, folder)
    print("All commands succeeded.")


if __name__ == "__main__":
    main()
