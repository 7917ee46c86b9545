"""A small training run of pix2pix in this process."""

from pathlib import Path

import train

TINY = "--model pix2pix --gpu_ids -1 --netG unet_32 --ngf 2 --ndf 2 --crop_size 32 --load_size 36"


RUN = "--num_threads 0 --n_epochs_decay 0 --name run --print_freq 2"


FLAGS = f"{TINY} {RUN}".split()


def training(pairs: Path, folder: Path, *flags: object) -> int:
    return train.main(["--dataroot", str(pairs), *FLAGS, "--checkpoints_dir", str(folder), *map(str, flags)])
