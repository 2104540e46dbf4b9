"""A plain DDP training loop with rehearsal.

Rehearsal takes a `with` block and one call of `extend`.

    torchrun --nproc-per-node=2 examples/plain_ddp.py
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from drb import OwnerSampler, Rehearsal, with_ids

TASKS = [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.uint8)[:, None]  # raw: what is stored is scaled after rehearsal
    labels = torch.tensor(digits.target, dtype=torch.int64)
    is_test = torch.arange(len(labels)) % 5 == 0

    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    model = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    with Rehearsal(capacity=100, exemplars=8, seed=0) as rehearsal:  # both per rank
        for task, classes in enumerate(TASKS, 1):
            mine = torch.isin(labels, torch.tensor(classes)) & ~is_test
            dataset = TensorDataset(images[mine], labels[mine])
            sampler = OwnerSampler(dataset, seed=task)
            loader = DataLoader(with_ids(dataset, first_id=10_000 * task), batch_size=8, sampler=sampler)
            for _ in range(8):
                for minibatch in loader:
                    batch = rehearsal.extend(minibatch)  # b + r rows
                    loss = F.cross_entropy(model(batch["image"] / 16), batch["label"])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()

            seen = torch.isin(labels, torch.tensor(TASKS[:task]).flatten()) & is_test
            with torch.inference_mode():
                accuracy = (network(images[seen] / 16).argmax(1) == labels[seen]).float().mean()
            if dist.get_rank() == 0:
                print(f"after task {task}: accuracy {accuracy:.1%} on all classes so far", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
