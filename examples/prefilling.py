"""Prefilling: start with buffers that are filled from data the network was trained on before.

A network that was trained without drb has no buffer. Offer it the old data once, without training, before the new data
comes: `extend` stores what admission chooses, and its result is not used.

    python examples/prefilling.py
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from drb import OwnerSampler, Rehearsal, with_ids


def main() -> None:
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.uint8)[:, None]
    labels = torch.tensor(digits.target, dtype=torch.int64)
    is_old, is_test = labels < 5, torch.arange(len(labels)) % 5 == 0
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)

    def loader_of(chosen: Tensor, first_id: int) -> DataLoader:
        dataset = TensorDataset(images[chosen], labels[chosen])
        return DataLoader(with_ids(dataset, first_id), batch_size=16, sampler=OwnerSampler(dataset, seed=first_id))

    def train(batch: dict[str, Tensor]) -> None:
        loss = F.cross_entropy(network(batch["image"] / 16), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def accuracy(chosen: Tensor) -> float:
        with torch.inference_mode():
            return (network(images[chosen] / 16).argmax(1) == labels[chosen]).float().mean().item()

    old, new = loader_of(is_old & ~is_test, 0), loader_of(~is_old & ~is_test, 10_000)
    for _ in range(8):  # in a program that knew nothing of drb
        for minibatch in old:
            train(minibatch)
    print(f"before: accuracy {accuracy(is_old & is_test):.1%} on the old classes", flush=True)

    with Rehearsal(capacity=200, exemplars=16, seed=0) as rehearsal:
        for minibatch in old:
            rehearsal.extend(minibatch)  # stored, and not trained on
        for _ in range(8):
            for minibatch in new:
                train(rehearsal.extend(minibatch))
    for name, chosen in (("old", is_old), ("new", ~is_old)):
        print(f"after: accuracy {accuracy(chosen & is_test):.1%} on the {name} classes", flush=True)


if __name__ == "__main__":
    main()
