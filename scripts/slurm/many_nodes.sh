#!/usr/bin/env bash
# Trains on several nodes, in one process a GPU; torchrun on every node, meeting on the first one:
#
#     sbatch --nodes=4 --gpus-per-node=8 scripts/slurm/many_nodes.sh --dataroot D --name N --batch_size 64
#
# Stops and goes on like one_node.sh. The folders of data and checkpoints must be seen by all nodes. Which network
# NCCL takes is yours to say before (NCCL_SOCKET_IFNAME, NCCL_IB_HCA: docs/clusters.md).
#SBATCH --job-name=train --output=%x-%j.out
#SBATCH --nodes=2 --ntasks-per-node=1 --cpus-per-task=8
#SBATCH --requeue --open-mode=append --signal=USR1@120
source scripts/slurm/run.sh
train "$@"
