#!/usr/bin/env bash
# One generator on one folder of images, here that of scripts/train_pix2pix.sh. Further flags may follow.
exec "${PYTHON:-python}" "$(dirname "$0")/../test.py" --dataroot ./datasets/facades/testB/ --name facades_pix2pix \
    --model test --netG unet_256 --direction BtoA --dataset_mode single --norm batch "$@"
