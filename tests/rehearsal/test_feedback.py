"""Feedback on one rank: when it counts, what is refused, and what a state goes on with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rehearsal.learning import go_on, ids_of_step, is_right, losses, rehearsal_of, same
from samples import minibatch_of

from drb.rehearsal.ledger.recorder import Recorder
from drb.sampling.proportions.loss_aware import LossAware
from drb.sampling.proportions.schedule import Schedule
from drb.types import Handle

TOLD = []


class Noting(LossAware):
    """Keeps what it is told, with the step of the next draw."""

    def observe(self, feedback):
        super().observe(feedback)
        self.last = feedback

    def weights(self, strata_S, sizes_S, step):
        if getattr(self, "last", None) is not None:
            TOLD.append((step, self.last))
            self.last = None
        return super().weights(strata_S, sizes_S, step)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("depth", "interval"), [(1, 1), (3, 1), (1, 3), (2, 2)])
def test_feedback_enters_the_first_round_submitted_two_steps_later(asynchronous, depth, interval):
    TOLD.clear()
    given = {}
    with rehearsal_of(proportions=Noting(), asynchronous=asynchronous, depth=depth, interval=interval) as rehearsal:
        for step in range(20):
            batch = rehearsal.extend(minibatch_of(ids_of_step(0, 1, step)))
            ids = batch["sample_id"][batch["rehearsed"]].clone()
            if len(ids) and step % 5:
                given[step] = ids
                loss, correct = losses(ids, step), is_right(ids, step)
                rehearsal.feedback(loss=loss, correct=correct)
                loss.fill_(torch.nan)  # the caller's memory again
                correct.fill_(False)
    for number, (step, feedback) in enumerate(TOLD):
        told_before = TOLD[number - 1][0] if number else -interval
        steps = [t for t in given if told_before - 2 < t <= step - 2]
        ids = torch.cat([given[t] for t in steps])
        labels = (ids % 5).numpy()
        expected = torch.cat([losses(given[t], t) for t in steps]).double().numpy()
        right = torch.cat([is_right(given[t], t) for t in steps]).numpy()
        assert feedback.strata.tolist() == np.unique(labels).tolist()
        assert feedback.rows.tolist() == [int((labels == k).sum()) for k in feedback.strata]
        assert feedback.loss.tolist() == [expected[labels == k].sum() for k in feedback.strata]
        assert feedback.right.tolist() == [int(right[labels == k].sum()) for k in feedback.strata]
    told = sum(feedback.num_rows for _, feedback in TOLD)
    assert told == sum(len(ids) for step, ids in given.items() if step <= TOLD[-1][0] - 2) > 30


def test_draws_follow_the_damage():
    with rehearsal_of(capacity=100) as rehearsal:
        drawn = go_on(rehearsal, range(150))
    of_class_3 = [np.mean([i % 5 == 3 for i in ids]) for ids in drawn[2:]]
    assert np.mean(of_class_3[50:]) > 0.5 > 0.35 > np.mean(of_class_3[:4])


def test_a_state_goes_on_bit_for_bit_wherever_it_was_taken():
    for options in (
        {},
        {"depth": 2, "interval": 2, "asynchronous": True},
        {"proportions": "loss_aware"},
        {"proportions": "uniform", "exemplars": "auto:accuracy:0.05:6"},
    ):
        with rehearsal_of(**options) as whole:
            expected = go_on(whole, range(24))
            ends_as = whole.state_dict()
        for cut in (1, 9, 10):
            with rehearsal_of(**options) as first:
                go_on(first, range(cut))
                state = first.state_dict()
            with rehearsal_of(**options) as second:
                second.load_state_dict(state)
                assert go_on(second, range(cut, 24)) == expected[cut:]
                got = second.state_dict()
            assert same(got["learnt"], ends_as["learnt"])
            assert same(got.get("auto"), ends_as.get("auto"))


def test_what_is_forgotten_or_drawn_again_is_not_learnt_from_twice():
    with rehearsal_of() as rehearsal:
        go_on(rehearsal, range(10))
        before = rehearsal.state_dict()["learnt"]
        rehearsal.forget([0, 1, 2])
        assert same(rehearsal.state_dict()["learnt"], before)


def exemplars_of(rehearsal, steps=3):
    exemplars = None
    for step in range(steps):
        exemplars = rehearsal.step(minibatch_of(ids_of_step(0, 1, step)))
    return exemplars


def test_wrong_feedback_is_refused_in_a_sentence_and_changes_nothing():
    right, loss = torch.ones(6, dtype=torch.bool), torch.zeros(6)
    with rehearsal_of() as rehearsal:
        with pytest.raises(ValueError, match=r"feedback\(\) needs a first minibatch"):
            rehearsal.feedback(loss=loss, correct=right)
        exemplars = exemplars_of(rehearsal)
        older = Handle(*(np.array(part) for part in vars(exemplars.handle).values()))
        exemplars = rehearsal.step(minibatch_of(ids_of_step(0, 1, 3)))
        before = rehearsal.state_dict()["learnt"]
        for said, given in {
            "one value for each of this step's 6 exemplars, in their order, got \\[5\\]": {"loss": loss[:5]},
            "one value for each of this step's 6 exemplars, in their order, got list": {"loss": [0.0] * 6},
            "must hold floating-point numbers, got torch.int64": {"loss": loss.long()},
            r"feedback\(correct=…\) must hold bool, got torch.float32": {"loss": loss, "correct": loss},
            r"give feedback\(correct=…\), bool \[r\]": {"loss": loss, "correct": None},
            "is not finite for 1 exemplars, the first of which is nan": {
                "loss": loss + torch.tensor([0] * 5 + [torch.nan])
            },
            "handles of other exemplars than this step's": {"loss": loss, "handle": older},
        }.items():
            with pytest.raises(ValueError, match=said):
                rehearsal.feedback(**{"correct": right, **given})
        assert same(rehearsal.state_dict()["learnt"], before)
        rehearsal.feedback(exemplars.handle, loss=loss, correct=right)
        with pytest.raises(ValueError, match="given twice for one step's exemplars"):
            rehearsal.feedback(loss=loss, correct=right)
    with pytest.raises(ValueError, match="has ended"):
        rehearsal.feedback(loss=loss)


def test_rows_that_are_not_known_count_for_nothing():
    loss, right = torch.tensor([1.0, torch.nan, 2.0, torch.inf, 0.5, 0.25]), torch.zeros(6, dtype=torch.bool)
    with rehearsal_of() as rehearsal:
        exemplars = exemplars_of(rehearsal)
        strata = exemplars.stratum.clone()
        rehearsal.feedback(loss=loss, correct=right, known=loss.isfinite())
        waiting = rehearsal.state_dict()["learnt"]["waiting"]
    assert waiting["loss"].tolist() == [1.0, 2.0, 0.5, 0.25]
    assert waiting["stratum"].tolist() == strata[loss.isfinite()].tolist()


def test_feedback_of_no_use_is_taken_and_dropped():
    with rehearsal_of(proportions="uniform") as given, rehearsal_of(proportions="uniform") as plain:
        assert go_on(given, range(8)) == go_on(plain, range(8), gives=lambda step: False)
        assert "learnt" not in given.state_dict()


def test_proportions_that_are_told_nothing_warn_once():
    with rehearsal_of() as rehearsal:
        with pytest.warns(UserWarning, match="with proportions=mix_cd learns from feedback, and 100 steps"):
            go_on(rehearsal, range(110), gives=lambda step: False)
        go_on(rehearsal, range(110, 230), gives=lambda step: False)


def test_a_state_of_other_proportions_or_strata():
    with rehearsal_of() as first:
        go_on(first, range(10))
        state = first.state_dict()
    with rehearsal_of(proportions="uniform") as second:  # which learns nothing
        second.load_state_dict(state)
        go_on(second, range(10, 12))
    with rehearsal_of(proportions="loss_aware") as second:
        second.load_state_dict(state)
        with pytest.warns(UserWarning, match=r'the proportions \{"memory": 20.0, "name": "mix_cd"\} have learnt'):
            go_on(second, range(10, 12))


def test_feedback_that_did_not_tell_who_is_right_counts_for_nobody_who_needs_it():
    with rehearsal_of(proportions="loss_aware") as first:
        batches = [first.extend(minibatch_of(ids_of_step(0, 1, step))) for step in range(4)]
        first.feedback(loss=torch.ones(int(batches[-1]["rehearsed"].sum()), dtype=torch.bfloat16))
        state = first.state_dict()
    assert state["learnt"]["waiting"]["loss"].tolist() == [1.0] * 6
    with rehearsal_of() as second:
        second.load_state_dict(state)
        with pytest.warns(UserWarning, match="do not go on from"):
            go_on(second, range(4, 8), gives=lambda step: False)
        assert second.state_dict()["learnt"]["learnt"]["shown"].tolist() == [0.0] * 5


def test_a_state_without_feedback_goes_on_with_some():
    options = {"proportions": Schedule(shares=[[1.0] * 5], by="step", every=100)}
    with rehearsal_of(**options) as first:
        go_on(first, range(4))
        state = first.state_dict()
    with rehearsal_of(**options, exemplars="auto:accuracy:0.05:6") as second:
        second.load_state_dict(state)
        go_on(second, range(4, 8))
        assert len(second.state_dict()["learnt"]["waiting"]["loss"]) > 0


def test_a_state_whose_strata_are_of_another_field_is_refused():
    def grouped(step):
        ids = ids_of_step(0, 1, step)
        return {**minibatch_of(ids), "group": torch.from_numpy(ids % 3)}

    with rehearsal_of(stratum="group") as first:
        for step in range(5):
            first.extend(grouped(step))
        state = first.state_dict()
    with rehearsal_of() as second, pytest.raises(ValueError, match="with stratum='group', this rehearsal has 'label'"):
        second.load_state_dict(state)
    with rehearsal_of(proportions="uniform", stratum=None) as second:  # which counts nothing
        second.load_state_dict(state)
        second.extend(grouped(5))
        state = second.state_dict()
    with rehearsal_of() as third, pytest.raises(ValueError, match="with stratum=None, this rehearsal has 'label'"):
        third.load_state_dict(state)


def test_a_damaged_state_is_refused():
    with rehearsal_of() as first:
        go_on(first, range(10))
        state = first.state_dict()
    learnt = state["learnt"]
    for part in (
        {"waiting": {**learnt["waiting"], "loss": learnt["waiting"]["loss"][1:]}},
        {"learnt": {**learnt["learnt"], "shown": learnt["learnt"]["shown"] * np.nan}},
        {"brought": {}},
    ):
        with rehearsal_of() as second, pytest.raises(ValueError, match="state is damaged"):
            second.load_state_dict({**state, "learnt": {**learnt, **part}})
            second.extend(minibatch_of(ids_of_step(0, 1, 10)))


def test_an_object_given_to_two_rehearsals_learns_for_each():
    proportions = LossAware()
    runs = []
    for _ in range(2):
        with rehearsal_of(proportions=proportions) as rehearsal:
            runs.append(go_on(rehearsal, range(15)))
    assert runs[0] == runs[1]
    assert proportions.state_dict()["strata"].tolist() == []


def test_a_recorder_is_refused():
    with rehearsal_of() as rehearsal, pytest.raises(ValueError, match="a recorder does not log feedback"):
        rehearsal.recorder = Recorder()
