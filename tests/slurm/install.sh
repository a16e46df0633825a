#!/usr/bin/env bash
# Sees to it that Slurm and munge are on this machine, by Debian's packages where they are missing.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

fail() { printf 'Slurm cannot be installed: %s\n' "$@" >&2; exit 1; }

missing() {
    local name
    for name in munged slurmctld slurmd sinfo srun sbatch scancel scontrol; do
        command -v "$name" >/dev/null || printf '%s ' "$name"
    done
}

lacks=$(missing)
[[ -n $lacks ]] || exit 0
command -v apt-get >/dev/null ||
    fail "this machine lacks ${lacks% }, and there is no apt-get. Install Slurm and munge by hand and try again."

root=(env)
if (( EUID != 0 )); then
    command -v sudo >/dev/null || fail 'neither root nor sudo. As root: apt-get install slurm-wlm munge'
    # a password can be asked for at a terminal alone
    root=(sudo)
    [[ -t 0 ]] || root+=(-n)
    "${root[@]}" true || fail 'sudo refuses. As root: apt-get install slurm-wlm munge'
    root+=(env)
fi

apt() {
    "${root[@]}" DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 -o Acquire::Retries=2 \
        -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 -o Dpkg::Use-Pty=0 "$@"
}

echo '==> installing Debian packages slurm-wlm and munge'
apt update >/dev/null || echo 'apt-get update failed; trying with the lists that are here' >&2
apt install --yes --no-install-recommends slurm-wlm munge >/dev/null || fail 'apt-get install slurm-wlm munge failed'
lacks=$(missing)
[[ -z $lacks ]] || fail "slurm-wlm and munge are there, but not ${lacks% }"
