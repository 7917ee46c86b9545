# Shared by the job scripts: `train FLAGS` and `translate FLAGS` run train.py and test.py as a step of the job, on
# all its nodes.
#
# Slurm signals the processes of the step before the time limit (--signal) and at preemption: train.py saves and
# exits with status 75, and this script requeues the job. `scontrol requeue`, `scancel` and the time limit itself
# also send SIGTERM to this script, which then leaves the job to Slurm.

: "${SLURM_JOB_ID:?submit this script with sbatch}"

# A file of your own with what every job needs first: modules, an environment, data on the node (docs/clusters.md).
if [ -e scripts/slurm/setup.sh ]; then
    source scripts/slurm/setup.sh || {
        echo "scripts/slurm/setup.sh ended with status $?" >&2
        exit 2
    }
fi

# PYTHON is a command, or a command and its arguments, quoted as in a shell: apptainer exec --nv image.sif python
if command -v "${PYTHON:=python}" > /dev/null; then
    python=("$PYTHON")
else
    mapfile -t python < <(xargs -n 1 printf '%s\n' <<< "$PYTHON")
fi
if ! command -v "${python[0]}" > /dev/null; then
    echo "PYTHON='$PYTHON': there is no command ${python[0]} on $HOSTNAME; set PYTHON when you submit, or load its" \
        "module or activate its environment in scripts/slurm/setup.sh" >&2
    exit 2
fi

# Run train.py or test.py with flags as a step of the job, one process per GPU; without GPUs one per node, or PROCESSES.
run_step() {
    local processes=${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}} cpus=${SLURM_CPUS_PER_TASK:-1} launcher=()
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cpus > processes ? cpus / processes : 1))}
    if [ $((processes * SLURM_JOB_NUM_NODES)) -gt 1 ]; then
        local host port=$((20000 + SLURM_JOB_ID % 10000)) # one port per job: jobs may share a node
        host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
        launcher=(scripts/slurm/torchrun.py --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node "$processes"
            --rdzv_backend c10d --rdzv_endpoint "$host:$port" --rdzv_id "$job")
    fi
    # --export: after sbatch --export=NONE, srun would pass nothing on either.
    # --wait: when one node has ended, the others get two minutes to save.
    srun --export=ALL --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="$cpus" --wait=120 \
        "${python[@]}" "${launcher[@]}" "$@"
}

# A task's own job ID may be that of its array, and requeueing that would requeue all tasks.
job=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}

train() {
    local status=0 terminated="" again
    if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then
        again=$("${python[@]}" scripts/slurm/again.py "$@") || exit
        set -- "$@" $again
    fi
    trap 'terminated=yes' TERM
    run_step train.py "$@" || status=$?
    case $status in
    75 | 138 | 140 | 143) # saved; or killed by SIGUSR1, SIGUSR2 or SIGTERM before training began
        if [ ! "$terminated" ] && ! scontrol requeue "$job"; then
            echo "Slurm refused to requeue job $job. Its run is saved: submit it again with --continue_train" >&2
        fi
        ;;
    esac
    exit "$status"
}

translate() {
    run_step test.py "$@"
    exit
}
