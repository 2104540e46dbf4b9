"""Late fields: Dark Experience Replay (arXiv 2004.07211) in a training loop of your own.

DER stores what the network said of a sample, its logits, and asks it to say the same later. Logits exist only after the
forward pass, so they are a late field: declared in `spec=`, given with `attach`, and stored with their sample one step
later.

    python examples/late_fields.py
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from drb import Field, OwnerSampler, Rehearsal, with_ids

TASKS = [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
SPEC = {
    "image": (torch.uint8, (1, 8, 8)),
    "label": (torch.int64, ()),
    "logits": Field(torch.float32, (10,), late=True),
}
ALPHA = 0.5


def main() -> None:
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.uint8)[:, None]
    labels = torch.tensor(digits.target, dtype=torch.int64)
    is_test = torch.arange(len(labels)) % 5 == 0
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)

    with Rehearsal(capacity=200, exemplars=16, seed=0, spec=SPEC) as rehearsal:
        for task, classes in enumerate(TASKS, 1):
            mine = torch.isin(labels, torch.tensor(classes)) & ~is_test
            dataset = TensorDataset(images[mine], labels[mine])
            sampler = OwnerSampler(dataset, seed=task)
            loader = DataLoader(with_ids(dataset, first_id=10_000 * task), batch_size=16, sampler=sampler)
            for _ in range(8):
                for minibatch in loader:
                    exemplars = rehearsal.step(minibatch)  # by themselves; None until there are some
                    logits = network(minibatch["image"] / 16)
                    loss = F.cross_entropy(logits, minibatch["label"])
                    if exemplars is not None:
                        now = network(exemplars.fields["image"] / 16)
                        loss = loss + ALPHA * F.mse_loss(now, exemplars.fields["logits"])
                        loss = loss + ALPHA * F.cross_entropy(now, exemplars.fields["label"])  # DER++
                    rehearsal.attach(logits=logits.detach())
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()

            seen = torch.isin(labels, torch.tensor(TASKS[:task]).flatten()) & is_test
            with torch.inference_mode():
                accuracy = (network(images[seen] / 16).argmax(1) == labels[seen]).float().mean()
            print(f"after task {task}: accuracy {accuracy:.1%} on all classes so far", flush=True)


if __name__ == "__main__":
    main()
