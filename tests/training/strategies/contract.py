"""What every method promises on several ranks, whatever it does.

The mathematics of two ranks is that of one: `Alone` is a trainer of one rank that is given, step by step, the rows that
both ranks had, and the whole data at a task's end. It runs the same method, so that it needs no reference of its own.
"""

from __future__ import annotations

import io
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from training.method.replay import Pair
from training.method.runs import BATCH, EXEMPLARS, ODD_STEP, LoaderWithGaps, Watched, numbers_in
from training.parts import weights

from drb.data.loader import TaskLoader
from drb.training import Trainer
from drb.training.strategies import STRATEGIES
from drb.training.terms import TERMS
from drb.types import Minibatch

OPTIONS: dict[str, dict[str, Any]] = {
    "mir": {"candidates": 8},
    "derpp": {"alpha": 0.7},
    "ewc": {"strength": 5.0},
    "online_ewc": {"strength": 5.0, "gamma": 0.7},
    "si": {"strength": 0.5},
    "mas": {"strength": 0.5},
    "rwalk": {"strength": 0.5, "interval": 3, "damping": 1e-6},
    "scp": {"strength": 5.0, "directions": 5},
    "ema": {"momentum": 0.9},
    "mean_teacher": {"momentum": 0.9},
}


def make(strategy: str, *terms: str) -> tuple[Any, list[Any]]:
    """By name, with options of which a short run shows an effect."""
    return STRATEGIES.build(strategy, OPTIONS.get(strategy, {})), [
        TERMS.build(term, OPTIONS.get(term, {})) for term in terms
    ]


def parts_of(name: str) -> Any:
    """By a name such as `derpp+ewc+ema`."""
    return partial(make, *name.split("+"))


class RecordedLoader(LoaderWithGaps):
    """Gives the new rows of both ranks."""

    given: deque[Minibatch]

    def epoch(self, epoch: int, start: int = 0, *arguments: Any) -> Iterator[Minibatch]:
        for _ in range(self.num_batches):
            yield self.given.popleft()


class Alone(Watched):
    """One rank that trains on what all ranks were given.

    results: of the ranks, as `runs.run` gives them.
    """

    def __init__(self, results: Sequence[dict[str, Any]], parts: Any, **options: Any) -> None:
        options.pop("rehearsal", None)
        world_size = len(results)
        memory = {"capacity": 10 * world_size, "batch_size": world_size * (BATCH + 1)}
        super().__init__(0, 1, parts, rehearsal=memory, **options)
        self._world_size = world_size
        pairs: list[Pair] = list(zip(*(result["batches"] for result in results), strict=True))
        draws = self._components.method.draws
        self._extended = deque(joined(pair, draws.joined, draws.apart) for pair in pairs)
        new = [sum(batch["new"] for batch in pair) for pair in pairs]
        late = {*self._components.method.needs.late, "rehearsed"}
        self._new = deque(
            {name: field[:rows] for name, field in fields.items() if name not in late}
            for fields, rows in zip(self._extended, new, strict=True)
        )
        self._batches._extended = self._recorded  # type: ignore[method-assign]
        self._batches._num_exemplars = EXEMPLARS * world_size  # what was chosen is not chosen from

    def _recorded(self, minibatch: Minibatch, new_rows: int) -> Minibatch:
        if self.rehearsal is not None:
            self.rehearsal.step(minibatch)
        return self._extended.popleft()

    def _loader(self, source: Any, task: Any) -> TaskLoader:
        whole = Trainer._loader(self, source, task)
        loader = RecordedLoader(source, BATCH, rank=0, world_size=self._world_size, seed=whole._seed)
        loader.given = self._new
        return loader

    def _finish(self, task: Any, learner: Any, loader: TaskLoader) -> None:
        super()._finish(task, learner, Trainer._loader(self, task.train, task))


def joined(pair: Pair, joined_draws: int, apart_draws: int) -> Minibatch:
    """The rows of all ranks: new ones, then draw after draw."""
    parts: list[dict[str, Any]] = [{n: f[: b["new"]] for n, f in b["fields"].items()} for b in pair]
    for kind, draws in (("fields", joined_draws), ("apart", apart_draws)):
        for draw in range(draws):
            for batch in pair:
                start = batch["new"] if kind == "fields" else 0
                size = (len(batch[kind].get("label", ())) - start) // draws
                rows = slice(start + draw * size, start + (draw + 1) * size)
                parts.append({name: field[rows] for name, field in batch[kind].items()})
    names = max(parts, key=len)
    return {n: torch.from_numpy(np.concatenate([part[n] for part in parts if n in part])) for n in names}


def check(results: Sequence[dict[str, Any]], parts: Any, **options: Any) -> None:
    """The whole contract. results: of two ranks, as `runs.run` gives them."""
    check_equal_ranks(results)
    check_exchanged_once(results)
    check_resumed(results)
    check_as_one_rank(results, parts, **options)
    check_goes_on_alone(results, parts, **options)


def check_equal_ranks(results: Sequence[dict[str, Any]]) -> None:
    """Weights after every step, and what was learnt."""
    first = results[0]
    for other in results[1:]:
        assert other["digests"] == first["digests"], "weights differ between ranks"
        assert other["first"]["learnt"] == first["first"]["learnt"], "what was learnt differs between ranks"
    assert len(set(first["digests"])) == len(first["digests"]) > 6  # and every step moved them


def check_exchanged_once(results: Sequence[dict[str, Any]]) -> None:
    """The accumulated batches of a step exchange gradients once, at the last of them (`no_sync`)."""
    for result in results:
        batches = result["batches"]
        for batch, after in itertools.pairwise([*batches, {"step": None}]):
            assert batch["exchanges"] == (after["step"] != batch["step"]), f"in step {batch['step']}"


def check_resumed(results: Sequence[dict[str, Any]]) -> None:
    """A run that goes on after an odd step ends bit-identically."""
    for result in results:
        assert result["again"] == result["first"]
        assert result["digests_again"] == result["digests"][ODD_STEP:]


def check_as_one_rank(results: Sequence[dict[str, Any]], parts: Any, tolerance: float = 1e-5, **options: Any) -> None:
    """The weights, the evaluated network, what was learnt and the chosen exemplars are those of `Alone`."""
    alone = Alone(results, parts, **options)
    alone.run()
    method = alone._components.method
    found = [weights(alone.network), weights(method.evaluated_network(alone.network))]
    learnt = numbers_in(method.state_dict())
    if alone.rehearsal is not None:
        if method.needs.admission == "closed":
            stored = [i for result in results for i in result["first"]["ids"]]
            assert sorted(stored) == sorted(alone.rehearsal.sample_ids().tolist()), "other exemplars were chosen"
        alone.rehearsal.close()
    for name, expected in zip(("weights", "evaluated"), found, strict=True):
        for parameter, value in expected.items():
            np.testing.assert_allclose(results[0][name][parameter], value, rtol=0, atol=tolerance)
    for ours, expected in zip(results[0]["learnt"], learnt, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-2, atol=tolerance)


def check_goes_on_alone(results: Sequence[dict[str, Any]], parts: Any, **options: Any) -> None:
    """One rank goes on from the states of both after an odd step: with all exemplars, to the end of the stream."""
    states = [torch.load(io.BytesIO(result["saved"]), weights_only=False) for result in results]
    memory = {**options.pop("rehearsal", {}), "capacity": 10 * len(results), "batch_size": len(results) * (BATCH + 1)}
    trainer = Watched(0, 1, parts, rehearsal=memory, **options)
    trainer.load_state_dict({**states[0], "ranks": [state["rank"] for state in states]})
    trainer.run()
    assert all(bool(torch.isfinite(value).all()) for value in trainer.network.state_dict().values())
    assert [len(row) for row in trainer.scores.main.rows()] == [2, 2]
    assert len(trainer.digests) > 3
    if trainer.rehearsal is not None:
        assert len(trainer.rehearsal.sample_ids()) == 10 * len(results)
        trainer.rehearsal.close()
