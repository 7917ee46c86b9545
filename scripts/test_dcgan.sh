#!/usr/bin/env bash
# Samples of scripts/train_dcgan.sh. Further flags may follow.
exec "${PYTHON:-python}" "$(dirname "$0")/../test.py" --name mnist_dcgan --model dcgan --num_samples 64 "$@"
