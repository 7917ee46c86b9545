#!/usr/bin/env bash
# pix2pix: label maps to façades. Further flags may follow; bash datasets/download_pix2pix_dataset.sh facades gets the data.
exec "${PYTHON:-python}" "$(dirname "$0")/../train.py" --dataroot ./datasets/facades --name facades_pix2pix \
    --model pix2pix --netG unet_256 --direction BtoA --lambda_L1 100 --dataset_mode aligned --norm batch \
    --pool_size 0 "$@"
