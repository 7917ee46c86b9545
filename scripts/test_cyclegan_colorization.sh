#!/usr/bin/env bash
# The gallery of scripts/train_cyclegan_colorization.sh. Further flags may follow.
exec "${PYTHON:-python}" "$(dirname "$0")/../test.py" --dataroot ./datasets/colorization --name color_cyclegan \
    --model cycle_gan "$@"
