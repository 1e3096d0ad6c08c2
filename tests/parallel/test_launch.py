"""How a script finds out which process of how many it is, and what it says where the environment is odd."""

import jax
import numpy as np
import pytest

from jaxda.output import progress
from jaxda.parallel import ending, launch
from jaxda.parallel.launch import Launch
from jaxda.parallel.mesh import member_mesh

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
SRUN = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "2", "SLURM_NTASKS": "8"}
HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0"}
OPENMPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
SLURM_JOB = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "1"}


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, Launch()),
        (TORCHRUN, Launch("torchrun", 3, 4, 1)),
        (SRUN, Launch("srun", 5, 8, 2)),
        (HYDRA, Launch("mpirun", 1, 2, 0)),
        (OPENMPI, Launch("mpirun", 1, 2, 1)),
        (SLURM_JOB, Launch()),  # a script in the batch step: nobody started eight of it
        (SLURM_JOB | {"SLURM_STEP_NUM_TASKS": "1"}, Launch()),  # an interactive shell of a job of eight tasks
        (SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, Launch()),
        (SRUN | TORCHRUN, Launch("torchrun", 3, 4, 1)),  # the innermost launcher counts
        (SRUN | OPENMPI, Launch("mpirun", 1, 2, 1)),
        (SRUN | TORCHRUN | {"JAXDA_LAUNCH": "srun"}, Launch("srun", 5, 8, 2)),
        (SRUN | TORCHRUN | {"JAXDA_LAUNCH": "single"}, Launch()),
        (TORCHRUN | {"WORLD_SIZE": "1", "RANK": "0"}, Launch()),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, Launch()),  # srun --mpi=pmi2 sets these too; hydra sets a third
    ],
)
def test_the_environment_says_how_it_was_started(environ, found):
    assert launch.detect(environ) == found


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"JAXDA_LAUNCH": "qsub"}, "JAXDA_LAUNCH = qsub: not one of single, mpirun, srun, torchrun; leave it out"),
        ({"JAXDA_LAUNCH": "srun"}, "JAXDA_LAUNCH = srun: SLURM_PROCID, .* are not set; start with srun"),
        (TORCHRUN | {"RANK": "4"}, "RANK = 4, WORLD_SIZE = 4, .*: not a rank among as many; .*JAXDA_LAUNCH=single"),
        (TORCHRUN | {"RANK": "one"}, "RANK = one"),
        (
            {n: v for n, v in TORCHRUN.items() if n != "MASTER_ADDR"},
            "MASTER_ADDR: not set, though WORLD_SIZE is; set it",
        ),
        ({n: v for n, v in TORCHRUN.items() if n != "LOCAL_RANK"}, "LOCAL_RANK: not set"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(environ, said):
    with pytest.raises(ValueError, match=said):
        launch.detect(environ)


@pytest.mark.parametrize(
    ("environ", "devices"),
    [
        ({}, [2]),
        ({"ROCR_VISIBLE_DEVICES": "5"}, [0]),  # srun --gpus-per-task=1 shows each process its own, which is number 0
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [2]),
        ({"CUDA_VISIBLE_DEVICES": ""}, [2]),
        ({"CUDA_VISIBLE_DEVICES": "1", "JAX_LOCAL_DEVICE_IDS": "0,1"}, None),
    ],
)
def test_each_process_takes_one_gpu(environ, devices):
    assert launch.own_devices(Launch("srun", 5, 8, 2), environ) == devices


@pytest.mark.parametrize(
    ("more", "address"),
    [
        ({}, "node0:29500"),
        ({"TORCHELASTIC_USE_AGENT_STORE": "True"}, "node0:29501"),
        ({"JAX_COORDINATOR_PORT": "4000"}, "node0:4000"),
    ],
)
def test_the_first_process_has_a_port_that_is_free(more, address):
    assert launch.coordinator(TORCHRUN | more) == address
    with pytest.raises(ValueError, match="MASTER_PORT = any: not a number; use one such as 29500"):
        launch.coordinator(TORCHRUN | more | {"MASTER_PORT": "any"})


@pytest.mark.parametrize("given", ["soon", "0", "-3"])
def test_a_timeout_is_a_number_of_seconds(given):
    assert launch.patience({}) == 300
    assert launch.patience({"JAXDA_TIMEOUT": "7"}) == 7
    with pytest.raises(ValueError, match=f"JAXDA_TIMEOUT = {given}: not a number of seconds; leave it out"):
        launch.patience({"JAXDA_TIMEOUT": given})


@pytest.fixture
def second(monkeypatch):
    """This process is the second of four."""
    monkeypatch.delenv("JAXDA_LAUNCH")
    for name, value in (TORCHRUN | {"RANK": "1"}).items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("second", "settings_of_jax")
def test_a_script_of_one_process_refuses_several():
    with pytest.raises(ValueError, match=r"4 processes were started by torchrun, .* set JAXDA_LAUNCH=single"):
        launch.start("float32")
    assert launch.start("float32", alone=False) == Launch("torchrun", 1, 4, 1)


@pytest.mark.usefixtures("second")
def test_only_the_first_speaks(capsys, monkeypatch):
    for rank, lines in (("1", 0), ("0", 1)):
        monkeypatch.setenv("RANK", rank)
        launch.say("hello")
        with progress.bar("work", 3, "pieces") as advance:
            advance(3)
        said = capsys.readouterr()
        assert (said.out.count("hello"), said.err.count("work")) == (lines, lines)


def test_one_process_is_refused_in_a_line(capsys):
    assert launch.refuse("x.py", ValueError("a = 1: is wrong; use 2")) == 2
    assert capsys.readouterr() == ("", "x.py: a = 1: is wrong; use 2\n")


def test_one_process_keeps_its_arrays():
    x = jax.numpy.arange(3)
    assert launch.from_first((x, 1))[0] is x


def test_the_description_names_versions_and_devices():
    text = launch.describe(Launch(), "float32")
    assert "1 process, 2 x cpu" in text or jax.default_backend() != "cpu"
    assert f"jax {jax.__version__}" in text
    assert "8 processes (srun)" in launch.describe(Launch("srun", 5, 8, 2), "float32")


def test_lines_carry_a_prefix_however_they_are_written(capsys):
    import sys

    stream = ending.Prefixed(sys.stdout, "[rank 3] ")
    for text in ("one", " line\ntwo\n", "", "\n", "three"):
        assert stream.write(text) == len(text)
    stream.flush()
    assert capsys.readouterr().out == "[rank 3] one line\n[rank 3] two\n[rank 3] \n[rank 3] three"


class Device:
    """As much of a device as a mesh of processes asks for."""

    def __init__(self, number, process_index):
        self.id, self.process_index = number, process_index


@pytest.mark.parametrize(
    ("members", "counts", "taken"),
    [
        (8, (2, 2), [0, 1, 2, 3]),
        (6, (2, 2), [0, 2]),
        (2, (1, 1), [0, 1]),
        (12, (4, 3), [0, 1, 2, 4, 5, 6]),
        (7, (4,), [0]),
    ],
)
def test_a_mesh_has_as_many_devices_of_each_process(monkeypatch, members, counts, taken):
    from jaxda.parallel import mesh

    numbers = iter(range(sum(counts)))
    devices = [Device(next(numbers), process) for process, count in enumerate(counts) for _ in range(count)]
    monkeypatch.setattr(jax, "make_mesh", lambda shape, names, axis_types, devices: (shape, devices))
    shape, chosen = mesh.member_mesh(members, devices)
    assert shape == (len(chosen),)
    np.testing.assert_array_equal([device.id for device in chosen], taken)


def test_members_that_the_processes_do_not_divide_are_refused():
    from jaxda.parallel import mesh

    with pytest.raises(ValueError, match="members = 7 do not divide over 2 processes; use a multiple of 2, or fewer"):
        mesh.member_mesh(7, [Device(0, 0), Device(1, 1)])


def test_the_mesh_is_described(cpus):
    assert launch.describe(Launch(), "float32", member_mesh(4, cpus)).endswith(", float32, mesh member 2")
