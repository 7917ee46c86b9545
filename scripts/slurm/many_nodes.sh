#!/usr/bin/env bash
# Train on several nodes, one process per GPU, with torchrun on every node; the rendezvous is on the first node:
#
#     sbatch --nodes=4 --gpus-per-node=8 scripts/slurm/many_nodes.sh --dataroot D --name N --batch_size 64
#
# Stops and resumes like one_node.sh. Data and checkpoints must be on a file system that all nodes share. To choose
# the network, set NCCL_SOCKET_IFNAME or NCCL_IB_HCA before submitting (docs/clusters.md).
#SBATCH --job-name=train --output=%x-%j.out
#SBATCH --nodes=2 --ntasks-per-node=1 --cpus-per-task=8
#SBATCH --requeue --open-mode=append --signal=USR1@120
[ -e scripts/slurm/run.sh ] || {
    echo "$PWD is not the project's folder: submit there, or with sbatch --chdir=FOLDER" >&2
    exit 2
}
source scripts/slurm/run.sh
train "$@"
