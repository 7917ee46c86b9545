#!/usr/bin/env bash
# pix2pix from label maps to façades. Accepts further flags. Data: bash datasets/download_pix2pix_dataset.sh facades
exec "${PYTHON:-python}" "$(dirname "$0")/../train.py" --dataroot ./datasets/facades --name facades_pix2pix \
    --model pix2pix --netG unet_256 --direction BtoA --lambda_L1 100 --dataset_mode aligned --norm batch \
    --pool_size 0 "$@"
