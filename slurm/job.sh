# shellcheck shell=bash
# What the job files share. They are submitted in the folder of the repository and source this with
#   cd "${SLURM_SUBMIT_DIR:-.}" && source slurm/job.sh
# since Slurm runs a copy of a job file from elsewhere. It gives them
#   "${ALL[@]}" command...     one run over all ranks of the job
#   "${EACH[@]}" command...    a run of its own in each rank; %s in the words becomes its seed, which counts the ranks and
#                              then the tasks of an array
#   resumable command...       either of these, where the same command goes on where it was stopped: before the time is
#                              over (USR1) it is stopped, and where it ends with status 75 (jaxda.parallel.stopping.REQUEUE)
#                              the job is put back into the queue
# and reads
#   JAXDA_MACHINE=frontier     which slurm/NAME.env.sh to source
#   JAXDA_VENV=FOLDER          virtual environment that jaxda is installed in; left out: python is on the PATH
#   JAX_COMPILATION_CACHE_DIR  (default: runs/.jax_cache)

machine="slurm/${JAXDA_MACHINE:-frontier}.env.sh"
if [ ! -f "$machine" ]; then
    echo "JAXDA_MACHINE = ${JAXDA_MACHINE:-frontier}: no $machine in $PWD; submit in the repository's folder" >&2
    exit 2
fi
# shellcheck source=/dev/null
source "$machine"
if [ -n "${JAXDA_VENV:-}" ]; then
    # shellcheck source=/dev/null
    source "$JAXDA_VENV/bin/activate"
fi

# Compiled programs are kept from job to job, the quick ones too: of many ranks the slowest counts.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/runs/.jax_cache}"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
mkdir -p "$JAX_COMPILATION_CACHE_DIR"

# srun does not take the cores of a rank from the job by itself (Slurm 22.05 on).
TASK+=("--cpus-per-task=${SLURM_CPUS_PER_TASK:-1}")

# The words in quotes are for the ranks: SLURM_PROCID differs on each. A rank that fails ends them all.
# shellcheck disable=SC2016
ALL=(srun "${TASK[@]}" --kill-on-bad-exit=1 bash -c 'mkdir -p ${MIOPEN_USER_DB_PATH:+"$MIOPEN_USER_DB_PATH"} .
exec "$@"' _)
# Runs of their own: a rank that fails leaves the others alone.
# shellcheck disable=SC2016,SC2034
EACH=(srun "${TASK[@]}" --kill-on-bad-exit=0 bash -c 'mkdir -p ${MIOPEN_USER_DB_PATH:+"$MIOPEN_USER_DB_PATH"} .
export JAXDA_LAUNCH=single
seed=$((SLURM_PROCID + ${SLURM_NTASKS:-1} * ${SLURM_ARRAY_TASK_ID:-0}))
exec "${@//%s/$seed}"' _)

resumable() {
    over=""
    "$@" &
    step=$!
    trap time_is_over USR1
    local status=0
    wait "$step" || status=$?
    if [ -n "$over" ]; then # the signal ended the wait; of its two minutes the step has one and a half
        for ((tick = 0; tick < 900; tick++)); do
            kill -0 "$step" 2>/dev/null || break
            sleep 0.1
        done
        status=75 # not at its end in time: it has what it kept
        if ! kill -0 "$step" 2>/dev/null; then
            status=0
            wait "$step" || status=$?
            [ "$status" -lt 128 ] || status=75 # ended before it heard signals
        fi
    fi
    [ "$status" -eq 75 ] && put_back
    return "$status"
}

time_is_over() {
    over=yes
    kill -TERM "$step" # srun passes it on
}

put_back() {
    # a task of an array by both numbers: that of the job alone may mean the whole array
    local job=$SLURM_JOB_ID
    if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
        job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
    fi
    scontrol requeue "$job"
    exit 0
}
