#!/bin/bash
# One twin experiment over all ranks, such as one of hundreds of members, or one whose forecasts are a surrogate's.
# Members have to divide over the ranks. It goes on where it was stopped.
#   sbatch --account=PROJECT --nodes=4 slurm/osse_one.sh CONFIG [--any.field value ...]
#SBATCH --job-name=jaxda-osse-one
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

if [ $# -lt 1 ]; then
    echo "usage: sbatch slurm/osse_one.sh CONFIG [--any.field value ...]" >&2
    exit 2
fi
config=$1
shift

cd "${SLURM_SUBMIT_DIR:-.}"
source slurm/job.sh
# a job that is put back keeps its number, and osse.py sees that it was
out="runs/$(basename "$config" .toml)-${SLURM_JOB_ID:-local}"
resumable "${ALL[@]}" python scripts/osse.py "$config" --out "$out" "$@"
