#!/usr/bin/env bash
# Test the run of scripts/train_cyclegan_colorization.sh. Accepts further flags.
exec "${PYTHON:-python}" "$(dirname "$0")/../test.py" --dataroot ./datasets/colorization --name color_cyclegan \
    --model cycle_gan "$@"
