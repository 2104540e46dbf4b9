"""Each launcher's variables give the same world; nothing is opened. Values as seen from the real launchers."""

from __future__ import annotations

import pytest
import torch

from drb.distributed.launchers import FIRST_PORT, NUM_PORTS, head_node, read_place
from drb.distributed.world import detect_world

SRUN = {
    "SLURM_JOB_ID": "123456",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "3,1",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "2",
    "SLURM_NODEID": "0",
}
HYDRA = {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "2", "MPI_LOCALNRANKS": "3", "PMI_FD": "9"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "3",
    "PMIX_RANK": "2",
}
TORCHRUN = {
    "RANK": "2",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "2",
    "LOCAL_WORLD_SIZE": "3",
    "MASTER_ADDR": "head",
    "MASTER_PORT": "29500",
}
AGENT = {**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True"}
BATCH = {name: SRUN[name] for name in ("SLURM_JOB_ID", "SLURM_JOB_NUM_NODES", "SLURM_NTASKS")}
BATCH |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}  # sbatch sets these in the batch script

STARTS = {
    "torchrun": (AGENT, "torchrun", "agent"),
    "by hand": (TORCHRUN, "torchrun", "address"),
    "mpich": (HYDRA, "mpirun (MPICH)", "mpi"),
    "open mpi": (OPEN_MPI, "mpirun (Open MPI)", "mpi"),
    "srun": (SRUN, "srun", "address"),
    "torchrun in srun": ({**SRUN, **AGENT}, "torchrun", "agent"),
    "torchrun in mpirun": ({**HYDRA, **AGENT}, "torchrun", "agent"),
    "mpich in sbatch": ({**BATCH, **HYDRA}, "mpirun (MPICH)", "mpi"),
    "mpich on srun": ({**SRUN, "SLURM_PROCID": "0", **HYDRA}, "mpirun (MPICH)", "mpi"),
    "open mpi in sbatch": ({**BATCH, **OPEN_MPI}, "mpirun (Open MPI)", "mpi"),
    "srun --mpi=pmi2": ({**SRUN, "PMI_RANK": "2", "PMI_SIZE": "4", "PMI_JOBID": "1.0"}, "srun", "address"),
}


@pytest.mark.parametrize(("env", "launcher", "by"), STARTS.values(), ids=STARTS)
def test_every_launcher_gives_the_same_world(env, launcher, by):
    world = detect_world("cpu", env)
    assert (world.rank, world.world_size, world.local_rank, world.local_world_size) == (2, 4, 2, 3)
    assert (world.launcher, world.address.by) == (launcher, by)


def test_nothing_set_is_one_rank():
    world = detect_world("cpu", {})
    assert (world.rank, world.world_size, world.is_main, world.launcher) == (0, 1, True, "")
    assert detect_world("cpu", {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1"}).world_size == 1


def test_slurm_ranks_meet_on_the_first_node_at_a_port_of_the_job():
    address = read_place(SRUN).address
    assert address.host == "gpu07"
    assert FIRST_PORT <= address.port < FIRST_PORT + NUM_PORTS
    assert address == read_place({**SRUN, "SLURM_PROCID": "3", "SLURM_NODEID": "1", "SLURM_LOCALID": "0"}).address
    others = [{"SLURM_JOB_ID": "123457"}, {"SLURM_STEP_ID": "1"}, {"SLURM_RESTART_COUNT": "1"}]
    ports = {address.port, *(read_place({**SRUN, **other}).address.port for other in others)}
    assert len(ports) == 4


@pytest.mark.parametrize("env", [SRUN, HYDRA, OPEN_MPI], ids=["srun", "mpich", "open mpi"])
def test_an_address_that_is_given_counts(env):
    address = read_place({**env, "MASTER_ADDR": "ib-head", "MASTER_PORT": "4711"}).address
    assert (address.by, address.host, address.port) == ("address", "ib-head", 4711)
    half = read_place({**env, "MASTER_ADDR": "ib-head"}).address
    assert half.host == "ib-head"
    assert half.by == ("address" if env is SRUN else "mpi")


@pytest.mark.parametrize(
    ("node_list", "first"),
    [
        ("gpu07", "gpu07"),
        ("gpu07,gpu09", "gpu07"),
        ("gpu[07-12]", "gpu07"),
        ("gpu[3,5-9],cpu1", "gpu3"),
        ("rack[1-2]node[05-08]", "rack1node05"),
        ("a[1-2]-ib,b3", "a1-ib"),
        ("n-1.site.org", "n-1.site.org"),
        ("", ""),
    ],
)
def test_the_first_node_of_a_list(node_list, first):
    assert head_node(node_list) == first


SHELL = {**BATCH, "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"}  # of an interactive allocation

WRONG = {
    "the shell of salloc": ({**SHELL, "SLURM_STEP_ID": "0"}, "this Slurm job has 4 tasks"),
    "the shell, tasks unsaid": (
        {**SHELL, "SLURM_NTASKS": "", "SLURM_STEP_ID": "4294967290"},
        r"this Slurm job has 2 nodes \(SLURM_JOB_NUM_NODES\), but drb was started as one process",
    ),
    "a batch script": (BATCH, r"this Slurm job has 4 tasks \(SLURM_NTASKS\), but drb was started as one process"),
    "nodes alone": ({"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "2"}, "this Slurm job has 2 nodes"),
    "rank alone": ({"RANK": "1"}, "RANK=1 is set but WORLD_SIZE is not"),
    "size alone": ({"WORLD_SIZE": "4"}, "WORLD_SIZE=4 is set but RANK is not"),
    "rank too large": ({"RANK": "4", "WORLD_SIZE": "4"}, r"RANK=4 is not in \[0, WORLD_SIZE=4\)"),
    "no number": ({**HYDRA, "PMI_SIZE": "four"}, "PMI_SIZE must be an integer, got 'four'"),
}


@pytest.mark.parametrize(("env", "sentence"), WRONG.values(), ids=WRONG)
def test_what_contradicts_itself_is_said(env, sentence):
    with pytest.raises(ValueError, match=sentence):
        detect_world("cpu", env)


def test_one_rank_of_a_larger_job_can_be_asked_for():
    one_task = {**SRUN, "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}  # srun -n 1 in it
    assert detect_world("cpu", one_task).world_size == 1
    assert detect_world("cpu", {**BATCH, "RANK": "0", "WORLD_SIZE": "1"}).world_size == 1


def show_devices(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_each_rank_gets_the_device_of_its_local_rank(monkeypatch):
    show_devices(monkeypatch, 4)
    for env in (SRUN, HYDRA, OPEN_MPI, AGENT):
        assert detect_world("cuda", env).device == torch.device("cuda", 2)


@pytest.mark.parametrize(
    "env", [SRUN, HYDRA, AGENT, {**TORCHRUN, "LOCAL_RANK": ""}, {"PMI_RANK": "1", "PMI_SIZE": "2"}]
)
def test_one_device_that_is_shown_is_this_ranks(monkeypatch, env):
    """By `srun --gpus-per-task=1`, `--gpu-bind=single:1` or a wrapper that sets CUDA_VISIBLE_DEVICES."""
    show_devices(monkeypatch, 1)
    assert detect_world("cuda", env).device == torch.device("cuda", 0)


def test_a_launcher_without_local_ranks_cannot_share_out_devices(monkeypatch):
    show_devices(monkeypatch, 4)
    env = {"PMI_RANK": "1", "PMI_SIZE": "2"}
    assert detect_world("cpu", env).launcher == "an MPI launcher"
    with pytest.raises(ValueError, match="does not say which rank of its node this is"):
        detect_world("auto", env)
