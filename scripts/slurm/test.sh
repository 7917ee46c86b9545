#!/usr/bin/env bash
# Translate a data set with a trained run on one node, one process per GPU:
#
#     sbatch --gpus-per-node=1 scripts/slurm/test.sh --dataroot D --name N
#     sbatch --gpus-per-node=1 --array=50,100,150 scripts/slurm/test.sh --dataroot D --name N    # --epoch 50, ...
#
# A job that is requeued begins anew.
#SBATCH --job-name=test --output=%x-%j.out
#SBATCH --nodes=1 --ntasks-per-node=1 --cpus-per-task=8
#SBATCH --requeue --open-mode=append
[ -e scripts/slurm/run.sh ] || {
    echo "$PWD is not the project's folder: submit there, or with sbatch --chdir=FOLDER" >&2
    exit 2
}
source scripts/slurm/run.sh
translate "$@" ${SLURM_ARRAY_TASK_ID:+--epoch "$SLURM_ARRAY_TASK_ID"}
