# shellcheck shell=bash
# What is particular to Frontier (OLCF: MI250X, eight GCDs a node, Slingshot); job.sh sources it. It follows OLCF's user
# guide of July 2026 (pages JAX, PyTorch, Frontier). Nothing of it was run there yet.
#   JAXDA_ROCM_VERSION=7.2.0   the module to load
# On many nodes OLCF advises `sbatch --network=disable_rdzv_get` beside the network plugin.

set +u # module is not written for it
# The plugin comes last: it needs rocm, and sets what RCCL and libfabric need on Slingshot (NCCL_NET_PLUGIN,
# NCCL_CROSS_NIC, NCCL_NET_GDR_LEVEL, FI_MR_CACHE_MONITOR, FI_CXI_*). Without it RCCL talks over TCP.
module load "rocm/${JAXDA_ROCM_VERSION:-7.2.0}" craype-accel-amd-gfx90a rccl-net-plugin
set -u
# All four network interfaces; OLCF: "if you see hangs, try using only hsn0".
export NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-hsn0,hsn1,hsn2,hsn3}"

# MIOpen's database fails on a file system that many ranks share (OLCF): on the node's NVMe, which `sbatch -C nvme` asks
# for, or else in TMPDIR.
scratch="${TMPDIR:-/tmp}"
if [ -d "/mnt/bb/${USER:-nobody}" ]; then
    scratch="/mnt/bb/$USER"
fi
export MIOPEN_USER_DB_PATH="$scratch/miopen-${SLURM_JOB_ID:-local}"
export MIOPEN_CUSTOM_CACHE_DIR="$MIOPEN_USER_DB_PATH"

# a GCD for each rank, the nearest to its cores
TASK=(--gpus-per-task=1 --gpu-bind=closest)
