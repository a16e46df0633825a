#!/usr/bin/env bash
# Runs a command inside a Slurm cluster of one node with two cores, on the loopback, and takes the cluster down again:
#
#   tests/slurm/cluster.sh sinfo
#
# munged, slurmctld and slurmd run as the user who calls, from a folder and on ports of their own; whatever Slurm is
# set up on the machine is left alone. The command finds them by SLURM_CONF.
# The partition is called test.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin

(( $# )) || { echo 'usage: tests/slurm/cluster.sh COMMAND [ARGUMENT ...]' >&2; exit 2; }

# short, since a socket's path may have 107 bytes; munge wants everyone to reach its socket
home=$(mktemp -d /tmp/slurm-XXXXXX)
chmod 711 "$home"
# of a job that this script itself may run in
unset ${!SLURM_*} ${!SBATCH_*} ${!SRUN_*}
daemons=()

# Processes started by this cluster know it by SLURM_CONF: daemons, steps (which leave slurmd's process group), tasks.
members() {
    local file pid
    for file in $(grep --files-with-matches --null-data --line-regexp --fixed-strings --no-messages \
            "SLURM_CONF=$home/slurm.conf" /proc/[0-9]*/environ || true); do
        pid=${file#/proc/}
        pid=${pid%/environ}
        [[ ! -d /proc/$pid ]] || echo "$pid"
    done
}

jobs_left() { timeout 5 squeue --noheader; }

# at most 6 s
until_gone() {
    local i
    for (( i = 0; i < 60; i++ )); do
        [[ -n $("$1") ]] || break
        sleep 0.1
    done
}

stop() {
    local status=$? log
    trap - EXIT
    trap '' INT TERM
    set +e
    if (( status )); then
        for log in "$home"/*.log; do
            printf '%s\n' "--- the end of ${log##*/}" >&2
            tail -n 30 "$log" >&2
        done
    fi
    # from here on nobody wants to hear that something has ended already
    exec 2>/dev/null
    if [[ -n ${SLURM_CONF:-} ]]; then
        timeout 5 scancel --user="$(id -u)"
        until_gone jobs_left
    fi
    (( ${#daemons[@]} == 0 )) || kill "${daemons[@]}"
    until_gone members
    kill -KILL $(members)
    wait
    rm -rf "$home"
    exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() { printf 'cluster.sh: %s\n' "$1" >&2; exit 1; }

free_port() {
    local port
    while port=$(shuf --head-count=1 --input-range=20000-29999) && (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo "$port"
}

daemon() {
    local name=$1
    shift
    "$name" "$@" >"$home/$name.log" 2>&1 </dev/null &
    daemons+=($!)
}

# at most 30 s
await() {
    local what=$1 i
    shift
    for (( i = 0; i < 150; i++ )); do
        ! "$@" 2>/dev/null || return 0
        kill -0 "${daemons[@]}" 2>/dev/null || fail "a daemon ended before $what"
        sleep 0.2
    done
    fail "waited for $what in vain"
}

node_is_idle() { [[ $(sinfo --noheader --format=%T) == idle ]]; }

mkdir "$home/state" "$home/spool"
(umask 077 && head -c 1024 /dev/urandom >"$home/munge.key")
user=$(id -un)
# not $HOSTNAME, which may be inherited
host=$(uname -n)
host=${host%%.*}
cat >"$home/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
# a requeued job waits until the credentials of its last start are void: two minutes, unless told otherwise
AuthInfo=socket=$home/munge.socket,cred_expire=5
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool
SlurmctldPidFile=$home/slurmctld.pid
SlurmdPidFile=$home/slurmd.pid
# neither systemd nor cgroups, which containers lack
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
JobRequeue=1
ReturnToService=2
KillWait=2
MessageTimeout=20
# whatever the machine has
SlurmdParameters=config_overrides
NodeName=localhost NodeHostname=$host NodeAddr=127.0.0.1 Port=$(free_port) CPUs=2 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
export SLURM_CONF=$home/slurm.conf

daemon munged --foreground --key-file="$home/munge.key" --socket="$home/munge.socket" --num-threads=2 \
    --pid-file="$home/munged.pid" --seed-file="$home/munge.seed"
await 'munge answers' test -S "$home/munge.socket"
daemon slurmctld -D -c
daemon slurmd -D -c
await 'the node is idle' node_is_idle

"$@"
