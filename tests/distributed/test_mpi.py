"""The door to MPI, with stand-ins for mpi4py: what is missing or does not match is said in one sentence."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from drb import Rehearsal
from drb.distributed.mpi import library_name, load_mpi, require_one_world, wait_for

MPICH = "MPICH Version:      5.0.2\nMPICH Release date: Fri Sep 25\n\0"
OPEN_MPI = "Open MPI v5.0.11, package: Open MPI user@localhost Distribution\0"


def stand_in(library, rank=0, size=1):
    """An mpi4py of that library."""
    started = []
    mpi = SimpleNamespace(
        Get_library_version=lambda: library,
        Is_initialized=lambda: bool(started),
        Init_thread=started.append,
        THREAD_MULTIPLE=3,
        COMM_WORLD=SimpleNamespace(rank=rank, size=size),
    )
    module = ModuleType("mpi4py")
    module.MPI, module.rc = mpi, SimpleNamespace()
    return module


def break_mpi4py(monkeypatch, error):
    class Broken(ModuleType):
        rc = SimpleNamespace()

        def __getattr__(self, name):
            raise error

    monkeypatch.setitem(sys.modules, "mpi4py", Broken("mpi4py"))


def test_mpi4py_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ValueError, match=r"^exchange=rma needs mpi4py, which is not installed: pip install"):
        load_mpi("exchange=rma")


def test_no_library(monkeypatch):
    break_mpi4py(monkeypatch, RuntimeError("cannot load MPI library\nlibmpi.so.12: cannot open"))
    with pytest.raises(ValueError, match=r"can load none \(cannot load MPI library libmpi.so.12: cannot open\)"):
        load_mpi("exchange=rma")


def test_one_rank_with_exchange_rma_needs_mpi_too(monkeypatch):
    from samples import minibatch_of

    monkeypatch.setitem(sys.modules, "mpi4py", None)
    rehearsal = Rehearsal(capacity=5, exemplars=2, exchange="rma", verbose=False)
    with pytest.raises(ValueError, match="exchange=rma needs mpi4py"):
        rehearsal.extend(minibatch_of(range(4)))


@pytest.mark.parametrize(
    ("launcher", "library", "fits"),
    [
        ("mpirun (Open MPI)", OPEN_MPI, True),
        ("mpirun (Open MPI)", MPICH, False),
        ("mpirun (MPICH)", MPICH, True),
        ("mpirun (MPICH)", OPEN_MPI, False),
        ("mpirun (MPICH)", "Intel(R) MPI Library 2021.13", True),
    ],
)
def test_a_library_of_another_family_is_not_initialised(launcher, library, fits, monkeypatch):
    module = stand_in(library)
    monkeypatch.setitem(sys.modules, "mpi4py", module)
    if fits:
        assert load_mpi("a start", launcher).Is_initialized()
        return
    with pytest.raises(ValueError, match="this mpirun belongs to another MPI"):
        load_mpi("a start", launcher)
    assert not module.MPI.Is_initialized()


def test_a_world_of_one_where_four_were_started():
    require_one_world(stand_in(MPICH, 2, 4).MPI, "mpirun (MPICH)", 2, 4)
    with pytest.raises(ValueError, match=r"started rank 2 of 4, but mpi4py's MPICH 5.0.2 sees itself as rank 0 of 1"):
        require_one_world(stand_in(MPICH).MPI, "mpirun (MPICH)", 2, 4)


def test_library_names_are_short():
    assert library_name(stand_in(MPICH).MPI) == "MPICH 5.0.2"
    assert library_name(stand_in(OPEN_MPI).MPI) == "Open MPI v5.0.11"


def test_what_never_comes_is_named():
    with pytest.raises(TimeoutError, match=r"rank 0's address did not come through MPI within 0.05 s"):
        wait_for(SimpleNamespace(Test=lambda: False), 0.05, "rank 0's address")
