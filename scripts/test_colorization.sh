#!/usr/bin/env bash
# The gallery of scripts/train_colorization.sh. Further flags may follow.
exec "${PYTHON:-python}" "$(dirname "$0")/../test.py" --dataroot ./datasets/colorization --name color_pix2pix \
    --model colorization "$@"
