"""What would end a run at a later task is found before the first step, and the task is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from drb.data.datasets import Dataset, View, load_dataset
from drb.data.scenarios import build_scenario
from drb.data.scenarios.check import check_stream
from drb.program.config import compose_config


def dataset(train_per_class, test_per_class):
    """Four classes with so many samples each."""
    whole = load_dataset("synthetic", image_shape=[1, 4, 4], num_classes=4, num_train=400, num_test=400)

    def some(source, counts):
        rows = [np.flatnonzero(source.labels == label)[:count] for label, count in enumerate(counts)]
        return View(source, np.concatenate(rows))

    train, test = some(whole.train, train_per_class), some(whole.test, test_per_class)
    return Dataset(train, test, whole.image_shape, 4, whole.mean, whole.std)


def check(data, world_size=3, name="class_incremental", **options):
    check_stream(build_scenario(name, data, seed=0, **options), world_size)


def test_a_later_task_that_is_too_small_is_named():
    data = dataset([9, 9, 9, 2], [3, 3, 3, 3])
    with pytest.raises(ValueError, match=r"task 4 \(classes 3\) has 2 training samples for 3 ranks"):
        check(data, classes_per_task=1)
    check(data, classes_per_task=2)
    check(data, world_size=2, classes_per_task=1)


def test_a_later_task_without_test_images_is_named():
    data = dataset([9, 9, 9, 9], [3, 3, 0, 3])
    with pytest.raises(ValueError, match=r"task 3 \(classes 2\) has no test images"):
        check(data, classes_per_task=1)
    check(data, classes_per_task=2)


def test_two_samples_of_one_id_are_refused_wherever_they_are():
    data = dataset([9, 9, 9, 9], [3, 3, 3, 3])
    twice = View(data.train.source, np.concatenate([data.train.indices, data.train.indices[-1:]]))
    with pytest.raises(ValueError, match=r"two training samples of task 4 \(classes 3\) have the sample id \d+: "):
        check(replace(data, train=twice), classes_per_task=1)

    class Overlapping(type(build_scenario("instance_incremental", data, seed=0, num_tasks=2))):
        def __iter__(self):
            for task in super().__iter__():
                yield replace(task, train=View(self.dataset.train, np.arange(5)))

    with pytest.raises(ValueError, match="samples of task 1 .chunk 1. and task 2 .chunk 2. have the sample id"):
        check(data, name=Overlapping, num_tasks=2)


def test_streams_without_end_are_not_looked_through():
    check(dataset([9] * 4, [3] * 4), name="domain_incremental")


@pytest.mark.parametrize(
    ("arguments", "epochs"),
    [([], 8), (["dataset=digits"], 8), (["dataset=synthetic"], 1), (["dataset=synthetic", "experiment=digits"], 8)],
)
def test_another_data_set_does_not_get_the_settings_of_the_digits_experiment(arguments, epochs):
    config, _ = compose_config(arguments, "id")
    default, _ = compose_config(["experiment=none"], "id")
    assert config.training.epochs == (epochs if epochs == 8 else default.training.epochs)
    assert config.checkpoint.at_task_end == (default.checkpoint.at_task_end if epochs == 1 else False)
