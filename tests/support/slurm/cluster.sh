#!/usr/bin/env bash
# A Slurm cluster of this machine alone, for tests; needs no root and leaves a cluster that is there alone.
#
#     tests/support/slurm/cluster.sh start FOLDER    # daemons, keys and states are in FOLDER; ends when jobs can run
#     export SLURM_CONF=FOLDER/slurm.conf    # what sbatch, squeue and scontrol go by
#     tests/support/slurm/cluster.sh stop FOLDER
#
# FOLDER must not be longer than about 80 characters, because the name of a socket is limited.
set -euo pipefail
export PATH=$PATH:/usr/sbin
verb=$1 folder=$(realpath -m "$2")

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

configure() {
    local user host
    user=$(id -un) host=$(hostname -s)
    mkdir -p "$folder/state" "$folder/spool"
    chmod 755 "$folder"
    (umask 077 && head -c 1024 /dev/urandom > "$folder/munge.key")
    # cred_expire is how long a requeued job waits for its next start: 120 s if nothing is said.
    # Two partitions: jobs in `urgent` take the place of those in `main`, which get 10 s before they are requeued.
    cat > "$folder/slurm.conf" << CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=1,bf_interval=5,sched_interval=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ReturnToService=2
KillWait=30
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=$host NodeAddr=127.0.0.1 CPUs=2
PartitionName=main Nodes=$host Default=YES State=UP PriorityTier=1 GraceTime=10
PartitionName=urgent Nodes=$host State=UP PriorityTier=2
CONF
}

start() {
    configure
    export SLURM_CONF=$folder/slurm.conf
    munged --force --key-file "$folder/munge.key" --socket "$folder/munge.socket" --num-threads 2 \
        --pid-file "$folder/munged.pid" --log-file "$folder/munged.log" --seed-file "$folder/munge.seed"
    slurmctld
    slurmd
    for _ in $(seq 60); do
        [ "$(sinfo --noheader --partition main --format %t 2> /dev/null)" = idle ] && return
        sleep 0.5
    done
    echo "the node did not come up: see $folder/slurmctld.log and $folder/slurmd.log" >&2
    return 1
}

stop() {
    local name pid
    for name in slurmd slurmctld munged; do
        pid=$(cat "$folder/$name.pid" 2> /dev/null) || continue
        kill "$pid" 2> /dev/null || continue
        while kill -0 "$pid" 2> /dev/null; do sleep 0.1; done
    done
}

case $verb in
start | stop) "$verb" ;;
*) sed -n '2,6s/^# \?//p' "$0" >&2 && exit 2 ;;
esac
