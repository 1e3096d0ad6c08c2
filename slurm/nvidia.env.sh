# shellcheck shell=bash
# What is particular to a machine with NVIDIA GPUs; job.sh sources it where JAXDA_MACHINE=nvidia. The job files ask for
# eight ranks a node, so with four GPUs: JAXDA_MACHINE=nvidia sbatch --ntasks-per-node=4 --cpus-per-task=16 slurm/...
# The wheels of jax[cuda12] and jax[cuda13] bring CUDA, cuDNN and NCCL; only the driver is the machine's, and no module
# is loaded. Nothing of this file was run on such a machine yet.

# one GPU for each rank
TASK=(--gpus-per-task=1)
