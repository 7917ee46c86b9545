#!/usr/bin/env bash
# The gallery of scripts/train_pix2pix.sh. Further flags may follow.
exec "${PYTHON:-python}" "$(dirname "$0")/../test.py" --dataroot ./datasets/facades --name facades_pix2pix \
    --model pix2pix --netG unet_256 --direction BtoA --dataset_mode aligned --norm batch "$@"
