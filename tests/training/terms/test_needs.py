"""What levers ask for and do not get is refused in one line; rates that fall within each task."""

from __future__ import annotations

import pytest
from training.parts import small_dataset, small_trainer

from drb import Rehearsal
from drb.training import Cosine, Sgd
from drb.training.method.method import Method
from drb.training.objectives import OBJECTIVES
from drb.training.strategies import ExperienceReplay, Finetune
from drb.training.strategies.derpp import DarkExperienceReplayPlusPlus
from drb.training.strategies.icarl import IncrementalClassifier
from drb.training.strategies.mir import MaximallyInterferedRetrieval
from drb.training.terms import BalancedSoftmax, LogitRefresh, TaskEndStorage, Term


@pytest.mark.parametrize(
    ("objective", "stratum", "message"),
    [
        (None, "shade", "they are counted by shade; set rehearsal.stratum=label"),
        (None, None, "they are counted by nothing; set rehearsal.stratum=label"),
        (OBJECTIVES.build("regression", {"target": "shade"}), "label", "regression has no classes"),
    ],
)
def test_a_prior_of_stored_classes_needs_classes_that_are_counted(objective, stratum, message):
    data = small_dataset(40)
    for source in (data.train, data.test):
        source.columns["shade"] = source.columns["label"] % 2
    terms = [BalancedSoftmax(prior="tasks")]
    with Rehearsal(10, 3, stratum=stratum, verbose=False) as rehearsal, pytest.raises(ValueError, match=message):
        small_trainer(data, ExperienceReplay(), terms=terms, objective=objective, rehearsal=rehearsal).run()


def test_only_what_is_stored_can_be_refreshed():
    with pytest.raises(ValueError, match="logit_refresh rewrites the stored field 'logits', which no part"):
        Method(ExperienceReplay(), [LogitRefresh()])


def test_who_stores_exemplars_himself_is_alone_and_has_somebody_to_rehearse_them():
    with pytest.raises(
        ValueError, match=r"finetune \+ task_end_storage stores exemplars, but no part .* rehearses any"
    ):
        Method(Finetune(), [TaskEndStorage()])
    with pytest.raises(ValueError, match="icarl and task_end_storage cannot be combined: both determine the exemplars"):
        Method(IncrementalClassifier(), [TaskEndStorage()])


def test_chosen_exemplars_have_no_importance_weights():
    with pytest.raises(ValueError, match="mir chooses among candidates, .*: set strategy.importance_weights=none"):
        Method(MaximallyInterferedRetrieval(importance_weights="clipped"), [])


def test_outputs_that_nothing_stores_are_not_compared_in_silence():
    """Samples that are stored at a task's end have had no forward pass."""
    Method(DarkExperienceReplayPlusPlus(), [TaskEndStorage(), LogitRefresh()])
    for terms, advice in (
        ([LogitRefresh(), TaskEndStorage()], "list logit_refresh after it"),
        ([TaskEndStorage()], ".*"),
    ):
        with pytest.raises(ValueError, match=f"nothing after it writes their field 'logits', .*; {advice}"):
            Method(DarkExperienceReplayPlusPlus(), terms)


def test_a_cosine_falls_within_each_task():
    rates: list[float] = []

    class Seen(Term):
        def prepare(self, batch):
            rates.append(batch.step.rate)

    small_trainer(
        small_dataset(80), Finetune(), terms=[Seen()], schedule=Cosine(), batch_size=8, epochs=2, optimizer=Sgd(lr=0.2)
    ).run()
    half = len(rates) // 2
    assert rates[:half] == rates[half:] == sorted(rates[:half], reverse=True)
    assert rates[0] == 0.2
    assert rates[half - 1] < 0.02
