#!/usr/bin/env bash
# Test the run of scripts/train_cyclegan.sh in both directions. Accepts further flags.
exec "${PYTHON:-python}" "$(dirname "$0")/../test.py" --dataroot ./datasets/maps --name maps_cyclegan \
    --model cycle_gan --phase test --no_dropout "$@"
