"""Two nodes with a slow network between them: four ranks that share memory two by two, for real.

Each node is a network namespace with a host name of its own, so nothing in drb knows that it is one machine.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from exchange.networks.link import can_join, joined_nodes
from programs import TRAIN, Running, start_ranks
from warm_python import warm_python

RUN = ["experiment=digits", "tracking=none", "scenario.num_tasks=2", "training.epochs=2"]
RESULTS = ("accuracy_matrix", "acc", "forgetting", "samples", "steps", "world_size")


def results(folder: Path) -> dict[str, object]:
    summary = json.loads((folder / "summary.json").read_text())
    return {key: summary[key] for key in RESULTS}


def start(command: list[str], folder: Path, rank: int, address: str, **environment: str) -> Running:
    place = {"RANK": rank, "WORLD_SIZE": 4, "LOCAL_RANK": rank % 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": address}
    return Running(command, folder, MASTER_PORT="29517", **{k: str(v) for k, v in place.items()}, **environment)


@pytest.mark.skipif(not can_join(), reason="network namespaces need root and /dev/net/tun")
@pytest.mark.timeout(240)
def test_ranks_of_two_nodes_share_memory_inside_and_learn_what_collective_learns(tmp_path: Path) -> None:
    with joined_nodes(delay_s=0.002) as nodes:
        ranks = [
            start(
                nodes[rank // 2].command(
                    warm_python(), *TRAIN[1:], *RUN, f"hydra.run.dir={tmp_path}/nodes", "start_timeout_s=60"
                ),
                tmp_path,
                rank,
                nodes[0].address,
                GLOO_SOCKET_IFNAME="tun0",
            )
            for rank in range(4)
        ]
        ended = [rank.wait(150) for rank in ranks]
        carried = [node.received for node in nodes]
    assert [e.code for e in ended] == [0] * 4, "\n".join(e.err for e in ended)
    assert "exchange hierarchical (auto: 4 ranks on 2 nodes)" in ended[0].err + ended[0].out
    assert min(carried) > 100_000  # gradients and rows did go over the link

    local = [*RUN, f"hydra.run.dir={tmp_path}/local", "rehearsal.exchange=collective"]
    assert [rank.wait(100).code for rank in start_ranks(4, local, tmp_path)] == [0] * 4
    assert results(tmp_path / "nodes") == results(tmp_path / "local")
