"""A two-node Slurm cluster for the session, and jobs on it. Where Slurm or root is missing the tests are skipped."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest
from programs import ROOT
from slurm.jobs import Cluster

_NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    missing = [program for program in _NEEDED if shutil.which(program) is None]
    if missing:
        pytest.skip(f"Slurm is not installed: no {', '.join(missing)} (root: tests/slurm/cluster.sh install)")
    if os.geteuid() != 0:
        pytest.skip("a throw-away Slurm cluster needs root")
    folder = tmp_path_factory.mktemp("slurm")
    ports = _free_ports(4)
    settings = {
        "DIR": str(folder / "cluster"),
        "PREFIX": f"drb{os.getpid()}n",
        "CPUS": str(max(8, os.cpu_count() or 1)),
        "CTLD_PORT": str(ports[0]),
        "SLURMD_PORTS": " ".join(map(str, ports[1:])),
        "OWNER": str(os.getpid()),
    }
    environment = {**os.environ, **settings}
    script = str(ROOT / "tests" / "slurm" / "cluster.sh")
    try:
        subprocess.run([script, "up"], env=environment, check=True, timeout=60)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(folder / "cluster" / "etc" / "slurm.conf"))
            yield Cluster(folder)
    finally:
        subprocess.run([script, "down"], env=environment, check=True, timeout=60)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
