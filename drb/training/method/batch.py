"""A batch: one minibatch with its exemplars, as a method sees it.

The trainer makes gradients those of means over the rows of all ranks and accumulated batches; what a loss adds up comes
from `mean` or `mean_loss`. With W ranks DDP averages the ranks' gradients, so that a sum over a rank's rows counts
W / N, N the rows of all ranks. A batch's part in its step is its share of the step's rows.

Shapes: B rows of the batch, of which b are new; r exemplars of each draw behind them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn

from drb.distributed.reduction import sum_over_ranks
from drb.training.method.optimizer_step import Step
from drb.training.method.parameters import Gradient, ParameterVector, Weights
from drb.training.method.structure import count_rows, map_tensors, rows_of, zero_of
from drb.types import Minibatch

if TYPE_CHECKING:
    from drb.training.batches import Batches

Rows: TypeAlias = "slice | Tensor"
"""Some rows of a batch: `batch.new`, `batch.draw(i)`, `batch.exemplars`, `batch.all`, or bool [B]."""


class Batch(Mapping[str, Tensor]):
    """The extended minibatch on the network's device: a mapping from field names to tensors [B, …].

    step:      the optimiser step that it belongs to
    apart:     exemplars that are not part of the batch, by field name, one draw behind the other
    new:       the minibatch's own rows
    exemplars: the joined exemplars of all draws
    all:       all rows
    places:    where the exemplars are among those that the rehearsal gave, int64 [r] or a slice; None: they are all
    importance: of the exemplars, float32 [r], for a part that asks for it (`Needs.importance`): the mean of importance
        times loss is, in expectation, the mean loss on all that was offered so far
    num_given: how many the rehearsal gave, those apart included
    """

    def __init__(
        self,
        fields: Minibatch,
        apart: Minibatch,
        new_rows: int,
        draws: int,
        new_rows_total: int,
        step: Step,
        of: Batches,
    ) -> None:
        """
        Args:
            new_rows: b. draws: of joined exemplars. new_rows_total: b of all ranks together.
        """
        self.step = step
        self.apart = apart
        self.importance: Tensor = torch.empty(0)
        self.places: slice | Tensor | None = None
        self.num_given = count_rows(fields) - new_rows + (count_rows(apart) if apart else 0)
        self._fields = fields
        self._of = of
        self._new_rows, self._num_draws, self._new_rows_total = new_rows, draws, new_rows_total
        if apart:
            self.places = slice(0, count_rows(fields) - new_rows)
        self._outputs: Any = None
        self._inputs: Any = None
        self._divide()

    def _divide(self) -> None:
        """Divide the rows into kinds. `mean` knows a kind by its object, since a rank may have no rows of one kind."""
        total, new = self.num_rows, self._new_rows
        size = (total - new) // max(1, self._num_draws)
        self.new = slice(0, new)
        self.exemplars = slice(new, total)
        self.all = slice(0, total)
        self._draws = [slice(new + i * size, new + (i + 1) * size) for i in range(max(1, self._num_draws))]

    # -- rows

    def draw(self, index: int) -> slice:
        """The exemplars of one draw, in the order of draws; -1 is the last one."""
        return self._draws[index]

    @property
    def device(self) -> torch.device:
        """Where the batch is."""
        return self._of.world.device

    @property
    def num_rows(self) -> int:
        """B, on this rank."""
        return count_rows(self._fields)

    @property
    def num_rows_total(self) -> int:
        """The rows of all ranks together; all have equally many exemplars."""
        return self._new_rows_total + self._of.world.world_size * self._num_exemplars

    @property
    def new_rows_total(self) -> int:
        """The minibatches' rows of all ranks together."""
        return self._new_rows_total

    @property
    def rehearsed_rows_total(self) -> int:
        """The exemplars of one draw that all ranks together train on."""
        draw = self._draws[-1]
        return self._of.world.world_size * self._of.num_selected(draw.stop - draw.start)

    @property
    def num_selected(self) -> int:
        """How many of the candidates behind the new rows `select` has to choose; the same on all ranks."""
        return self._of.num_selected(self._num_exemplars)

    # -- forward

    def inputs(self) -> Any:
        """What the network takes: augmented and normalised, on its device."""
        if self._inputs is None:
            self._inputs = self._of.inputs(self._fields)
        return self._inputs

    def outputs(self) -> Any:
        """The network's outputs for the whole batch in float32, from which gradients flow back; computed once."""
        if self._outputs is None:
            self._outputs = self._of.forward(self.inputs())
            self.step.cost.trained += self.num_rows
        return self._outputs

    def has_outputs(self) -> bool:
        return self._outputs is not None

    def extra_outputs(
        self,
        rows: Rows | None = None,
        *,
        network: nn.Module | None = None,
        weights: Weights | None = None,
        gradients: bool = False,
    ) -> Any:
        """Compute outputs in float32 without DDP and without a change of running statistics.

        Every rank has to call it equally often.

        Args:
            rows: all if None.
            network: another one, such as a teacher, in its own mode.
            weights: to be used in place of the network's own.
            gradients: whether gradients can flow back, for `torch.autograd.grad`.
        """
        inputs = self.inputs() if rows is None else rows_of(self.inputs(), rows)
        return self._of.extra_forward(self.step, inputs, network, weights, gradients)

    def gradient(self, rows: Rows) -> Gradient:
        """The gradient of the mean loss on these rows of all ranks, past DDP: a forward, a backward and a message.

        Collective. Frozen parameters have none.
        """
        sums = self._of.learner.gradient_of(
            lambda: self.row_losses(self.extra_outputs(rows, gradients=True), rows).sum()
        )
        counted = torch.ones_like(self._fields["sample_id"][rows], dtype=torch.float32).sum()
        *totals, count = sum_over_ranks([*sums.tensors.values(), counted], self._of.world)
        return ParameterVector(dict(zip(sums.tensors, totals, strict=True))) / count.clamp_min(1)

    # -- losses

    def row_losses(self, outputs: Any, rows: Rows | None = None) -> Tensor:
        """The objective's loss of each row, float32 [B]; or of these rows, of which `outputs` then has that many."""
        fields = self._fields if rows is None else rows_of(self._fields, rows)
        return self._of.objective.row_losses(self._of.method.adjust(outputs, self), fields)

    def mean_loss(self, outputs: Any) -> Tensor:
        """The mean of `row_losses` over all rows, as `mean` gives it, computed at once."""
        if self.num_rows == 0:
            return zero_of(outputs)
        value = self._of.objective.mean_loss(self._of.method.adjust(outputs, self), self._fields)
        weight = self.num_rows * self._of.world.world_size / self.step.expected_rows
        return value if weight == 1.0 else value * weight

    def mean(self, values: Tensor, rows: Rows | None = None) -> Tensor:
        """The mean over these rows of all ranks, times the batch's share of its step. A scalar; 0 without rows.

        Args:
            values: float32, one for each row of the batch or one for each of `rows`.
            rows: all if None. A mask of one's own costs a message: every rank has to come here.
        """
        rows = self.all if rows is None else rows
        share = self.num_rows_total / self.step.expected_rows * self._of.world.world_size
        if isinstance(rows, Tensor):
            total = rows.sum()
            if self._of.world.world_size > 1:
                dist.all_reduce(total)
            return torch.where(rows, values, 0.0).sum() * (share / total.clamp_min(1))
        chosen = values if len(values) == rows.stop - rows.start else values[rows]
        return chosen.sum() * (share / max(1, self._total(rows)))

    def distance(self, outputs: Any, stored: Any, rows: Rows) -> Tensor:
        """How far these rows' outputs are from other ones: float32, the mean square for each of these rows.

        Args:
            stored: the field that holds the others, or outputs for these rows. Of a field those columns count that
                were known when the sample was stored; without any the distance is 0.
        """
        if not isinstance(stored, str):
            return self._of.objective.distance(rows_of(outputs, rows), self._of.objective.flatten(stored))
        if stored not in self._fields:  # before there are exemplars
            return zero_of(rows_of(outputs, rows)).expand(0)
        return self._of.objective.distance(rows_of(outputs, rows), self._fields[stored][rows])

    def attach(self, **late_fields: Any) -> None:
        """Give the new rows their late fields: values of the new rows or of all, tensors or outputs of the network."""
        flat = {name: self._of.objective.flatten(value).detach() for name, value in late_fields.items()}
        rows = {name: value if len(value) == self._new_rows else value[self.new] for name, value in flat.items()}
        self._of.attach(rows)

    # -- classes

    @property
    def labels(self) -> Tensor:
        """The class of each row: int64 [B].

        Raises:
            ValueError: the objective knows no classes.
        """
        return self._of.objective.labels(self._fields)

    def stored_counts(self, num_classes: int) -> Tensor:
        """How many exemplars of each class all ranks have stored, this minibatch's included: int64 [num_classes].

        A part that calls it says so in its needs (`counts`). Every rank has to call it: it costs one message, and a
        look at the classes of all exemplars.

        Raises:
            ValueError: exemplars are not counted by class.
        """
        return self._of.stored_counts(num_classes)

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all ranks. Every rank has to call it."""
        return sum_over_ranks([values], self._of.world)[0]

    # -- fields

    def __getitem__(self, name: str) -> Tensor:
        return self._fields[name]

    def __iter__(self) -> Any:
        return iter(self._fields)

    def __len__(self) -> int:
        """The number of fields, as of any mapping; `num_rows` is that of rows."""
        return len(self._fields)

    def keep(self, chosen: Tensor) -> None:
        """Keep these of the candidates behind the new rows, before the forward."""
        assert self._outputs is None
        self.places = chosen
        places = torch.cat([torch.arange(self._new_rows, device=chosen.device), chosen + self._new_rows])
        self._fields = map_tensors(lambda field: field[places], self._fields)
        self._inputs = None if self._inputs is None else rows_of(self._inputs, places)
        self._divide()

    @property
    def _num_exemplars(self) -> int:
        return self.num_rows - self._new_rows

    def _total(self, rows: slice) -> int:
        """How many rows all ranks have of what this is on each."""
        if rows is self.new:
            return self._new_rows_total
        if rows is self.all:
            return self.num_rows_total
        if rows is self.exemplars or any(rows is draw for draw in self._draws):
            return self._of.world.world_size * int(rows.stop - rows.start)
        raise ValueError(
            f"a mean is taken over batch.new, batch.exemplars, batch.all, batch.draw(i) or a mask bool [B], got {rows}"
        )
