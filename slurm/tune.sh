#!/bin/bash
# A search of a filter's settings on a Frontier-like machine: eight ranks a node, one GCD each, every rank the whole
# search on its own seed, so that the best can be told from the lucky. Submitted again, it goes on where it was stopped.
#   sbatch --account=PROJECT slurm/tune.sh CONFIG FILTER --values FIELD=A,B,... [--trials K] [--any.field value ...]
#SBATCH --job-name=jaxda-tune
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=7
#SBATCH --gpus-per-task=1
#SBATCH --time=02:00:00
#SBATCH --output=slurm-%x-%j.out
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: sbatch slurm/tune.sh CONFIG FILTER --values FIELD=A,B,... [--trials K] [--any.field value ...]" >&2
    exit 2
fi
config=$1
filter=$2
shift 2

cd "${SLURM_SUBMIT_DIR:-.}"
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/runs/.jax_cache}"
# without the job's number: the next job finds what this one did
out="runs/tune-$(basename "$config" .toml)-$filter"
mkdir -p "$out" "$JAX_COMPILATION_CACHE_DIR"

# Quoted for the ranks: $SLURM_PROCID differs on each.
# shellcheck disable=SC2016
srun --ntasks-per-node=8 --gpus-per-task=1 --gpu-bind=closest bash -c '
    out=$1 config=$2 filter=$3
    shift 3
    exec python scripts/tune.py "$config" --filter "$filter" --out "$out/seed-$SLURM_PROCID" --seed "$SLURM_PROCID" "$@"
' _ "$out" "$config" "$filter" "$@"
