#!/usr/bin/env bash
#SBATCH --requeue --open-mode=append --signal=B:USR1@60
set -uo pipefail

usage() {
    cat >&2 <<'END'
usage: sbatch ... job.sh TOOLS WORK_DIR CONFIG [WEIGHTS]
  The batch job of submit.py: trains a run and tests it, over interruptions; WEIGHTS are only tested.
  TOOLS: the folder with slurm_train.sh. docs/slurm.md says what happens at interruptions.
END
    exit 2
}

(( $# >= 3 )) || usage
tools=$1 work_dir=$2 config=$3 weights=${4:-}

[[ ! -e $work_dir/tested ]] || exit 0

saved() { cat "$work_dir/last_checkpoint" 2>/dev/null; }
before=$(saved)

# A step of the job. In the background, since a signal ends the `wait` alone.
run() {
    bash "$tools/$1" "$SLURM_JOB_PARTITION" "$SLURM_JOB_NAME" "$config" "${@:2}" &
    wait $! && return
    if [[ $(saved) == "$before" ]]; then
        echo 'this start has saved no checkpoint: not started again' >&2
        exit 1
    fi
    scontrol requeue "$SLURM_JOB_ID"
    exit
}
trap : USR1

# several of these jobs may share a machine
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))

if [[ -z $weights ]]; then
    weights=$work_dir/weights.pth
    if [[ ! -e $work_dir/trained ]]; then
        run slurm_train.sh "$work_dir" --resume
        last=$(saved)
        [[ ! -e $work_dir/${last##*/} ]] || last=${last##*/}
        ln -sfn "$last" "$weights" && touch "$work_dir/trained" || exit
    fi
fi
run slurm_test.sh "$weights" --work-dir "$work_dir/test" && touch "$work_dir/tested"
