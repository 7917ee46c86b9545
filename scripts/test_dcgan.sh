#!/usr/bin/env bash
# Generate samples with the run of scripts/train_dcgan.sh. Accepts further flags.
exec "${PYTHON:-python}" "$(dirname "$0")/../test.py" --name mnist_dcgan --model dcgan --num_samples 64 "$@"
