#!/usr/bin/env bash
# CycleGAN for colorization: grey to colour without pairs, with a U-Net with instance norm and self-attention.
# trainA/ and trainB/ hold colour photos (trainA is read in grey). Without an identity loss, because A and B differ
# in channels. Accepts further flags.
exec "${PYTHON:-python}" "$(dirname "$0")/../train.py" --dataroot ./datasets/colorization --name color_cyclegan \
    --model cycle_gan --input_nc 1 --output_nc 3 --netG unet_256 --norm instance --attention 32 \
    --lambda_identity 0 "$@"
