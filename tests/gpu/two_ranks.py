"""Run by torchrun on two GPUs: DDP over NCCL, a rehearsal whose rows travel by `exchange`; what ranks saw, as JSON.

torchrun --standalone --nproc-per-node=2 tests/gpu/two_ranks.py shared 40
"""

from __future__ import annotations

import hashlib
import json
import sys

import torch
import torch.distributed as dist
from rehearsal.ranks.streams import NUM_CLASSES, ids_of_rank, num_wrong, records
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from drb import Rehearsal
from drb.distributed.world import detect_world, open_world


def train(exchange: str, steps: int) -> dict[str, object]:
    """exchange: or "device", for rows in the memory of the GPUs."""
    world = detect_world("cuda")
    with open_world(world, timeout_s=120):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 256), torch.nn.Linear(256, NUM_CLASSES))
        model = DistributedDataParallel(network.to(world.device), device_ids=[world.device], bucket_cap_mb=1)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        seen, wrong, exemplars, ids = hashlib.sha256(), 0, 0, ids_of_rank(world.rank, 2, 4000)
        options = {"exchange": exchange, "storage": "host", "asynchronous": True, "verbose": False}
        if exchange == "device":
            options |= {"exchange": "auto", "storage": "device"}
        with Rehearsal(64, 8, seed=1, depth=2, **options) as rehearsal:
            for t in range(steps):
                minibatch = records(torch.from_numpy(ids[t * 12 : t * 12 + 12]))
                batch = rehearsal.extend({name: value.to(world.device) for name, value in minibatch.items()})
                copies = {name: value.clone() for name, value in batch.items()}
                loss = cross_entropy(model(batch["image"].float()), batch["label"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                on_host = {name: value.cpu() for name, value in copies.items()}
                wrong += num_wrong(on_host)
                exemplars += int(on_host["rehearsed"].sum())
                seen.update(on_host["sample_id"].numpy().tobytes())
            stored = sorted(rehearsal.sample_ids().tolist())
        results: list[object] = [None, None]
        dist.all_gather_object(results, [seen.hexdigest(), wrong, exemplars, stored])
    return {"is_main": world.is_main, "results": results}


if __name__ == "__main__":
    outcome = train(sys.argv[1], int(sys.argv[2]))
    if outcome["is_main"]:
        print(json.dumps(outcome["results"]))
