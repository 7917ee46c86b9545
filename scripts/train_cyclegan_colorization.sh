#!/usr/bin/env bash
# The improved CycleGAN for colorization: grey to colour without pairs, by a U-Net with instance norm instead of
# batch norm and self-attention. trainA/ and trainB/ hold colour photos (trainA is read in grey); A's and B's
# channels differ, so there is no identity loss. Further flags may follow.
exec "${PYTHON:-python}" "$(dirname "$0")/../train.py" --dataroot ./datasets/colorization --name color_cyclegan \
    --model cycle_gan --input_nc 1 --output_nc 3 --netG unet_256 --norm instance --attention 32 \
    --lambda_identity 0 "$@"
