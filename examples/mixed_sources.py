"""A base and what is new, mixed three to one, in a loop of one's own; then stopped, and gone on with a third source.

At the end it prints how many samples each source gave, and how far that was from what was asked for.

    python examples/mixed_sources.py
"""

from __future__ import annotations

import json

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import drb
from drb.data.mix import mixture, samples_of_step, steps_of_sample


def numbers(count: int, centre: float) -> TensorDataset:
    return TensorDataset(torch.randn(count, 8) + centre, torch.randint(0, 3, (count,)))


def main() -> None:
    torch.manual_seed(0)
    base, new, weak = numbers(1000, 0.0), numbers(200, 1.0), numbers(50, 2.0)
    model = torch.nn.Linear(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def train(mixed: drb.MixedSource, steps: int) -> None:
        for batch in DataLoader(mixed, batch_sampler=mixed.sampler(steps=steps)):
            # on W ranks: reduction="sum" times W / 64, since ranks may have a few samples more or fewer
            loss = cross_entropy(model(batch["image"]), batch["label"], reduction="sum") / 64
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    mixed = drb.MixedSource([("new", new, 3), ("base", base, 1)], batch_size=64, seed=0)
    train(mixed, steps=20)
    saved = json.dumps(mixed.state_dict(step=20))

    mixed = drb.MixedSource([("new", new, 2), ("base", base, 1), ("weak", weak, 1)], batch_size=64, seed=0)
    mixed.load_state_dict(json.loads(saved), changes="allow")
    train(mixed, steps=10)

    print(f"the state: {len(json.dumps(mixed.state_dict(step=30)))} bytes")
    print("step 25 had", ", ".join(f"{name} {sample}" for name, sample in samples_of_step(mixed.mix, 25)[:3]), "…")
    print("base 17 was trained in the steps", steps_of_sample(mixed.mix, "base", 17, steps=30).tolist())
    for each in mixture(mixed.mix, steps=30):
        print(f"{each.name}: {each.served} samples, {each.asked:.1f} asked for, at most {each.worst:.2f} off")


if __name__ == "__main__":
    main()
