"""EWC, online EWC, SI, MAS, RWalk and SCP by hand: one sample at a time, float64."""

from __future__ import annotations

import torch
from torch import nn
from training.terms.replay import Reference, Vector, gradient_of, padded, samples_of, values

from drb.data.scenarios.task import Task
from drb.seeding import derive_seed


class Ewc(Reference):
    """A penalty of its own for each task."""

    factor = 0.5

    def __init__(self, strength: float, fisher: str = "empirical") -> None:
        super().__init__(strength)
        self.fisher = fisher

    def end_task(self, network: nn.Module, task: Task) -> None:
        self.penalties.append((self.information(network, task), values(network)))

    def information(self, network: nn.Module, task: Task) -> Vector:
        samples = samples_of(task)
        total = [torch.zeros_like(w) for w in values(network)]
        for image, label in samples:
            logs = network(image).log_softmax(1)[0]
            targets = [int(label)] if self.fisher == "empirical" else range(len(logs))
            for target in targets:
                share = 1.0 if self.fisher == "empirical" else float(logs[target].detach().exp())
                for sums, g in zip(total, gradient_of(logs[target], network, keep=True), strict=True):
                    sums += share * g**2
        return [t / len(samples) for t in total]


class OnlineEwc(Ewc):
    def __init__(self, strength: float, gamma: float) -> None:
        super().__init__(strength)
        self.gamma = gamma

    def end_task(self, network: nn.Module, task: Task) -> None:
        found = self.information(network, task)
        if self.penalties:
            old = padded(self.penalties[0][0], found)
            found = [self.gamma * o + f for o, f in zip(old, found, strict=True)]
        self.penalties = [(found, values(network))]


class Mas(Reference):
    def __init__(self, strength: float, gamma: float) -> None:
        super().__init__(strength)
        self.gamma = gamma

    def end_task(self, network: nn.Module, task: Task) -> None:
        samples = samples_of(task)
        found = [torch.zeros_like(w) for w in values(network)]
        for image, _ in samples:
            gradient = gradient_of((network(image) ** 2).sum(), network)
            found = [f + g.abs() / len(samples) for f, g in zip(found, gradient, strict=True)]
        if self.penalties:
            old = padded(self.penalties[0][0], found)
            found = [self.gamma * o + f for o, f in zip(old, found, strict=True)]
        self.penalties = [(found, values(network))]


class Scp(Reference):
    def __init__(self, strength: float, directions: int, seed: int) -> None:
        super().__init__(strength)
        self.directions, self.seed = directions, seed

    def end_task(self, network: nn.Module, task: Task) -> None:
        mean = torch.stack([network(image)[0] for image, _ in samples_of(task)]).mean(0)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "directions", task.index))
        found = [torch.zeros_like(w) for w in values(network)]
        for direction in torch.randn(self.directions, len(mean), generator=generator).double():
            gradient = gradient_of(direction @ mean / direction.norm(), network, keep=True)
            found = [f + g**2 / self.directions for f, g in zip(found, gradient, strict=True)]
        if self.penalties:
            found = [f + o for f, o in zip(found, padded(self.penalties[0][0], found), strict=True)]
        self.penalties = [(found, values(network))]


class Si(Reference):
    def __init__(self, strength: float, damping: float, start: Vector) -> None:
        super().__init__(strength)
        self.damping = damping
        self.start, self.path = start, [torch.zeros_like(s) for s in start]
        self.importance = self.path

    def stepped(self, gradient: Vector, before: Vector, after: Vector) -> None:
        self.start = _begun(self.start, before)
        path = padded(self.path, before)
        self.path = [p - g * (a - b) for p, g, a, b in zip(path, gradient, after, before, strict=True)]

    def end_task(self, network: nn.Module, task: Task) -> None:
        after = values(network)
        found = [
            p.clamp(min=0) / ((a - s) ** 2 + self.damping) for p, a, s in zip(self.path, after, self.start, strict=True)
        ]
        old = padded(self.importance, after)
        self.importance = [f + o for f, o in zip(found, old, strict=True)]
        self.start, self.path = after, [torch.zeros_like(a) for a in after]
        self.penalties = [(self.importance, after)]


class RWalk(Reference):
    def __init__(self, strength: float, alpha: float, interval: int, damping: float) -> None:
        super().__init__(strength)
        self.alpha, self.interval, self.damping = alpha, interval, damping
        self.fisher: Vector = []
        self.moves: list[tuple[Vector, Vector, Vector]] = []  # of the interval: gradient, before, after
        self.score: Vector = []
        self.past: Vector = []

    def stepped(self, gradient: Vector, before: Vector, after: Vector) -> None:
        self.fisher = padded(self.fisher or [torch.zeros_like(g) for g in gradient], gradient)
        self.fisher = [self.alpha * g**2 + (1 - self.alpha) * f for g, f in zip(gradient, self.fisher, strict=True)]
        self.moves.append((gradient, before, after))
        if len(self.moves) == self.interval:
            self._end_interval()

    def _end_interval(self) -> None:
        for place, fisher in enumerate(self.fisher):
            lowered = sum(-(g[place] * (a[place] - b[place])) for g, b, a in self.moves)
            moved = self.moves[-1][2][place] - self.moves[0][1][place] if self.moves else torch.zeros_like(fisher)
            grown = lowered / (0.5 * fisher * moved**2 + self.damping) if self.moves else torch.zeros_like(fisher)
            if place == len(self.score):
                self.score.append(torch.zeros_like(fisher))
            self.score[place] = self.score[place] + grown
        self.moves = []

    def end_task(self, network: nn.Module, task: Task) -> None:
        self._end_interval()
        past = padded(self.past, self.score) if self.past else self.score
        self.past = [(p + s) / 2 for p, s in zip(past, self.score, strict=True)]
        self.score = []
        most_fisher = max(float(f.max()) for f in self.fisher)
        most_score = max(float(s.max()) for s in self.past)
        importance = [
            f / most_fisher + s.clamp(min=0) / most_score for f, s in zip(self.fisher, self.past, strict=True)
        ]
        self.penalties = [(importance, values(network))]


def _begun(start: Vector, before: Vector) -> Vector:
    """The weights at a task's begin, with the rows that the head has gained as they are."""
    grown = [b.clone() for b in before]
    for new, old in zip(grown, start, strict=True):
        new[: len(old)] = old
    return grown
