"""DER++ in a loop of one's own: late fields, two draws per step, and a buffer that is rewritten.

Late fields (here: logits) exist after the forward pass only. `step` returns the exemplars by themselves, with the
fields that they were stored with; `draws=2` gives two independent draws, one behind the other.

    python examples/derpp_loop.py
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from drb import Field, OwnerSampler, Rehearsal, with_ids

TASKS = [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
SPEC = {
    "image": Field(torch.uint8, (1, 8, 8)),
    "label": Field(torch.int64),
    "logits": Field(torch.float32, (10,), late=True),
}


def main() -> float:
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.uint8)[:, None]
    labels = torch.tensor(digits.target, dtype=torch.int64)
    is_test = torch.arange(len(labels)) % 5 == 0
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)

    with Rehearsal(capacity=200, exemplars=8, draws=2, spec=SPEC, seed=0) as rehearsal:
        for task, classes in enumerate(TASKS):
            mine = torch.isin(labels, torch.tensor(classes)) & ~is_test
            dataset = TensorDataset(images[mine], labels[mine])
            loader = DataLoader(
                with_ids(dataset, first_id=10_000 * task), batch_size=8, sampler=OwnerSampler(dataset, seed=task)
            )
            for _ in range(8):
                for minibatch in loader:
                    exemplars = rehearsal.step(minibatch)  # of earlier steps; the minibatch itself is not changed
                    logits = network(minibatch["image"] / 16)
                    rehearsal.attach(logits=logits)  # the late field of this minibatch: it can be stored now
                    loss = F.cross_entropy(logits, minibatch["label"])
                    if exemplars is not None and len(exemplars):
                        past, half = exemplars.fields, len(exemplars) // 2  # each draw has up to 8 exemplars
                        outputs = network(past["image"] / 16)
                        loss = loss + 0.5 * F.mse_loss(outputs[:half], past["logits"][:half])
                        loss = loss + 0.5 * F.cross_entropy(outputs[half:], past["label"][half:])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            with torch.inference_mode(), rehearsal.edit() as edit:  # all logits anew, by the network as it is now
                for stored in edit.stored("image", rows=256):
                    edit.rewrite("logits", network(stored.fields["image"] / 16), stored.sample_id)
    with torch.inference_mode():
        return float((network(images[is_test] / 16).argmax(1) == labels[is_test]).float().mean())


if __name__ == "__main__":
    print(f"accuracy {main():.1%} on all classes")
