"""A policy that chooses actions from validation accuracies: deep Q-learning over several streams (arXiv 2209.08660).

State: validation accuracies of the tasks so far, padded with zeros. Reward: their mean after the next task.
What is learnt on some streams is used on others without a search: 5 task trainings, as with equal shares.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.schedule_search.search import Search, Trainable, actions
from benchmarks.schedule_search.stream import NUM_TASKS, Action, Outcome, Prefix

HIDDEN, RATE, BATCH, MEMORY, TARGET_EVERY = 512, 1e-4, 32, 10_000, 500
EXPLORATION, LEAST_EXPLORATION, EXPLORING = 1.0, 0.02, 0.25  # the last: a share of the episodes
UPDATES = 20  # of the network for every task that is trained, which is what costs

CHOICES: list[Action] = [action for seen in range(1, NUM_TASKS) for action in actions(seen)]


@dataclass(frozen=True)
class _Step:
    """One action's outcome. state, next_state: float32 [T - 1]; seen: tasks at the next state, T if it was the last."""

    state: Tensor
    choice: int
    reward: float
    next_state: Tensor
    seen: int


class QPolicy:
    """Chooses the action of the largest value, by a network of the state. Deterministic once trained."""

    def __init__(self, seed: int) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layers = [nn.Linear(NUM_TASKS - 1, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()]
            self._network = nn.Sequential(*layers, nn.Linear(HIDDEN, len(CHOICES)))
        self._target = copy.deepcopy(self._network)
        self._optimizer = torch.optim.Adam(self._network.parameters(), RATE)
        self._steps: deque[_Step] = deque(maxlen=MEMORY)
        self._rng = np.random.default_rng((seed, 3))
        self._updates = 0

    def act(self, outcome: Outcome, exploration: float = 0.0) -> int:
        """The index in CHOICES of an action after so many tasks as the outcome has accuracies."""
        allowed = np.flatnonzero(_allowed(len(outcome.validation)).numpy())
        if self._rng.random() < exploration:
            return int(self._rng.choice(allowed))
        with torch.no_grad():
            values = self._network(_state(outcome)[None])[0].masked_fill(~_allowed(len(outcome.validation)), -torch.inf)
        return int(values.argmax())

    def run(self, stream: Trainable, exploration: float = 0.0) -> Prefix:
        """One episode; its schedule. What it saw is learnt from if it explored."""
        prefix: Prefix = ()
        outcome = stream.after(prefix)
        while len(prefix) < NUM_TASKS - 1:
            choice = self.act(outcome, exploration)
            prefix = (*prefix, CHOICES[choice])
            after = stream.after(prefix)
            if exploration > 0:
                seen = len(after.validation)
                self._steps.append(_Step(_state(outcome), choice, after.reward, _state(after), seen))
                for _ in range(UPDATES):
                    self._update()
            outcome = after
        return prefix

    def _update(self) -> None:
        if len(self._steps) < BATCH:
            return
        steps = [self._steps[index] for index in self._rng.integers(len(self._steps), size=BATCH)]
        is_last = torch.tensor([step.seen == NUM_TASKS for step in steps])
        allowed = torch.stack([_allowed(min(step.seen, NUM_TASKS - 1)) for step in steps])
        with torch.no_grad():
            following = self._target(torch.stack([step.next_state for step in steps]))
            best = following.masked_fill(~allowed, -torch.inf).amax(dim=1).masked_fill(is_last, 0.0)
            wanted = torch.tensor([step.reward for step in steps]) + best
        values = self._network(torch.stack([step.state for step in steps]))
        chosen = values[torch.arange(BATCH), torch.tensor([step.choice for step in steps])]
        self._optimizer.zero_grad()
        F.smooth_l1_loss(chosen, wanted).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._updates += 1
        if self._updates % TARGET_EVERY == 0:
            self._target.load_state_dict(self._network.state_dict())


def train_policy(streams: Sequence[Trainable], episodes: int, seed: int) -> tuple[QPolicy, int]:
    """A policy trained for so many episodes, which take turns on the streams; and the task trainings that it took."""
    policy, searches = QPolicy(seed), [Search(stream) for stream in streams]
    for episode in range(episodes):
        search = searches[episode % len(streams)]
        passed = min(episode / (EXPLORING * episodes), 1.0)
        schedule = policy.run(search.stream, EXPLORATION + passed * (LEAST_EXPLORATION - EXPLORATION))
        search.try_schedule(schedule)
    return policy, sum(len(search.asked) for search in searches)


def _state(outcome: Outcome) -> Tensor:
    seen = outcome.validation[: NUM_TASKS - 1]
    return torch.tensor([*seen, *[0.0] * (NUM_TASKS - 1 - len(seen))])


def _allowed(num_seen: int) -> Tensor:
    return torch.tensor([len(action) == num_seen for action in CHOICES])
