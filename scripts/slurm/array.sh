#!/usr/bin/env bash
# Train many runs, each on one node. Seeds 1 to 5, as N_seed1 to N_seed5, two at a time:
#
#     sbatch --array=1-5%2 scripts/slurm/array.sh --dataroot D --name N
#
# Or lines 1 to 4 of a file of flags, each with a --name, which follow the common flags:
#
#     sbatch --array=1-4 scripts/slurm/array.sh runs.txt --dataroot D --model pix2pix
#
# Each stops and resumes like one_node.sh.
#SBATCH --job-name=train --output=%x-%A_%a.out
#SBATCH --nodes=1 --ntasks-per-node=1 --cpus-per-task=8
#SBATCH --requeue --open-mode=append --signal=USR1@120
[ -e scripts/slurm/run.sh ] || {
    echo "$PWD is not the project's folder: submit there, or with sbatch --chdir=FOLDER" >&2
    exit 2
}
source scripts/slurm/run.sh
task=${SLURM_ARRAY_TASK_ID:?submit it with --array}
case ${1:-} in
"" | -*)
    train "$@" --seed "$task" --suffix 'seed{seed}'
    ;;
*)
    line=$(sed -n "${task}p" "$1")
    if [[ " $line " != *" --name"[\ =]* ]]; then
        echo "$1: line $task has no --name, or there is no such line or file" >&2
        exit 2
    fi
    mapfile -t flags < <(xargs -n 1 printf '%s\n' <<< "$line")
    train "${@:2}" "${flags[@]}"
    ;;
esac
