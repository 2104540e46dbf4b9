"""exchange=rma on ranks that a real mpiexec has started: the contract of all exchanges, and the same results."""

from __future__ import annotations

import pytest
from distributed.test_equality import CASES, train
from distributed.test_exchange_contract import use
from mpi.launch import missing, run_mpi
from ranks import run_ranks

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "MPI is there")


@pytest.mark.parametrize("world_size", [2, 4])
def test_contract_and_equality_with_collective(world_size, tmp_path):
    cases = CASES if world_size == 2 else CASES[:1]
    calls = [(train, (asynchronous, "rma", *case, asynchronous)) for case in cases for asynchronous in (True, False)]
    contract, *trained = run_mpi(world_size, (use, ("rma",)), *calls, tmp_path=tmp_path)
    assert contract == [[]] * world_size
    for case, (inline, asynchronous) in zip(cases, zip(trained[::2], trained[1::2], strict=True), strict=True):
        expected = run_ranks(train, world_size, False, "collective", *case, False)
        assert inline == asynchronous == expected
