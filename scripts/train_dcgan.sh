#!/usr/bin/env bash
# DCGAN on handwritten digits: datasets/mnist holds the original files of MNIST (train-images-idx3-ubyte.gz, ...).
# Accepts further flags, such as --num_classes 10 for class-conditional generation.
exec "${PYTHON:-python}" "$(dirname "$0")/../train.py" --dataroot ./datasets/mnist --name mnist_dcgan \
    --model dcgan --input_nc 1 --crop_size 28 --n_epochs 20 --n_epochs_decay 10 "$@"
