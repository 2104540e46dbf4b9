"""A task as a method sees it at its begin and its end: the network's parameters, and sums over the task's data.

Every rank goes through its own part of the data; sums and counts are added up over the ranks, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

from drb.data.scenarios.task import Task
from drb.distributed.reduction import gather_rows, sum_over_ranks, values_of_first_rank
from drb.training.method.parameters import ParameterState, ParameterVector
from drb.training.method.structure import count_rows, map_tensors, rows_of
from drb.types import Minibatch

if TYPE_CHECKING:
    from drb.rehearsal.edit import Edit
    from drb.training.components import Components

_BYTES_ON_CPU, _BYTES_ON_GPU = 16 << 20, 256 << 20  # of the gradients that are held at once


class CurrentTask:
    """A task at its begin.

    index: counted from 0. classes: its labels.
    network: the bare network, whose head has grown already.
    """

    def __init__(self, task: Task, network: nn.Module) -> None:
        self.index = task.index
        self.name = task.name
        self.classes = task.classes
        self.network = network

    @property
    def num_outputs(self) -> int:
        """Outputs of the network's head."""
        return int(self.network.num_classes)  # type: ignore[arg-type]

    @property
    def is_first(self) -> bool:
        return self.index == 0

    def zeros(self) -> ParameterState:
        """A vector of zeros; entries that a growing head adds later are 0, too."""
        weights = ParameterVector.weights_of(self.network)
        return weights.zeros_like()

    def weights(self) -> ParameterState:
        """A copy of the network's weights; entries that a growing head adds later are the new weights."""
        return ParameterVector.weights_of(self.network).clone()


class FinishedTask(CurrentTask):
    """A task at its end, with its data. All methods are collective: every rank calls them equally often.

    rehearsal: the exemplars of all tasks so far, None without.
    """

    def __init__(
        self,
        task: Task,
        network: nn.Module,
        components: Components,
        minibatches: Callable[[], Iterator[Minibatch]],
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """
        Args:
            minibatches: gives this rank's samples of the task, each once.
            say: shows a line to the user; on rank 0 only.
        """
        super().__init__(task, network)
        self.objective = components.objective
        self.rehearsal = components.rehearsal
        self.world = components.world
        self.say = say
        self._method = components.method
        self._cost = components.progress.cost
        self._preprocess = components.preprocess
        self._batch_size = components.training.eval_batch_size
        self._minibatches = minibatches

    @cached_property
    def evaluated_network(self) -> nn.Module:
        """The network that is evaluated, in eval mode: the trained one, or another that a part of the method makes."""
        return self._method.evaluated_network(self.network)

    @property
    def capacity(self) -> int:
        """The number of exemplars for which all ranks together have room."""
        assert self.rehearsal is not None
        return int(self.rehearsal.stats()["capacity_total"])

    def of_first_rank(self, values: Tensor) -> Tensor:
        """Rank 0's values on every rank, for what ranks may not compute alike."""
        return values_of_first_rank(values, self.world)

    def log_likelihood(self, outputs: Any, batch: Minibatch) -> Tensor:
        """The log-likelihood of each row's target: minus the objective's loss, float32 [B]."""
        return -self.objective.row_losses(outputs, batch)

    def batches(self) -> Iterator[tuple[Any, Minibatch]]:
        """This rank's samples, each once: the network's inputs, not augmented, and the fields, on its device.

        About `training.eval_batch_size` rows at a time. Ranks may have different numbers of batches, so nothing
        collective may happen in between.
        """
        for minibatch in _joined(self._minibatches(), self._batch_size):
            yield self.prepared(minibatch)

    def prepared(self, minibatch: Minibatch) -> tuple[Any, Minibatch]:
        """The network's inputs, not augmented, and the fields, on its device."""
        fields = {name: field.to(self.world.device, non_blocking=True) for name, field in minibatch.items()}
        return self._preprocess.evaluate(self.objective.inputs(fields)), fields

    def stored_batches(self) -> Iterator[tuple[Any, Minibatch]]:
        """This rank's exemplars of all tasks, prepared as `batches` are. To be read to the end, on every rank."""
        with self.edit() as edit:
            yield from self.stored_in(edit)

    def stored_in(self, edit: Edit, *late: str) -> Iterator[tuple[Any, Minibatch]]:
        """The same inside an edit, perhaps with late fields; exemplars may be rewritten meanwhile."""
        first = next(self._minibatches())
        names = [*late, *(name for name in first if name != "sample_id")]
        for stored in edit.stored(*names):
            yield self.prepared({**stored.fields, "sample_id": stored.sample_id})

    def evaluated_outputs(self, inputs: Any) -> Any:
        """What the evaluated network gives for prepared inputs: float32, without gradients."""
        self._cost.forward += count_rows(inputs)
        with torch.no_grad():
            return map_tensors(Tensor.float, self.evaluated_network(inputs))

    def edit(self) -> AbstractContextManager[Edit]:
        """Rewrite what is stored, on all ranks together: see `Rehearsal.edit`.

        Raises:
            ValueError: the method needs no exemplars.
        """
        if self.rehearsal is None:
            raise ValueError("there are no exemplars: the method says that it needs none (needs)")
        return self.rehearsal.edit()

    def sum(self, fn: Callable[[Any, Minibatch], Tensor], *, over: str = "task") -> Tensor:
        """The sum over all ranks' batches of what `fn` gives for a batch's inputs and fields, without gradients.

        Args:
            fn: gives a tensor of the same shape for each batch, a sum over its rows; zeros for no rows.
            over: the task's samples ("task") or the exemplars of all tasks ("stored").
        """
        with torch.no_grad():
            inputs, fields = next(self.batches())
            total = fn(rows_of(inputs, slice(0)), rows_of(fields, slice(0)))  # a rank may have no exemplars
            for inputs, fields in self.batches() if over == "task" else self.stored_batches():
                self._cost.forward += count_rows(inputs)
                total = total + fn(inputs, fields)
        return sum_over_ranks([total], self.world)[0]

    def gather(self, rows: Tensor) -> Tensor:
        """Every rank's rows, one rank's behind the other's; ranks may have different numbers of them."""
        return gather_rows(rows, self.world)

    def mean_of_gradients(
        self,
        fn: Callable[[Any, Minibatch], Tensor],
        each: Callable[[Tensor], Tensor] = torch.square,
    ) -> ParameterState:
        """The mean over all samples of `each` of the gradient of `fn` for one sample.

        The gradient of each sample goes through `each`, which may change it in place, before anything is
        added up, within the rank or over the ranks.

        Args:
            fn: gives a number for each row, float32 [B], from outputs and fields; or several, float32 [B, K], whose
                gradients each go through `each` and are then added up. It is called for one row at a time inside
                `torch.func.vmap`.
        """
        parameters = {name: p.detach() for name, p in self.network.named_parameters() if p.requires_grad}
        buffers = dict(self.network.named_buffers())

        def of_one(weights: dict[str, Tensor], inputs: Any, fields: Minibatch) -> Tensor:
            one = map_tensors(lambda value: value[None], inputs)
            outputs = functional_call(self.network, {**weights, **buffers}, (one,))
            return fn(map_tensors(Tensor.float, outputs), {name: value[None] for name, value in fields.items()})[0]

        columns = self._columns_of(fn)
        derivative = grad(of_one) if columns is None else jacrev(of_one)
        per_sample = vmap(derivative, in_dims=(None, 0, 0), randomness="different")
        kept_dims = 1 if columns is None else 2
        rows = max(1, self._gradients_at_once(parameters) // (columns or 1))
        sums = ParameterVector({name: torch.zeros_like(value) for name, value in parameters.items()})
        count = 0
        for inputs, fields in self.batches():
            size = count_rows(inputs)
            self._cost.trained += size * (columns or 1)
            count += size
            for start in range(0, size, rows):
                some = slice(start, start + rows)
                found = per_sample(parameters, rows_of(inputs, some), rows_of(fields, some))
                sums.add_(ParameterVector({n: each(g).flatten(0, kept_dims - 1).sum(0) for n, g in found.items()}))
        return self._mean_over_ranks([sums], count)[0]

    def gradients_of_means(self, fn: Callable[[Any, Minibatch], Tensor]) -> Iterator[ParameterState]:
        """For each column of `fn` the gradient of its mean over all samples of all ranks.

        The task's data is gone through as often as it takes to hold only a few gradients at once. To be read to the
        end, on every rank.

        Args:
            fn: gives float32 [B, K] from outputs and fields, differentiable.
        """
        parameters = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        at_once, columns = self._gradients_at_once(parameters), self._columns_of(fn) or 1
        for first in range(0, columns, at_once):
            group = range(first, min(columns, first + at_once))
            sums = [ParameterVector({n: torch.zeros_like(p) for n, p in parameters.items()}) for _ in group]
            count = 0
            for inputs, fields in self.batches():
                size = count_rows(inputs)
                self._cost.trained += size * len(group)
                count += size
                totals = fn(map_tensors(Tensor.float, self.network(inputs)), fields).sum(0)
                for column, total in zip(group, sums, strict=True):
                    found = torch.autograd.grad(
                        totals[column], list(parameters.values()), retain_graph=True, materialize_grads=True
                    )
                    total.add_(ParameterVector(dict(zip(parameters, found, strict=True))))
            yield from self._mean_over_ranks(sums, count)

    def _columns_of(self, fn: Callable[[Any, Minibatch], Tensor]) -> int | None:
        """How many numbers `fn` gives for each row; None if that is no second dimension."""
        inputs, fields = next(self.batches())
        with torch.no_grad():
            outputs = map_tensors(Tensor.float, self.network(rows_of(inputs, slice(1))))
            values = fn(outputs, rows_of(fields, slice(1)))
        return None if values.dim() == 1 else values.shape[1]

    def _gradients_at_once(self, parameters: Mapping[str, Tensor]) -> int:
        """How many gradients are held at once: as many as fit a CPU's cache, more on a GPU."""
        of_one = 4 * sum(value.numel() for value in parameters.values())
        return max(1, (_BYTES_ON_CPU if self.world.device.type == "cpu" else _BYTES_ON_GPU) // of_one)

    def _mean_over_ranks(self, sums: list[ParameterVector], count: int) -> list[ParameterState]:
        """The sums of all ranks, divided by the numbers of their samples. Collective."""
        counted = torch.tensor([float(count)], device=self.world.device)
        tensors = [tensor for vector in sums for tensor in vector.tensors.values()]
        *totals, number = sum_over_ranks([*tensors, counted], self.world)
        left = iter(totals)
        return [ParameterVector({name: next(left) / number for name in vector.tensors}) for vector in sums]


def _joined(minibatches: Iterator[Minibatch], rows: int) -> Iterator[Minibatch]:
    """Minibatches one behind the other, in parts of at least so many rows."""
    waiting: list[Minibatch] = []
    for minibatch in minibatches:
        waiting.append(minibatch)
        if sum(map(count_rows, waiting)) >= rows:
            yield {name: torch.cat([each[name] for each in waiting]) for name in minibatch}
            waiting = []
    if waiting:
        yield {name: torch.cat([each[name] for each in waiting]) for name in waiting[0]}
