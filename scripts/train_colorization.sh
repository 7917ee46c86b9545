#!/usr/bin/env bash
# Colorization by pix2pix: datasets/colorization/train holds colour photos of any kind. Further flags may follow.
exec "${PYTHON:-python}" "$(dirname "$0")/../train.py" --dataroot ./datasets/colorization --name color_pix2pix \
    --model colorization "$@"
