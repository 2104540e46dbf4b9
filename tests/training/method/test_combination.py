"""What cannot be combined is refused in one line; what a part learns is alike on all ranks."""

from __future__ import annotations

import pytest
import torch
from ranks import collect_ranks
from torch import nn
from training.method.reference import AveragedGradientEpisodicMemory
from training.parts import small_dataset, small_trainer

from drb.distributed.world import World
from drb.training.method.method import Method
from drb.training.method.parameters import ParameterVector
from drb.training.models import Network
from drb.training.models.network import GrowingHead
from drb.training.objectives import OBJECTIVES
from drb.training.strategies import STRATEGIES, ExperienceReplay, Finetune, FromScratch
from drb.training.strategies.derpp import DarkExperienceReplayPlusPlus
from drb.training.terms import TERMS, ElasticWeightConsolidation, ExponentialMovingAverage, Term


class OtherAverage(ExponentialMovingAverage):
    pass


@pytest.mark.parametrize(
    ("strategy", "terms", "message"),
    [
        (ExperienceReplay(), [AveragedGradientEpisodicMemory()], "own_draw=true"),
        (FromScratch(), [AveragedGradientEpisodicMemory(own_draw=True)], "there is nothing to rehearse"),
        (Finetune(), [ElasticWeightConsolidation()] * 2, "the term ewc is named twice"),
        (Finetune(), [ExponentialMovingAverage(), OtherAverage()], "ema and .*OtherAverage cannot be combined"),
    ],
)
def test_what_cannot_be_combined_is_refused(strategy, terms, message):
    with pytest.raises(ValueError, match=message):
        Method(strategy, terms)


@pytest.mark.parametrize(
    ("strategy", "terms"),
    [(name, []) for name in ("er_ace", "icarl", "lwf")]
    + [("er", [name]) for name in ("balanced_softmax", "nearest_mean", "task_end_storage")],
)
def test_what_compares_classes_is_refused_before_training_where_there_are_none(strategy, terms):
    """Not in the second task, as with `lwf`, and not at a task's end."""
    parts, regression = [TERMS.build(name) for name in terms], OBJECTIVES.build("regression", {"target": "shade"})
    with pytest.raises(ValueError, match="regression has no classes, which this method needs"):
        small_trainer(small_dataset(8), STRATEGIES.build(strategy), terms=parts, objective=regression)


def test_draws_are_shared_where_exemplars_are_joined_and_added_where_they_are_apart():
    both = Method(DarkExperienceReplayPlusPlus(), [AveragedGradientEpisodicMemory(own_draw=True)])
    assert (both.draws.joined, both.draws.apart) == (2, 1)


def test_a_loss_that_makes_no_use_of_the_outputs_is_refused():
    class Forgetful(Finetune):
        def loss(self, batch):
            return batch.row_losses(batch.extra_outputs(gradients=True)).sum()

    with pytest.raises(ValueError, match=r"must use batch.outputs\(\)"):
        small_trainer(small_dataset(40), Forgetful()).run()


class OfOneRank(Term):
    """Keeps what the other ranks do not see."""

    def begin_task(self, task):
        self.seen = torch.distributed.get_rank()


def save(rank, world_size):
    trainer = small_trainer(small_dataset(40), Finetune(), terms=[OfOneRank()], world=World(rank, world_size))
    trainer.run()
    trainer.state_dict()


def test_a_state_that_differs_between_ranks_is_named_when_it_is_saved():
    _, failures = collect_ranks(save, 2)
    assert failures.keys() == {0, 1}
    assert all("OfOneRank differs between rank 0 and rank 1" in failure for failure in failures.values())


def test_vectors_grow_with_the_head_by_zeros_or_by_the_new_weights():
    before, after = nn.Linear(3, 2), nn.Linear(3, 4)
    weights = ParameterVector.weights_of(before).clone()
    zeros = weights.zeros_like() + 1.0
    for vector in (weights, zeros):
        vector.grow(after)
    assert torch.equal(weights.tensors["weight"][:2], before.weight)
    assert torch.equal(weights.tensors["weight"][2:], after.weight[2:])
    assert zeros.tensors["bias"].tolist() == [1, 1, 0, 0]


def test_an_extra_forward_leaves_running_statistics_alone():
    seen = []

    class Peeking(Finetune):
        def loss(self, batch):
            before = [buffer.clone() for buffer in batch.step.network.buffers()]
            batch.extra_outputs()
            seen.append(all(map(torch.equal, before, batch.step.network.buffers())))
            value = super().loss(batch)
            seen.append(not all(map(torch.equal, before, batch.step.network.buffers())))
            return value

    trainer = small_trainer(small_dataset(40), Peeking(), network=batch_norm_network)
    trainer.run()
    assert len(seen) > 2
    assert all(seen)


def batch_norm_network(num_classes, task):
    body = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8))
    return Network(body, GrowingHead(8, num_classes, seed=1))
