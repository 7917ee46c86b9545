# Shared by the job scripts: `train FLAGS` runs train.py as a step of the job, on all its nodes.
#
# Slurm signals the processes of the step before the time limit (--signal) and at preemption: they save and exit
# with status 75, and this script requeues the job. `scontrol requeue`, `scancel` and the time limit itself also
# send SIGTERM to this script, which then leaves the job to Slurm.

python=${PYTHON:-python}

train() {
    local status=0 terminated="" again job=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}
    # A task's own job ID may be that of its array, and requeueing that would requeue all tasks.
    job+=${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
    if [ ! -e scripts/slurm/run.sh ]; then
        echo "submit jobs from the project's folder" >&2
        exit 2
    fi
    if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then
        again=$("$python" scripts/slurm/again.py "$@") || exit
        set -- "$@" $again
    fi

    # One process a GPU; without GPUs one a node, or PROCESSES.
    local processes=${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}} cpus=${SLURM_CPUS_PER_TASK:-1}
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cpus > processes ? cpus / processes : 1))}
    local launcher=()
    if [ $((processes * SLURM_JOB_NUM_NODES)) -gt 1 ]; then
        local host port=$((20000 + SLURM_JOB_ID % 10000)) # one port per job: jobs may share a node
        host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
        launcher=(scripts/slurm/torchrun.py --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node "$processes"
            --rdzv_backend c10d --rdzv_endpoint "$host:$port" --rdzv_id "$job")
    fi

    trap 'terminated=yes' TERM
    # --wait: when one node has ended, the others get two minutes to save.
    srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="$cpus" --wait=120 \
        "$python" "${launcher[@]}" train.py "$@" || status=$?
    case $status in
    75 | 138 | 143) # saved; or killed by SIGUSR1 or SIGTERM before training began
        [ "$terminated" ] || scontrol requeue "$job"
        ;;
    esac
    exit "$status"
}
