"""Streams: what each task holds, that ids never repeat, and that nothing is made before it is asked for."""

import itertools

import numpy as np
import pytest
import torch

from drb.data.datasets import Dataset, TensorSource, load_dataset
from drb.data.ids import in_guise
from drb.data.scenarios import build_scenario


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("synthetic", image_shape=(1, 6, 6), num_classes=10, num_train=203, num_test=50)


ALL = [
    ("class_incremental", {"classes_per_task": 2}),
    ("class_incremental", {"num_tasks": 3, "class_order": "shuffled"}),
    ("task_incremental", {"classes_per_task": 5}),
    ("instance_incremental", {"num_tasks": 4}),
    ("domain_incremental", {"num_tasks": 3}),
    ("domain_incremental", {"num_tasks": 3, "transform": "rotated"}),
]


@pytest.mark.parametrize(("name", "options"), ALL)
def test_ids_are_unique_over_the_stream_and_validation_is_held_out(dataset, name, options):
    tasks = list(build_scenario(name, dataset, seed=5, validation=0.2, **options))
    assert [task.index for task in tasks] == list(range(len(tasks)))
    ids = np.concatenate([source.sample_ids for task in tasks for source in (task.train, task.validation)])
    assert len(np.unique(ids)) == len(ids)
    for task in tasks:
        total = len(task.train) + len(task.validation)
        assert len(task.validation) == round(0.2 * total)
        for source in (task.train, task.validation, task.test):
            assert set(source.labels) <= set(task.classes)


@pytest.mark.parametrize(("name", "options"), ALL)
def test_a_stream_repeats_itself_and_follows_its_seed(dataset, name, options):
    scenario = build_scenario(name, dataset, seed=5, validation=0.2, **options)
    first, second = ([task.train.sample_ids.tolist() for task in scenario] for _ in range(2))
    other = [
        task.train.sample_ids.tolist() for task in build_scenario(name, dataset, seed=6, validation=0.2, **options)
    ]
    assert first == second
    assert first != other


def test_class_incremental_covers_every_sample_once_in_natural_order(dataset):
    tasks = list(build_scenario("class_incremental", dataset, seed=0, classes_per_task=3))
    assert [task.classes for task in tasks] == [(0, 1, 2), (3, 4, 5), (6, 7, 8), (9,)]
    assert sorted(np.concatenate([task.train.sample_ids for task in tasks])) == list(range(203))
    assert all(task.validation is None for task in tasks)
    assert not any("task" in task.train.gather(np.arange(2)) for task in tasks)


def test_fewer_tasks_than_classes_allow(dataset):
    tasks = list(build_scenario("class_incremental", dataset, seed=0, classes_per_task=2, num_tasks=3))
    assert [task.classes for task in tasks] == [(0, 1), (2, 3), (4, 5)]


def test_shuffled_classes_are_renumbered_in_order_of_appearance(dataset):
    tasks = list(build_scenario("class_incremental", dataset, seed=1, classes_per_task=2, class_order="shuffled"))
    assert [task.classes for task in tasks] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    original = [int(name) for task in tasks for name in task.name.removeprefix("classes ").split(",")]
    assert original != list(range(10))
    assert sorted(original) == list(range(10))
    for task in tasks:
        for source, raw in ((task.train, dataset.train), (task.test, dataset.test)):
            minibatch = source.gather(np.arange(len(source)))
            ids = minibatch["sample_id"].numpy()
            np.testing.assert_array_equal(np.array(original)[minibatch["label"]], raw.labels[ids])


def test_task_incremental_tells_the_task(dataset):
    scenario = build_scenario("task_incremental", dataset, seed=0, num_tasks=2)
    assert scenario.task_aware
    for task in scenario:
        for source in (task.train, task.test, task.train.subset(np.arange(3))):
            assert source.gather(np.arange(3))["task"].tolist() == [task.index] * 3


def test_instance_incremental_cuts_disjoint_chunks(dataset):
    tasks = list(build_scenario("instance_incremental", dataset, seed=0, num_tasks=4))
    assert sorted(len(task.train) for task in tasks) == [50, 51, 51, 51]
    assert sorted(np.concatenate([task.train.sample_ids for task in tasks])) == list(range(203))
    assert all(len(task.test) == 50 and task.classes == tuple(range(10)) for task in tasks)
    assert all(len(set(task.train.labels)) == 10 for task in tasks)


def test_permuted_moves_pixels_by_one_permutation_per_task(dataset):
    first, second, third = build_scenario("domain_incremental", dataset, seed=0, num_tasks=3)
    plain = dataset.train.gather(np.arange(203))["image"]
    assert torch.equal(first.train.gather(np.arange(203))["image"], plain)
    permuted = second.train.gather(np.arange(203))["image"]
    assert not torch.equal(permuted, plain)
    assert torch.equal(permuted.flatten(1).sort(1).values, plain.flatten(1).sort(1).values)
    # one permutation for all: equal pixel columns of the set stay equal, and test images move alike
    order = [int((plain.flatten(1) == column[:, None]).all(0).nonzero()) for column in permuted.flatten(1).T]
    tested = second.test.gather(np.arange(50))["image"].flatten(1)
    assert torch.equal(tested, dataset.test.gather(np.arange(50))["image"].flatten(1)[:, order])
    assert not torch.equal(third.train.gather(np.arange(203))["image"], permuted)
    ids = np.concatenate([task.train.sample_ids for task in (first, second, third)])
    assert len(np.unique(ids)) == 3 * 203  # a sample has an id of its own in every guise
    assert ids.min() >= 0


def test_permuted_uses_the_same_permutation_for_all_channels():
    image = torch.arange(12, dtype=torch.uint8).view(1, 1, 3, 4).expand(1, 3, 3, 4).contiguous()
    source = TensorSource({"image": image, "label": torch.zeros(1, dtype=torch.int64), "sample_id": torch.arange(1)})
    dataset = Dataset(source, source, (3, 3, 4), 1, (0.0,) * 3, (1.0,) * 3)
    _, task = build_scenario("domain_incremental", dataset, seed=0, num_tasks=2)
    permuted = task.train.gather(np.arange(1))["image"][0]
    assert torch.equal(permuted[0], permuted[1])
    assert torch.equal(permuted[0], permuted[2])


def test_rotated_turns_by_one_angle_per_task():
    image = torch.zeros(2, 1, 9, 9, dtype=torch.uint8)
    image[:, :, 4, 8] = 255  # right of the centre
    source = TensorSource({"image": image, "label": torch.zeros(2, dtype=torch.int64), "sample_id": torch.arange(2)})
    dataset = Dataset(source, source, (1, 9, 9), 1, (0.0,), (1.0,))
    tasks = list(build_scenario("domain_incremental", dataset, seed=2, num_tasks=5, transform="rotated", max_angle=90))
    angles = []
    for task in tasks:
        turned = task.train.gather(np.arange(2))["image"]
        assert torch.equal(turned[0], turned[1])
        weight = turned[0, 0].double() / turned[0, 0].sum()
        up, right = (4 - weight.sum(1) @ torch.arange(9.0).double()), (weight.sum(0) @ torch.arange(9.0).double() - 4)
        angles.append(float(torch.rad2deg(torch.atan2(up, right))))
    assert angles[0] == 0
    assert len({round(angle) for angle in angles}) == 5
    assert all(-1 <= angle <= 91 for angle in angles)


def test_held_out_images_of_a_domain_stream_are_never_trained_on(dataset):
    tasks = list(build_scenario("domain_incremental", dataset, seed=0, num_tasks=3, validation=0.1))
    held_out = {tuple(np.sort(in_guise(task.validation.sample_ids, task.index))) for task in tasks}
    assert len(held_out) == 1


def test_domain_streams_may_be_endless_and_tasks_are_made_when_asked_for(dataset):
    scenario = build_scenario("domain_incremental", dataset, seed=0)
    names = [task.name for task in itertools.islice(scenario, 30)]
    assert names[-1] == "permuted 30"


@pytest.mark.parametrize(("name", "options"), ALL)
def test_no_task_is_made_before_it_is_asked_for(dataset, name, options):
    made = []

    class Counted(TensorSource):
        @property
        def labels(self):
            made.append("labels")
            return super().labels

        def gather(self, indices):
            made.append("gather")
            return super().gather(indices)

    lazy = Dataset(
        train=Counted(dataset.train.columns),
        test=Counted(dataset.test.columns),
        image_shape=dataset.image_shape,
        num_classes=dataset.num_classes,
        mean=dataset.mean,
        std=dataset.std,
    )
    stream = iter(build_scenario(name, lazy, seed=0, **options))
    assert "gather" not in made
    made.clear()
    next(stream)
    after_one = len(made)
    next(stream)
    assert len(made) <= 2 * after_one


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("online", {}, "unknown scenario 'online'; choose arrivals, base_plus_new, class_incremental"),
        ("class_incremental", {}, "needs classes_per_task or num_tasks"),
        ("class_incremental", {"classes_per_task": 11}, r"in \[1, 10\], the classes there are, got 11"),
        ("class_incremental", {"num_tasks": 0}, "class_incremental.num_tasks must be at least 1, got 0"),
        ("class_incremental", {"num_tasks": 11}, r"num_tasks must be in \[1, 10\].* got 11"),
        ("class_incremental", {"classes_per_task": 4, "num_tasks": 4}, "4 tasks of 4 classes do not fit .* at most 3"),
        ("class_incremental", {"classes_per_task": 2, "class_order": "random"}, "natural or shuffled, got 'random'"),
        (
            "class_incremental",
            {"clases": 2},
            "no option clases; it has validation, classes_per_task",
        ),
        ("instance_incremental", {"num_tasks": 300}, r"in \[1, 203\].* got 300"),
        ("domain_incremental", {"transform": "blurred"}, "permuted or rotated, got 'blurred'"),
        ("domain_incremental", {"num_tasks": 0}, "at least 1.* got 0"),
        ("domain_incremental", {"max_angle": 400}, "got 400"),
        (
            "instance_incremental",
            {"num_tasks": 2, "validation": 1.0},
            "validation must be at least 0 and below 1",
        ),
    ],
)
def test_errors_say_what_is_allowed(dataset, name, options, message):
    with pytest.raises(ValueError, match=message):
        build_scenario(name, dataset, seed=0, **options)


def test_a_task_without_samples_is_named():
    source = load_dataset("synthetic", num_classes=2, num_train=10, num_test=4).train
    dataset = Dataset(source, source, (3, 32, 32), 4, (0.0,) * 3, (1.0,) * 3)
    stream = iter(build_scenario("class_incremental", dataset, seed=0, classes_per_task=2))
    next(stream)
    with pytest.raises(ValueError, match=r"task 2 has no training samples: the dataset has none of classes \[2, 3\]"):
        next(stream)
