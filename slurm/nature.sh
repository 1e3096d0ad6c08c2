#!/bin/bash
# Nature runs, every rank its own seed and file runs/NAME/seed-K.nc. They go on where they were stopped.
#   sbatch --account=PROJECT slurm/nature.sh NAME [--N 128 --days 300 ...]
# More seeds: --array=0-3.
#SBATCH --job-name=jaxda-nature
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
    echo "usage: sbatch slurm/nature.sh NAME [--N 128 --days 300 ...]" >&2
    exit 2
fi
name=$1
shift

cd "${SLURM_SUBMIT_DIR:-.}"
source slurm/job.sh
mkdir -p "runs/$name"
resumable "${EACH[@]}" python scripts/nature_run.py --resume --out "runs/$name/seed-%s.nc" --seed %s "$@"
