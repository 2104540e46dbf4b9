"""Steps that are one CUDA graph, or compiled with CUDA graphs, with drb's exemplars in their batches. One GPU.

    python examples/cuda_graph.py

Graphs want batches of one shape at one address. `min_fill` gives the shape: there are no exemplars until the buffer
holds so many samples, and always r of them from then on. What `extend` returns lies in one of two places in turn, so a
batch is copied to where the graph reads it, which takes a GPU microseconds. `extend` itself stays outside of the graph,
because admission and drawing are decided on the host.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drb import Minibatch, Rehearsal

ROWS, EXEMPLARS, CLASSES, SIDE = 56, 8, 10, 32
Step = Callable[[Minibatch], Tensor]


class Graphed:
    """A step that is captured at the first batch and replayed from then on. The loss is overwritten by the next."""

    def __init__(self, learn: Step, update: Callable[[], None], forget_gradients: Callable[[], None]) -> None:
        self._learn, self._update, self._forget_gradients = learn, update, forget_gradients
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: Minibatch = {}

    def __call__(self, batch: Minibatch) -> Tensor:
        if self._graph is None:
            self._graph = self._capture(batch)
        for name, value in self._batch.items():
            value.copy_(batch[name])
        self._graph.replay()
        return self._loss

    def _capture(self, batch: Minibatch) -> torch.cuda.CUDAGraph:
        self._batch = {name: value.clone() for name, value in batch.items()}
        warm_up, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        warm_up.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm_up):
            for _ in range(3):
                self._learn(self._batch)
        torch.cuda.current_stream().wait_stream(warm_up)
        self._forget_gradients()
        # thread_local: drb's worker makes calls of its own meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._loss = self._learn(self._batch)
            self._update()
        return graph


def stream(device: torch.device, steps: int) -> Iterator[Minibatch]:
    """Minibatches whose label can be told from the image; [56, …] each."""
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        ids = torch.arange(step * ROWS, (step + 1) * ROWS)
        label = ids % CLASSES
        noise = torch.randint(0, 100, (ROWS, 3, SIDE, SIDE), generator=generator)
        image = (noise + 15 * label[:, None, None, None]).to(torch.uint8)
        yield {"image": image.to(device), "label": label.to(device), "sample_id": ids.to(device)}


def train(way: str, device: torch.device, steps: int) -> tuple[list[float], float]:
    """The loss of every step that had exemplars, and seconds per step after the first of them.

    way: eager, compiled (torch.compile with mode="reduce-overhead") or graph (forward, backward and update).
    """
    if way != "eager" and device.type != "cuda":
        raise SystemExit(f"{way}: CUDA graphs need a GPU, and torch sees none; eager runs everywhere")
    torch.manual_seed(0)
    features = 16 * (SIDE // 4) ** 2
    layers = [nn.Conv2d(3, 16, 3, stride=4, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(features, CLASSES)]
    network = nn.Sequential(*layers).to(device)
    forward = torch.compile(network, mode="reduce-overhead") if way == "compiled" else network
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)

    def learn(batch: Minibatch) -> Tensor:
        loss = F.cross_entropy(forward(batch["image"].float() / 255), batch["label"])
        loss.backward()
        return loss.detach()

    def eager(batch: Minibatch) -> Tensor:
        optimizer.zero_grad()
        loss = learn(batch)
        optimizer.step()
        return loss

    step: Step = Graphed(learn, optimizer.step, optimizer.zero_grad) if way == "graph" else eager
    losses: list[Tensor] = []
    start = 0.0
    with Rehearsal(500, EXEMPLARS, min_fill=EXEMPLARS, device=device, verbose=False) as rehearsal:
        for minibatch in stream(device, steps):
            batch = rehearsal.extend(minibatch)
            if len(batch["label"]) == ROWS:  # no exemplars yet: another shape
                eager(batch)
                continue
            losses.append(step(batch).clone())
            if len(losses) == 1:
                start = time.perf_counter()
        values = torch.stack(losses).tolist()  # waits for the GPU
    return values, (time.perf_counter() - start) / max(len(losses) - 1, 1)


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ways = ("eager", "compiled", "graph") if device.type == "cuda" else ("eager",)
    if len(ways) == 1:
        print("torch sees no GPU: without CUDA graphs")
    for way in ways:
        losses, seconds = train(way, device, 300)
        print(f"{way}: loss {losses[0]:.3f} to {losses[-1]:.3f}, {1e3 * seconds:.2f} ms a step")


if __name__ == "__main__":
    main()
