#!/usr/bin/env bash
# DCGAN on handwritten digits: datasets/mnist holds MNIST's files as they come (train-images-idx3-ubyte.gz and its
# kin). Further flags may follow: --num_classes 10 generates by class.
exec "${PYTHON:-python}" "$(dirname "$0")/../train.py" --dataroot ./datasets/mnist --name mnist_dcgan \
    --model dcgan --input_nc 1 --crop_size 28 --n_epochs 20 --n_epochs_decay 10 "$@"
