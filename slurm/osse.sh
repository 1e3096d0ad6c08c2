#!/bin/bash
# Twin experiments, every rank its own seed, on one GPU (GCD) each.
#   sbatch --account=PROJECT slurm/osse.sh CONFIG [--any.field value ...]
#SBATCH --job-name=jaxda-osse
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=7
#SBATCH --gpus-per-task=1
#SBATCH --time=01:00:00
#SBATCH --output=slurm-%x-%j.out
#SBATCH --no-requeue
# An experiment has no checkpoints to go on from.
set -euo pipefail

if [ $# -lt 1 ]; then
    echo "usage: sbatch slurm/osse.sh CONFIG [--any.field value ...]" >&2
    exit 2
fi
config=$1
shift

cd "${SLURM_SUBMIT_DIR:-.}"
source slurm/job.sh
out="runs/$(basename "$config" .toml)-${SLURM_JOB_ID:-local}"
mkdir -p "$out"
"${EACH[@]}" python scripts/osse.py "$config" --out "$out/seed-%s" --seed %s "$@"
