#!/usr/bin/env bash
# Apply one generator, here that of scripts/train_pix2pix.sh, to a folder of images. Accepts further flags.
exec "${PYTHON:-python}" "$(dirname "$0")/../test.py" --dataroot ./datasets/facades/testB/ --name facades_pix2pix \
    --model test --netG unet_256 --direction BtoA --dataset_mode single --norm batch "$@"
