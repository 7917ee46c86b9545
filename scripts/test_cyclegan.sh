#!/usr/bin/env bash
# The gallery of scripts/train_cyclegan.sh, both directions. Further flags may follow.
exec "${PYTHON:-python}" "$(dirname "$0")/../test.py" --dataroot ./datasets/maps --name maps_cyclegan \
    --model cycle_gan --phase test --no_dropout "$@"
