"""What the loss of one's own strategy or term returns is looked at; a wrong one ends in one line with its class."""

from __future__ import annotations

import pytest
import torch
from training.parts import small_dataset, small_trainer

from drb.training.strategies import STRATEGIES, Strategy
from drb.training.terms import Term


class Own(Strategy):
    """The mean loss as `change` makes it."""

    change = staticmethod(lambda loss: loss)

    def loss(self, batch):
        return self.change(super().loss(batch))


class OwnTerm(Term):
    change = staticmethod(lambda: torch.zeros(()))

    def loss(self, batch):
        return self.change()


WRONG = [
    (lambda loss: None, "got None: is a return missing?"),
    (lambda loss: 0.5, "got float"),
    (lambda loss: loss.expand(3), r"got the shape \[3\]: take batch.mean"),
    (lambda loss: loss.double(), r"got float64: take .float\(\)"),
    (lambda loss: loss.to("meta"), "got a tensor on meta beside a batch on cpu"),
    (lambda loss: loss.detach(), "got one without a gradient"),
]


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_a_loss_without_a_gradient_to_take_is_refused(monkeypatch, change, said):
    monkeypatch.setattr(Own, "change", staticmethod(change))
    with pytest.raises(
        ValueError, match=rf"the loss of [.\w]*test_own_loss.Own must be a scalar float32 tensor.*; {said}"
    ):
        small_trainer(small_dataset(8), Own()).run()


@pytest.mark.parametrize(("value", "said"), [(None, "got None"), (torch.zeros(2), "got the shape")])
def test_the_same_of_a_term(monkeypatch, value, said):
    monkeypatch.setattr(OwnTerm, "change", staticmethod(lambda: value))
    with pytest.raises(ValueError, match=f"the loss of .*OwnTerm must be a scalar float32 tensor.*; {said}"):
        small_trainer(small_dataset(8), STRATEGIES.build("finetune"), terms=[OwnTerm()]).run()


def test_a_term_may_be_constant_now_and_then():
    small_trainer(small_dataset(8), Own(), terms=[OwnTerm()]).run()
