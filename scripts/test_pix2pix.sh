#!/usr/bin/env bash
# Test the run of scripts/train_pix2pix.sh. Accepts further flags.
exec "${PYTHON:-python}" "$(dirname "$0")/../test.py" --dataroot ./datasets/facades --name facades_pix2pix \
    --model pix2pix --netG unet_256 --direction BtoA --dataset_mode aligned --norm batch "$@"
