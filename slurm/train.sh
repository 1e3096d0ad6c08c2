#!/bin/bash
# One training over all ranks; the same job goes on from the last checkpoint.
#   sbatch --account=PROJECT --nodes=2 slurm/train.sh CONFIG STRATEGY [--any.field value ...]
# STRATEGY is ddp, zero1, zero2, zero3 or hybrid_shard. Seeds as an array: --array=0-3.
#SBATCH --job-name=jaxda-train
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

if [ $# -lt 2 ]; then
    echo "usage: sbatch slurm/train.sh CONFIG ddp|zero1|zero2|zero3|hybrid_shard [--any.field value ...]" >&2
    exit 2
fi
config=$1
strategy=$2
shift 2

cd "${SLURM_SUBMIT_DIR:-.}"
source slurm/job.sh
# without the job's number: the next job finds the checkpoints
out="runs/$(basename "$config" .toml)-$strategy"
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    out+="-seed-$SLURM_ARRAY_TASK_ID"
    set -- --train.seed "$SLURM_ARRAY_TASK_ID" "$@"
fi
resumable "${ALL[@]}" python scripts/train_vit.py "$config" --parallel.strategy "$strategy" --out "$out" "$@"
