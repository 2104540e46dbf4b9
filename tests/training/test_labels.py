"""Labels that the head has no output for are named before a loss meets them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from training.parts import small_dataset, small_trainer

from drb.data.datasets import TensorSource
from drb.data.scenarios.instance_incremental import InstanceIncremental
from drb.training.objectives.classification import check_labels
from drb.training.strategies import STRATEGIES


@pytest.mark.parametrize(("label", "num_classes"), [(4, 4), (-1, 4), (-100, 4), (2**62, 4), (1, 1)])
def test_the_first_label_out_of_range_is_named_with_its_sample(label, num_classes):
    labels, ids = np.array([0, 0, label, 99]), np.array([7, 8, 9, 10])
    check_labels(labels[:2], ids[:2], num_classes, "task 0")
    check_labels(labels[:0], ids[:0], num_classes, "task 0")
    with pytest.raises(ValueError, match=f"sample 9 of task 0 has the label {label}, but the head has {num_classes} o"):
        check_labels(labels, ids, num_classes, "task 0")


@pytest.mark.parametrize("label", [9, -1])
def test_a_stream_with_a_wrong_label_ends_before_the_first_step(label):
    class Relabelled(InstanceIncremental):
        """Its sample 6 has another label than in the data set."""

        def __iter__(self):
            for task in super().__iter__():
                columns = task.train.gather(np.arange(len(task.train)))
                columns["label"][columns["sample_id"] == 6] = label
                yield replace(task, train=TensorSource(columns))

    trainer = small_trainer(
        small_dataset(40),
        STRATEGIES.build("finetune"),
        scenario=Relabelled,
        scenario_options={"num_tasks": 1},
        num_outputs=4,
    )
    message = rf"sample 6 of task 1 \(.*\) has the label {label}, but the head has 4 outputs, for labels 0 to 3"
    with pytest.raises(ValueError, match=message):
        trainer.run()
    assert trainer.steps == 0


def test_a_source_that_reads_files_is_checked_by_the_minibatch():
    class Lying(TensorSource):
        """Its minibatches say what its labels do not, as files may that changed meanwhile."""

        in_memory = False

        def gather(self, indices):
            minibatch = super().gather(indices)
            return minibatch | {"label": torch.where(minibatch["sample_id"] == 6, 77, minibatch["label"])}

        def subset(self, indices):
            return Lying(TensorSource.gather(self, indices))

    dataset = small_dataset(40)
    object.__setattr__(dataset, "train", Lying(dataset.train.columns))
    trainer = small_trainer(
        dataset,
        STRATEGIES.build("finetune"),
        scenario="instance_incremental",
        scenario_options={"num_tasks": 1},
        num_outputs=4,
        batch_size=4,
    )
    with pytest.raises(ValueError, match=r"sample 6 of the minibatch of step \d+ has the label 77"):
        trainer.run()
