"""What a strategy or a term asks for: exemplars, late fields, gradients of the past, phases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

import torch
from torch import nn

from drb.buffer.admission import Admission
from drb.buffer.record import Field
from drb.training.optimizers import OptimizerBuilder
from drb.types import Minibatch
from drb.variant import identity, name_of

EXEMPLARS = ("none", "joined", "apart")
REFERENCES = ("none", "one", "past", "per_task")
ROWS = ("task", "stored")
ORIGIN = "offered_in"
"""The late field that says in which task a sample was offered, float32 [1], for gradients on earlier tasks."""

MASS = "mass"
"""The late field of how many samples an exemplar stands for, float32 [1]; without it an exemplar stands for itself."""


@dataclass(frozen=True)
class LateField:
    """A field of the record that exists only after the forward pass; `Batch.attach` brings it.

    columns: numbers per sample, float32, at most. None: as many as the network's head may come to have. In a batch,
        columns that a sample was stored without are NaN: the head was smaller, or the sample was stored by a method
        that does not keep this field.
    refreshed: whether a stored sample that is offered again, as in each epoch, gets the value of then; else the first
        one stays.
    """

    columns: int | None = None
    refreshed: bool = False

    @classmethod
    def outputs(cls) -> LateField:
        """The network's outputs, as many as the head may come to have; those of now when a sample is offered again."""
        return cls(refreshed=True)

    def declared(self, max_outputs: int) -> Field:
        """How the record declares it."""
        columns = max_outputs if self.columns is None else self.columns
        return Field(torch.float32, (columns,), late=True, optional=True, growing=True, refreshed=self.refreshed)


@dataclass(frozen=True)
class Needs:
    """What a part asks of the trainer. It follows from the part's options; the needs of all parts are merged.

    exemplars:  "joined" exemplars are trained on together with the minibatch, those "apart" are not; or "none"
    draws:      how many independent draws of exemplars each minibatch gets
    own_draw:   exemplars apart come from a draw of their own if another part has joined exemplars
    candidates: how many exemplars are drawn, of which `select` chooses `rehearsal.exemplars`; None: nothing is chosen
    late:       fields that are stored after the forward pass, by name
    rewrites:   late fields of other parts that this part rewrites at a task's end
    classes:    whether each row must have a class, as with objective=classification
    counts:     whether the part calls `Batch.stored_counts`, the number of exemplars of each class on all ranks
    importance: whether the part uses `Batch.importance`, the exemplars' importance weights
    references: gradients of the loss on the exemplars apart: "one" on all of them, one on those of earlier tasks
        ("past"), or one for each earlier task ("per_task"); they are `step.references`, none before there are any
    admission:  the admission policy that the method needs, by name; None: any that stores what is offered
    cumulative: a task is trained on the data of all tasks so far
    fresh_weights: every task starts from a freshly initialised network
    """

    exemplars: str = "none"
    draws: int = 1
    own_draw: bool = False
    candidates: int | None = None
    late: Mapping[str, LateField] = field(default_factory=dict)
    rewrites: tuple[str, ...] = ()
    classes: bool = False
    counts: bool = False
    importance: bool = False
    references: str = "none"
    admission: str | None = None
    cumulative: bool = False
    fresh_weights: bool = False

    def __post_init__(self) -> None:
        if self.exemplars not in EXEMPLARS or self.references not in REFERENCES or self.draws < 1:
            raise ValueError(
                f"exemplars must be one of {', '.join(EXEMPLARS)}, references one of {', '.join(REFERENCES)} and draws "
                f"at least 1, got exemplars={self.exemplars!r}, references={self.references!r}, draws={self.draws}"
            )

    def check_admission(self, policy: Admission, who: str) -> None:
        """Check that exemplars are stored as the method needs it.

        Raises:
            ValueError: another policy, or one that stores nothing for a method that stores nothing either.
        """
        if self.admission is not None and name_of(policy) != self.admission:
            raise ValueError(
                f"{who} chooses its exemplars itself: set rehearsal.admission={self.admission}, got {name_of(policy)}"
            )
        if self.admission is None and policy.is_closed:
            raise ValueError(
                f"rehearsal.admission={name_of(policy)} stores nothing by itself, and {who} does not either; choose "
                "another, such as reservoir"
            )

    def record_of(self, minibatch: Minibatch, *, max_outputs: int) -> dict[str, Field]:
        """The record of such minibatches with the late fields, for `Rehearsal(spec=…)`."""
        fields = {name: Field(v.dtype, tuple(v.shape[1:])) for name, v in minibatch.items() if name != "sample_id"}
        return fields | {name: late.declared(max_outputs) for name, late in self.late.items()}


@dataclass(frozen=True)
class Draws:
    """How the exemplars of a minibatch are divided: the joined draws come first.

    joined, apart: independent draws of each kind
    """

    joined: int = 0
    apart: int = 0

    @property
    def total(self) -> int:
        return self.joined + self.apart


def draws_of(named: Iterable[tuple[str, Needs]]) -> Draws:
    """How many draws the parts need together; those that are joined to the minibatch are shared.

    Raises:
        ValueError: exemplars apart beside joined ones without a draw of their own: the same rows would be learnt from
            and be held against what was learnt from them.
    """
    needs = list(named)
    joined = max((n.draws for _, n in needs if n.exemplars == "joined"), default=0)
    apart = [(name, n) for name, n in needs if n.exemplars == "apart"]
    for name, need in needs:
        if need.references != "none" and need.exemplars != "apart":
            raise ValueError(f"{name} needs the gradient on exemplars, so it needs them apart from the minibatch")
    for name, need in apart:
        if joined and not need.own_draw:
            base = next(other for other, n in needs if n.exemplars == "joined")
            raise ValueError(
                f"{name} holds exemplars against the gradient that {base} has already learnt from; give it exemplars "
                f"of its own ({name}.own_draw=true) or use it with strategy=finetune"
            )
    return Draws(joined, max((n.draws for _, n in apart), default=0))


def merged(named: Iterable[tuple[str, Needs]]) -> Needs:
    """What the parts need together.

    Raises:
        ValueError: needs that contradict each other, naming both parts; a part that rewrites what no part stores, or
            what is stored only after it; or one that stores what no part rehearses, or without what a part compares;
            importance weights of exemplars that were chosen among candidates.
    """
    parts = list(named)
    needs = reduce(_merge, parts)[1]
    for name, own in parts:
        for field_name in own.rewrites:
            if field_name not in needs.late:
                raise ValueError(
                    f"{name} rewrites the stored field {field_name!r}, which no part of the method stores; use it with "
                    "a strategy that does, such as strategy=derpp"
                )
    _require_written(parts, needs)
    if needs.admission is not None and needs.exemplars == "none":
        raise ValueError(
            f"{' + '.join(name for name, _ in parts)} stores exemplars, but no part of the method rehearses any; use a "
            "strategy that does, such as strategy=er"
        )
    if needs.importance and needs.candidates:
        raise ValueError(
            f"{' + '.join(name for name, _ in parts)} chooses among candidates, so nobody knows how likely each was to "
            "be trained on, which importance weights undo: set strategy.importance_weights=none"
        )
    if needs.references in ("past", "per_task"):
        return replace(needs, late={**needs.late, ORIGIN: LateField(columns=1)})
    return needs


def _require_written(parts: Sequence[tuple[str, Needs]], needs: Needs) -> None:
    """Check that late fields of samples that are stored at a task's end, without a forward pass, are written then.

    Raises:
        ValueError: nothing writes them, or what does comes before.
    """
    closed = next((number for number, (_, own) in enumerate(parts) if own.admission == "closed"), None)
    if closed is None:
        return
    storing = parts[closed][0]
    for field_name in needs.late:
        writers = {number: name for number, (name, own) in enumerate(parts) if field_name in own.rewrites}
        if any(number >= closed for number in writers):
            continue
        advice = f"list {', '.join(writers.values())} after it" if writers else "list a term that does after it"
        hint = ", such as logit_refresh" if not writers and field_name == "logits" else ""
        raise ValueError(
            f"{storing} stores samples at a task's end, and nothing after it writes their field {field_name!r}, which "
            f"the method compares; {advice}{hint}"
        )


def _merge(left: tuple[str, Needs], right: tuple[str, Needs]) -> tuple[str, Needs]:
    (one, a), (other, b) = left, right
    for name in a.late.keys() & b.late.keys():
        if a.late[name] != b.late[name]:
            raise ValueError(f"{one} and {other} both store a late field {name!r}, but not the same")
    if a.candidates and b.candidates and a.candidates != b.candidates:
        raise ValueError(f"{one} wants {a.candidates} candidates and {other} {b.candidates}; give them the same number")
    if a.admission and b.admission and a.admission != b.admission:
        raise ValueError(f"{one} needs admission={a.admission} and {other} {b.admission}; leave one out")
    if (a.cumulative or b.cumulative) and {a.exemplars, b.exemplars} != {"none"}:
        raise ValueError(f"{one} trains on the data of all tasks, so there is nothing to rehearse; leave {other} out")
    return f"{one} + {other}", Needs(
        exemplars=max(a.exemplars, b.exemplars, key=("none", "apart", "joined").index),
        draws=max(a.draws, b.draws),
        candidates=a.candidates or b.candidates,
        late={**a.late, **b.late},
        rewrites=(*a.rewrites, *b.rewrites),
        classes=a.classes or b.classes,
        counts=a.counts or b.counts,
        importance=a.importance or b.importance,
        references=max(a.references, b.references, key=REFERENCES.index),
        admission=a.admission or b.admission,
        cumulative=a.cumulative or b.cumulative,
        fresh_weights=a.fresh_weights or b.fresh_weights,
    )


@dataclass(frozen=True)
class Phase:
    """A stretch of a task's training; every phase that differs from the one before wraps the network anew.

    epochs:    over the rows; None: `training.epochs`
    rows:      the task's own ("task"), with exemplars as ever; or exemplars alone, drawn from all ranks' buffers until
               as many were seen as are stored ("stored")
    trainable: parameters that begin with one of these names; None: all
    optimizer: by which it is trained; None: the run's
    rate:      what its learning rate is multiplied by
    """

    epochs: int | None = None
    rows: str = "task"
    trainable: tuple[str, ...] | None = None
    optimizer: OptimizerBuilder | None = None
    rate: float = 1.0

    def trains_like(self, other: Phase) -> bool:
        """Whether the same parameters are trained by the same optimizer with the same options."""
        same = [None if phase.optimizer is None else identity(phase.optimizer) for phase in (self, other)]
        return (self.trainable, self.rate, same[0]) == (other.trainable, other.rate, same[1])

    def optimizer_for(self, network: nn.Module, run: OptimizerBuilder, world_size: int) -> torch.optim.Optimizer:
        """Its optimizer over what is trained. run: what makes the run's."""
        optimizer = (self.optimizer or run).for_network(network, world_size)
        for group in optimizer.param_groups:
            group["lr"] *= self.rate
            group["initial_lr"] *= self.rate
        return optimizer

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"a phase has at least 1 epoch, got {self}")
        if self.rows not in ROWS:
            raise ValueError(f"a phase trains on rows={' or rows='.join(ROWS)}, got {self}")
        if self.rate <= 0:
            raise ValueError(f"a phase has a rate above 0, got {self}")
