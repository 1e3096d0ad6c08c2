#!/bin/bash
# A search of a filter's settings, every rank the whole search on its own seed, so that the best can be told from the
# lucky. It goes on where it was stopped.
#   sbatch --account=PROJECT slurm/tune.sh CONFIG FILTER --values FIELD=A,B,... [--trials K] [--any.field value ...]
#SBATCH --job-name=jaxda-tune
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=7
#SBATCH --gpus-per-task=1
#SBATCH --time=02:00:00
#SBATCH --output=slurm-%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: sbatch slurm/tune.sh CONFIG FILTER --values FIELD=A,B,... [--trials K] [--any.field value ...]" >&2
    exit 2
fi
config=$1
filter=$2
shift 2

cd "${SLURM_SUBMIT_DIR:-.}"
source slurm/job.sh
# without the job's number: the next job finds what this one did
out="runs/tune-$(basename "$config" .toml)-$filter"
mkdir -p "$out"
resumable "${EACH[@]}" python scripts/tune.py "$config" --filter "$filter" --out "$out/seed-%s" --seed %s "$@"
