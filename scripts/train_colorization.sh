#!/usr/bin/env bash
# Colorization with pix2pix: datasets/colorization/train holds colour photos. Accepts further flags.
exec "${PYTHON:-python}" "$(dirname "$0")/../train.py" --dataroot ./datasets/colorization --name color_pix2pix \
    --model colorization "$@"
