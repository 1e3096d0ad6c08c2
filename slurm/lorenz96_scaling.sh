#!/bin/bash
# The Lorenz-96 scaling run over all ranks, once for each number of nodes.
#   for n in 1 2 4; do sbatch --account=PROJECT --nodes=$n slurm/lorenz96_scaling.sh configs/lorenz96_1e8.toml; done
#SBATCH --job-name=jaxda-lorenz96-scaling
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=7
#SBATCH --gpus-per-task=1
#SBATCH --time=00:30:00
#SBATCH --output=slurm-%x-%j.out
#SBATCH --no-requeue
set -euo pipefail

if [ $# -lt 1 ]; then
    echo "usage: sbatch slurm/lorenz96_scaling.sh CONFIG [--d D --members M --cycles C ...]" >&2
    exit 2
fi

cd "${SLURM_SUBMIT_DIR:-.}"
source slurm/job.sh
# its ranks meet over MPI; mpi4py ends all where one fails
"${ALL[@]}" python -m mpi4py scripts/lorenz96_scaling.py "$@"
