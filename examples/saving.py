"""Saving: a training loop of your own that is saved, and goes on bit for bit when it is started again.

What the rehearsal must remember is in its `state_dict`, one per rank. `torch.load` reads it like weights: nothing
but data is unpickled. `drb.rehearsal.dcp` is for torch.distributed.checkpoint.

    torchrun --nproc-per-node=2 examples/saving.py FOLDER     # started again, it goes on after the last task it saved
"""

import hashlib
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from drb import OwnerSampler, Rehearsal, with_ids

TASKS = [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]


def main(folder: Path, tasks: int = len(TASKS)) -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.uint8)[:, None]
    labels = torch.tensor(digits.target, dtype=torch.int64)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    model = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    file = folder / f"rank-{dist.get_rank()}.pt"  # the rehearsal's state is this rank's own

    content = hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes())
    data = f"digits {content.hexdigest()[:16]}"  # a state of other data is refused

    with Rehearsal(capacity=100, exemplars=8, seed=0, data=data, verbose=False) as rehearsal:
        done = 0
        if file.exists():
            saved = torch.load(file)
            network.load_state_dict(saved["network"])
            optimizer.load_state_dict(saved["optimizer"])
            rehearsal.load_state_dict(saved["rehearsal"])  # before the first minibatch
            done = saved["tasks"]
        for task, classes in list(enumerate(TASKS[:tasks], 1))[done:]:
            mine = torch.isin(labels, torch.tensor(classes))
            dataset = TensorDataset(images[mine], labels[mine])
            sampler = OwnerSampler(dataset, seed=task)
            loader = DataLoader(with_ids(dataset, first_id=10_000 * task), batch_size=8, sampler=sampler)
            for minibatch in loader:
                batch = rehearsal.extend(minibatch)
                loss = F.cross_entropy(model(batch["image"] / 16), batch["label"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "rehearsal": rehearsal.state_dict(), "tasks": task}, file.with_suffix(".new"))
            dist.barrier()  # all ranks have written before any replaces what it had
            file.with_suffix(".new").replace(file)
            if dist.get_rank() == 0:
                print(f"after task {task}: loss {loss.item()!r}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
