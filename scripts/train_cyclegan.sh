#!/usr/bin/env bash
# CycleGAN: maps and aerial photos. Further flags may follow; bash datasets/download_cyclegan_dataset.sh maps gets the data.
exec "${PYTHON:-python}" "$(dirname "$0")/../train.py" --dataroot ./datasets/maps --name maps_cyclegan \
    --model cycle_gan --pool_size 50 --no_dropout "$@"
