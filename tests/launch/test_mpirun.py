"""`mpiexec -n N python -m drb.train …` with nothing else set; without MPI, one sentence."""

from __future__ import annotations

import json
import sys

import pytest
from mpiexec import MPIEXEC, missing, run_program
from programs import start_ranks
from warm_python import warm_python

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "MPI is there")

DIGITS = ["experiment=digits", "tracking=none", "device=cpu", "training.epochs=1"]
TRAIN = ["-m", "drb.train", *DIGITS]
MPIRUN = [MPIEXEC, "-n", "2", sys.executable]


def test_the_same_seed_gives_the_same_accuracies_as_gloo(tmp_path):
    gloo = start_ranks(2, [*DIGITS, "rehearsal.exchange=collective", "hydra.run.dir=gloo"], tmp_path)
    job = [*TRAIN, "rehearsal.exchange=rma", "hydra.run.dir=mpi"]
    # one rank is a cold Python: sets have another order on it, as they have on a user's ranks
    mpirun = [MPIEXEC, "-n", "1", sys.executable, *job, ":", "-n", "1", warm_python(), *job]
    code, output = run_program(mpirun, cwd=tmp_path)
    assert code == 0, output
    assert output.count("\nafter task 5") == 1  # rank 0 alone speaks
    assert [rank.wait().code for rank in gloo] == [0, 0]
    mpi, collective = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("mpi", "gloo")]
    assert mpi["world_size"] == 2
    assert mpi["rehearsal"]["exchange"] == "rma"
    for key in ("accuracy_matrix", "loss_matrix", "baselines"):
        assert mpi[key] == collective[key]


def test_without_mpi4py_one_sentence_says_so(tmp_path):
    (tmp_path / "mpi4py.py").write_text("raise ModuleNotFoundError(\"No module named 'mpi4py'\")\n")
    program = "import sys; sys.path.insert(0, '.'); from drb.train import main; sys.exit(main(sys.argv[1:]))"
    code, output = run_program([*MPIRUN, "-c", program, *DIGITS], cwd=tmp_path)
    assert code != 0
    assert output.count("drb: error:") == 1
    assert "a start by mpirun (MPICH) needs mpi4py, which is not installed: pip install 'drb-train[mpi]'" in output


def test_a_launcher_of_another_mpi_is_not_many_worlds_of_one(tmp_path):
    """A rank of Open MPI's mpirun with mpi4py on MPICH, which would end the process in MPI_Init."""
    env = {f"OMPI_COMM_WORLD_{name}": value for name, value in (("RANK", "0"), ("SIZE", "4"), ("LOCAL_RANK", "0"))}
    code, output = run_program([sys.executable, *TRAIN], env=env, cwd=tmp_path)
    assert code == 1
    assert "mpirun (Open MPI) started this rank, but mpi4py's library is MPICH" in output
    assert "after task" not in output
