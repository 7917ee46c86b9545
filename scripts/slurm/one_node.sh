#!/usr/bin/env bash
# Train on one node, one process per GPU. Submit from the project's folder, with any flags of sbatch and train.py:
#
#     sbatch --gpus-per-node=4 --time=24:00:00 scripts/slurm/one_node.sh --dataroot D --name N --batch_size 16
#     sbatch scripts/slurm/one_node.sh --dataroot D --name N --gpu_ids -1                     # without a GPU
#
# Two minutes before the time limit, and at preemption or requeueing, the run saves; the job's next start resumes it
# and appends to the same log. A requeued or preempted job is killed after KillWait (see `scontrol show config`).
#SBATCH --job-name=train --output=%x-%j.out
#SBATCH --nodes=1 --ntasks-per-node=1 --cpus-per-task=8
#SBATCH --requeue --open-mode=append --signal=USR1@120
[ -e scripts/slurm/run.sh ] || {
    echo "$PWD is not the project's folder: submit there, or with sbatch --chdir=FOLDER" >&2
    exit 2
}
source scripts/slurm/run.sh
train "$@"
