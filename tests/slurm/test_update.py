"""`drb update` as a job: srun starts its ranks on two nodes, and it is one update."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from programs import ROOT
from slurm.jobs import Cluster, Job, call

from drb.runs.lineage.record import read_lineage

SETTINGS = "model=mlp training.epochs=2 training.batch_size=8 rehearsal.capacity=40 rehearsal.exemplars=8 tracking=none"


@pytest.mark.full
def test_two_nodes_make_one_version_a_day(cluster: Cluster):
    state = cluster.folder / "lineage"
    for number in (1, 2):
        file = cluster.folder / f"day{number}.npz"
        rng = np.random.default_rng(number)
        np.savez(file, image=rng.normal(size=(80, 12)).astype(np.float32), label=np.arange(80) % (2 + number))
        update = f"srun {sys.executable} -m drb.update --state {state} --data {file} {SETTINGS}"
        options = ["--parsable", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-task=1"]
        exports = f"--export=ALL,PYTHONPATH={ROOT},OMP_NUM_THREADS=1"
        job = Job(call("sbatch", *options, exports, "--wrap", update, cwd=cluster.folder).strip(), cluster.folder)
        assert job.wait(120)["JobState"] == "COMPLETED", job.output
    versions = read_lineage(state).versions
    assert [version.environment["world_size"] for version in versions] == [2, 2]
    assert [version.promoted for version in versions] == [True, True]
