"""Data whose labels or shapes cannot be right is refused in one line; what may be meant is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from drb.data.check import check_dataset, notes_on
from drb.data.datasets import Dataset, TensorSource, tensor_dataset
from drb.data.scenarios import build_scenario

SCENARIOS = {
    "class_incremental": {"num_tasks": 1},
    "task_incremental": {"num_tasks": 1},
    "instance_incremental": {"num_tasks": 2},
    "domain_incremental": {"num_tasks": 2},
}


def table(labels, test_labels=None, num_classes=None):
    """Samples of five measurements with these labels."""
    given = [np.asarray(labels), np.asarray(labels if test_labels is None else test_labels)]
    train, test = ((np.zeros((len(each), 5), np.float32), each) for each in given)
    return tensor_dataset(train, test, num_classes, name="patients")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            table([-1, 1] * 4),
            r"4 of the 8 training samples of patients have labels outside 0 … 1 \(num_classes=2\): -1; number the cl",
        ),
        (table([0, 1, 2, 3] * 2, num_classes=3), r"2 of the 8 training samples .* outside 0 … 2 .*: 3; "),
        (table([0, 1, 0, 1], [0, 1, -7]), r"1 of the 3 test samples .* outside 0 … 1 .*: -7; "),
        (table([0, 1, 2], [0, 1, 5, 5]), r"2 of the 4 test samples .* outside 0 … 2 .*: 5; "),
        (table([0, 1, 3], [0, 1, 2, 2]), r"2 of the 4 test samples of patients have labels that no training .*: 2; "),
        (table(range(9), range(9), num_classes=2), r"7 of the 9 .*: 2, 3, 4, 5, 6, …; "),
    ],
)
def test_labels_that_are_no_classes_are_refused_in_every_scenario(data, message):
    for name, options in SCENARIOS.items():
        with pytest.raises(ValueError, match=message):
            build_scenario(name, data, seed=0, **options)


def test_an_own_data_set_is_checked_like_any_other():
    columns = {"image": torch.zeros(4, 1, 2, 2, dtype=torch.uint8), "label": torch.tensor([1, 2, 1, 2])}
    source = TensorSource({**columns, "sample_id": torch.arange(4)})
    own = Dataset(source, source, (1, 2, 2), num_classes=2, mean=(0.0,), std=(1.0,))
    with pytest.raises(ValueError, match=r"2 of the 4 training samples of unnamed .* outside 0 … 1 .*: 2; "):
        build_scenario("class_incremental", own, seed=0, num_tasks=1)


def test_classes_without_training_samples_are_told():
    assert notes_on(table([0, 1, 2])) == []
    [note] = notes_on(table([1, 2, 3, 4]))
    assert note.startswith("no training sample of patients has the label 0 (1 of 5 classes): tasks and outputs")
    [note] = notes_on(table([0, 10, 20]))
    assert "has the labels 1, 2, 3, 4, 5, … (18 of 21 classes)" in note


def test_images_with_their_channels_last_are_not_taken_for_images_of_many_channels():
    labels = np.arange(6) % 2

    def images(shape, dtype):
        return tensor_dataset((np.zeros((6, *shape), dtype), labels), (np.zeros((6, *shape), dtype), labels), name="x")

    with pytest.raises(ValueError, match=r"images of x must be \[C, H, W\], and \[8, 9, 3\] looks like \[H, W, C\]; "):
        build_scenario("class_incremental", images((8, 9, 3), np.uint8), seed=0, num_tasks=1)
    [note] = notes_on(images((8, 9, 1), np.float32))
    assert note.startswith("if the samples of x are images, they must be [C, H, W], and [8, 9, 1] looks like")
    for shape in ((3, 8, 8), (1, 9, 3), (8, 8, 8), (4, 7, 1)):
        check_dataset(images(shape, np.uint8))
    assert notes_on(images((8, 3), np.float32)) == []


STRINGS = np.array(list("abcd"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            STRINGS,
            r"labels of the training samples of x must be integers \[4\], got strings \(<U1 \[4\]\): number",
        ),
        (STRINGS.astype(object), r"must be integers \[4\], got objects \(object \[4\]\)"),
        (np.array(["2026-11-26"] * 4, "datetime64[D]"), r"got dates"),
        ([[1], [1, 2], [3], [4]], r"must be integers \[4\], got list that is no array"),
        (np.arange(4.0), r"integers \[4\], got float64 \[4\]; numbers to learn by regression are given as targets="),
        (np.array([True] * 4), r"got bool \[4\]$"),
        (np.arange(3), r"got int64 \[3\]$"),
        (None, r"got objects"),
    ],
)
def test_labels_that_are_no_integers_are_named_for_what_they_are(labels, message):
    samples = np.zeros((4, 5))
    with pytest.raises(ValueError, match=message):
        tensor_dataset((samples, labels), (samples, labels), name="x")


def test_a_part_without_samples_says_so():
    some, none = (np.zeros((4, 6)), np.arange(4)), (np.zeros((0, 6)), np.arange(0))
    with pytest.raises(ValueError, match=r"there are no test samples of x, got float32 \[0, 6\]"):
        tensor_dataset(some, none, name="x")
    with pytest.raises(ValueError, match="there are no training samples of x"):
        tensor_dataset(none, some, name="x")


def test_arrays_of_any_byte_order_and_stride_are_taken_as_they_are():
    samples, labels = np.arange(12.0).reshape(4, 3), np.arange(4)
    odd = samples[:, ::-1].astype(">f8"), labels[::-1].astype(">i2")
    dataset = tensor_dataset(odd, (samples.tolist(), labels.tolist()), name="x")
    assert dataset.train.gather(np.arange(4))["image"].tolist() == samples[:, ::-1].tolist()
    assert dataset.train.labels.tolist() == [3, 2, 1, 0]


def test_targets_are_a_field_of_float32_and_labels_may_miss():
    samples, numbers = np.zeros((4, 5)), np.arange(8.0).reshape(4, 2)
    dataset = tensor_dataset((samples, None), (samples, None), targets=(numbers, numbers.astype(np.float16)))
    batch = dataset.train.gather(np.array([2]))
    assert (batch["target"].tolist(), batch["target"].dtype) == ([[4.0, 5.0]], torch.float32)
    assert (dataset.train.labels.tolist(), dataset.num_classes) == ([0, 0, 0, 0], 1)
    grouped = tensor_dataset((samples, [0, 0, 1, 1]), (samples, [0, 1, 1, 1]), targets=(numbers, numbers))
    assert (grouped.train.labels.tolist(), grouped.num_classes) == ([0, 0, 1, 1], 2)
    assert dataset.identity.changes_since(
        tensor_dataset((samples, None), (samples, None), targets=(numbers + 1, numbers)).identity
    )


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ((np.arange(3.0), np.arange(4.0)), r"targets of the training samples of x must be numbers \[4, …\], got fl"),
        ((np.arange(4.0), np.array([0, np.nan, 0, np.inf])), "targets of the test samples of x hold 2 values that are"),
        ((np.arange(4.0), np.zeros((4, 2))), r"test targets of x must be alike, got float32 \[4\] and float32 \[4, 2"),
        ((STRINGS, STRINGS), r"must be numbers \[4, …\], got strings"),
    ],
)
def test_targets_of_another_form_are_refused(targets, message):
    samples = np.zeros((4, 5))
    with pytest.raises(ValueError, match=message):
        tensor_dataset((samples, None), (samples, None), name="x", targets=targets)
