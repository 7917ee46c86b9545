#!/usr/bin/env bash
# Trains on one node, in one process a GPU. In the project's folder, with any flags of sbatch and of train.py:
#
#     sbatch --gpus-per-node=4 --time=24:00:00 scripts/slurm/one_node.sh --dataroot D --name N --batch_size 16
#     sbatch scripts/slurm/one_node.sh --dataroot D --name N --gpu_ids -1                     # without a GPU
#
# Two minutes before its time is over, when it is preempted or requeued, the run saves, and goes on in the job's
# next start; the log goes on in the same file. A job that is requeued or preempted is killed after KillWait (see
# `scontrol show config`).
#SBATCH --job-name=train --output=%x-%j.out
#SBATCH --nodes=1 --ntasks-per-node=1 --cpus-per-task=8
#SBATCH --requeue --open-mode=append --signal=USR1@120
source scripts/slurm/run.sh
train "$@"
