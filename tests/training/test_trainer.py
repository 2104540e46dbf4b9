"""What strategies and scenarios ask of the trainer."""

from __future__ import annotations

import numpy as np
import pytest
from training.parts import Recording, make_network, small_dataset, small_trainer, weights

from drb import Rehearsal
from drb.rehearsal.settings import RehearsalSettings
from drb.training import Sgd, Step
from drb.training.strategies import STRATEGIES


def test_from_scratch_trains_on_all_data_so_far_from_fresh_weights():
    recording = Recording(base="from_scratch")
    trainer = small_trainer(small_dataset(40), recording, batch_size=10)
    trainer.run()
    ids = [set(batch.tolist()) for batch, _ in recording.batches]
    assert set.union(*ids[:2]) == {i for i in range(40) if i % 4 < 2}  # labels are i mod 4
    assert set.union(*ids[2:]) == set(range(40))
    fresh = make_network(4, 1)
    fresh.grow(4, 0)
    for name, value in weights(fresh).items():
        assert np.array_equal(recording.starts[1][name], value)


def test_finetune_goes_on_with_its_weights_and_its_own_task():
    recording = Recording(base="finetune")
    small_trainer(small_dataset(40), recording, batch_size=10).run()
    assert {int(label) for _, labels in recording.batches[:2] for label in labels} == {0, 1}
    assert {int(label) for _, labels in recording.batches[2:] for label in labels} == {2, 3}
    end, start = recording.ends[0], recording.starts[1]
    assert np.array_equal(end["body.1.weight"], start["body.1.weight"])
    assert np.array_equal(end["head.weight"], start["head.weight"][:2])


def test_the_head_grows_with_the_classes_or_is_there_from_the_start():
    growing, fixed = Recording(base="finetune"), Recording(base="finetune")
    small_trainer(small_dataset(40), growing).run()
    small_trainer(small_dataset(40), fixed, num_outputs=4).run()
    assert [len(start["head.bias"]) for start in growing.starts] == [2, 4]
    assert [len(start["head.bias"]) for start in fixed.starts] == [4, 4]


def test_rehearsal_shows_the_past_and_is_counted():
    recording = Recording(base="er")
    with Rehearsal(capacity=8, exemplars=4, verbose=False) as rehearsal:
        trainer = small_trainer(small_dataset(40), recording, rehearsal=rehearsal, batch_size=10)
        trainer.run()
    assert {0, 1} & set(recording.batches[-1][1].tolist())
    assert len(recording.batches[-1][1]) == 14
    assert trainer.progress.rows == 40
    assert sum(trainer.progress.history[-1]["counts"].values()) == 8
    counts, stored_when = (trainer.progress.history[-1][name] for name in ("counts", "stored_when"))
    assert [sum(stored_when[i : i + 5]) for i in range(0, 20, 5)] == stored_when[::5]  # twentieths of 4 minibatches
    assert sum(stored_when[:10]) == counts.get("0", 0) + counts.get("1", 0)
    assert sum(stored_when) == 8


def test_evaluations_in_the_midst_of_tasks_tell_the_seconds_of_training_so_far():
    trainer = small_trainer(small_dataset(40), Recording(base="finetune"), batch_size=10, eval_every=1)
    trainer.run()
    seconds = trainer.progress.during_seconds
    assert len(seconds) == len(trainer.scores.summary()["during"]) == 4
    assert 0 < seconds[0] < seconds[1] <= trainer.progress.history[0]["seconds"] < seconds[2]
    assert seconds[3] <= trainer.progress.clock.seconds


def test_a_known_task_masks_the_others_classes():
    """The head's rows of task 0 get no gradient from task 1, and the accuracy that counts is the masked one."""
    recording = Recording(base="finetune")
    trainer = small_trainer(
        small_dataset(40),
        recording,
        scenario="task_incremental",
        num_outputs=4,
        optimizer=Sgd(lr=0.5),
        batch_size=5,
        epochs=10,
    )
    trainer.run()
    assert np.array_equal(recording.ends[0]["head.weight"][:2], recording.ends[1]["head.weight"][:2])
    assert np.array_equal(recording.starts[0]["head.weight"][2:], recording.ends[0]["head.weight"][2:])
    assert trainer.scores.main.rows() == trainer.scores.matrices["masked"].rows()


def test_a_schedule_of_the_run_goes_on_over_tasks_and_one_of_the_task_begins_anew():
    def rates(span):
        trainer = small_trainer(
            small_dataset(40),
            STRATEGIES.build("finetune"),
            schedule=Step(span=span, milestones=[1]),
            batch_size=10,
            epochs=2,
        )
        seen = []
        trainer._phases._optimisation_step = lambda learner, *_: seen.append(learner.rate)
        trainer.run()
        return seen

    assert rates("task") == pytest.approx([0.1, 0.1, 0.01, 0.01] * 2)
    assert rates("run") == pytest.approx([0.1, 0.1, *[0.01] * 6])


def test_duplicates_in_the_buffers_end_the_run():
    class Duplicated:
        settings = RehearsalSettings(1, 1)
        recorder = None

        def begin_task(self, index, accuracies):
            pass

        def extend(self, minibatch):
            return minibatch

        def duplicate_share(self):
            return 0.02

    trainer = small_trainer(small_dataset(40), STRATEGIES.build("er"), rehearsal=Duplicated())
    with pytest.raises(ValueError, match=r"2\.0% of all exemplars are stored more than once .*allow_duplicates=true"):
        trainer.run()


def test_scores_hold_what_metrics_need():
    trainer = small_trainer(
        small_dataset(60),
        STRATEGIES.build("finetune"),
        scenario_options={"num_tasks": 2, "validation": 0.2},
        batch_size=5,
        epochs=40,
    )
    trainer.run()
    summary = trainer.scores.summary()
    matrix = summary["accuracy_matrix"]
    assert [[value is not None for value in row] for row in matrix] == [[True, True], [True, True]]
    assert matrix[0][0] > 0.9
    assert matrix[0][1] == 0.0  # classes that the head does not know yet
    assert summary["masked_matrix"][1][1] > 0.9
    assert len(summary["baselines"]) == 2
    assert summary["fwt"] == matrix[0][1] - summary["baselines"][1]
    assert summary["bwt"] == matrix[1][0] - matrix[0][0]
    assert summary["validation_matrix"][1][1] > 0.9


def test_one_seed_gives_one_result():
    def train():
        with Rehearsal(capacity=8, exemplars=4, verbose=False) as rehearsal:
            trainer = small_trainer(small_dataset(40), STRATEGIES.build("er"), rehearsal=rehearsal, batch_size=5)
            trainer.run()
        return weights(trainer.network)

    first, second = train(), train()
    assert all(np.array_equal(first[name], second[name]) for name in first)
