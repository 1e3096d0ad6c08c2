#!/bin/bash
# Twin experiments on a Frontier-like machine: eight ranks a node, one GCD each, every rank its own seed.
#   sbatch --account=PROJECT slurm/osse.sh configs/paper_fig4_filters.toml [--any.field value ...]
#SBATCH --job-name=jaxda-osse
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=7
#SBATCH --gpus-per-task=1
#SBATCH --time=01:00:00
#SBATCH --output=slurm-%x-%j.out
set -euo pipefail

if [ $# -lt 1 ]; then
    echo "usage: sbatch slurm/osse.sh CONFIG [--any.field value ...]" >&2
    exit 2
fi
config=$1
shift

cd "${SLURM_SUBMIT_DIR:-.}"
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/runs/.jax_cache}"
out="runs/$(basename "$config" .toml)-${SLURM_JOB_ID:-local}"
mkdir -p "$out" "$JAX_COMPILATION_CACHE_DIR"

# Quoted for the ranks: $SLURM_PROCID differs on each.
# shellcheck disable=SC2016
srun --ntasks-per-node=8 --gpus-per-task=1 --gpu-bind=closest bash -c '
    out=$1 config=$2
    shift 2
    exec python scripts/osse.py "$config" --out "$out/seed-$SLURM_PROCID" --seed "$SLURM_PROCID" "$@"
' _ "$out" "$config" "$@"
