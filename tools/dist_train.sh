#!/usr/bin/env bash
set -euo pipefail

usage() {
    cat >&2 <<'END'
usage: dist_train.sh CONFIG GPUS [option of train.py ...]
  Trains in GPUS processes, one per GPU; without CUDA, one per CPU share, over gloo.
  NNODES (1), NODE_RANK (0), MASTER_ADDR (127.0.0.1), PORT (29500): several machines; PYTHON (python)
END
    exit 2
}

(( $# >= 2 )) || usage
config=$1 gpus=$2
[[ $gpus =~ ^[1-9][0-9]*$ ]] || { echo "dist_train.sh: GPUS should be a number, not '$gpus'" >&2; usage; }
[[ -f $config || $config == *::* ]] || { echo "dist_train.sh: no config file '$config'" >&2; exit 2; }

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH=${tools%/*}${PYTHONPATH:+:$PYTHONPATH}
exec "${PYTHON:-python}" -m mmkd_graph.engine.torchrun \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$gpus" \
    "$tools/train.py" "$config" --launcher pytorch "${@:3}"
