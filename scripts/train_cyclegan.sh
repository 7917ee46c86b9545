#!/usr/bin/env bash
# CycleGAN on maps and aerial photos. Accepts further flags. Data: bash datasets/download_cyclegan_dataset.sh maps
exec "${PYTHON:-python}" "$(dirname "$0")/../train.py" --dataroot ./datasets/maps --name maps_cyclegan \
    --model cycle_gan --pool_size 50 --no_dropout "$@"
