#!/usr/bin/env bash
set -euo pipefail

usage() {
    cat >&2 <<'END'
usage: slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [option of test.py ...]
  Tests in GPUS processes (8), GPUS_PER_NODE (8) of them on a machine, CPUS_PER_TASK (5) cores each.
  GPUS_PER_NODE=0 asks for no GPU: the processes then meet over gloo.
  SRUN_ARGS: more options of srun, separated by blanks; MASTER_PORT (29500); PYTHON (python)
END
    exit 2
}

(( $# >= 4 )) || usage
per_node=${GPUS_PER_NODE:-8}
gpu_options=()
if (( per_node > 0 )); then
    gpu_options=("--gres=gpu:$per_node" "--ntasks-per-node=$per_node")
fi
read -ra srun_args <<<"${SRUN_ARGS:-}"

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH=${tools%/*}${PYTHONPATH:+:$PYTHONPATH}
set -x
exec srun -p "$1" --job-name="$2" \
    ${gpu_options[@]+"${gpu_options[@]}"} \
    --ntasks="${GPUS:-8}" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${srun_args[@]+"${srun_args[@]}"} \
    "${PYTHON:-python}" -u "$tools/test.py" "$3" "$4" --launcher=slurm "${@:5}"
