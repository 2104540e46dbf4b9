"""Samples that are no images, floats of any shape: statistics, normalisation, models, cache, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from drb.data.datasets import CachedDataset, TensorSource, tensor_dataset
from drb.data.scenarios import build_scenario
from drb.training.augment import Preprocess
from drb.training.models import build_model

SHAPES = [(5,), (6, 3), (2, 4, 4)]


def samples_of(shape, count=40, dtype=np.float64):
    rng = np.random.default_rng(0)
    return rng.normal(3.0, 2.0, (count, *shape)).astype(dtype), np.arange(count) % 4


class Table(CachedDataset):
    """Floats in a cache."""

    def load(self, say, known_classes=()):
        return self.cached(lambda: tensor_dataset(samples_of((6, 3)), samples_of((6, 3), 8)), {"version": 1}, say)


def everything(source):
    return source.gather(np.arange(len(source)))


@pytest.mark.parametrize(("shape", "axes"), [((5,), 0), ((6, 3), (0, 1)), ((2, 4, 4), (0, 2, 3))])
def test_each_channel_is_normalised_by_its_own_moments(shape, axes):
    samples, labels = samples_of(shape)
    samples.reshape(len(samples), -1)[:, 0] = 7.0  # of [D] a feature that never changes
    dataset = tensor_dataset((samples, labels), (samples, labels))
    assert (dataset.image_shape, dataset.dtype, dataset.num_classes) == (shape, torch.float32, 4)
    stored = samples.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(dataset.mean, stored.mean(axes), rtol=1e-6)
    np.testing.assert_allclose(dataset.std, np.where(stored.std(axes) < 1e-9, 1.0, stored.std(axes)), rtol=1e-6)
    inputs = Preprocess(mean=dataset.mean, std=dataset.std).train(everything(dataset.train)["image"], None)
    assert (inputs.dtype, inputs.shape) == (torch.float32, samples.shape)
    np.testing.assert_allclose(inputs.double().numpy().mean(axes), 0.0, atol=1e-5)
    assert build_model("mlp", dataset.image_shape, 4, hidden=[7])(inputs).shape == (40, 4)


@pytest.mark.parametrize("model", ["cnn", "resnet18"])
def test_a_model_of_images_says_so(model):
    with pytest.raises(ValueError, match=rf"{model} takes images \[C, H, W\], got samples of the shape \[5\]"):
        build_model(model, (5,), 2)


def test_a_cache_of_floats_gives_the_same_samples(tmp_path):
    lines = []
    made = Table(root=str(tmp_path), cache="always").load(lines.append)
    again = Table(root=str(tmp_path), cache="always").load(lines.append)
    plain = Table(root=str(tmp_path), cache="never").load(lines.append)
    assert isinstance(plain.train, TensorSource)
    assert made.cache == again.cache is not None
    assert len(lines) == 1
    assert (again.dtype, again.image_shape, again.mean, again.std) == (
        plain.dtype,
        plain.image_shape,
        plain.mean,
        plain.std,
    )
    for name, column in everything(plain.train).items():
        assert torch.equal(everything(again.train)[name], column), name


def test_samples_with_more_fields_are_not_cached_without_them(tmp_path):
    class Targets(CachedDataset):
        def load(self, say, known_classes=()):
            samples = samples_of((6, 3))
            return self.cached(lambda: tensor_dataset(samples, samples, targets=(samples[1], samples[1])), {}, say)

    lines = []
    data = Targets(root=str(tmp_path), cache="always").load(lines.append)
    assert lines == ["not cached: a cache keeps images and labels, and these samples have target, too"]
    assert everything(data.train)["target"].tolist() == [float(label) for label in data.train.labels]


@pytest.mark.parametrize("shape", SHAPES)
def test_values_of_a_domain_are_permuted(shape):
    samples, labels = samples_of(shape)
    dataset = tensor_dataset((samples, labels), (samples, labels))
    first, second = build_scenario("domain_incremental", dataset, seed=0, num_tasks=2)
    assert not torch.equal(everything(first.train)["image"], everything(second.train)["image"])
    sums = [everything(task.train)["image"].double().flatten(1).sum(dim=1) for task in (first, second)]
    assert torch.allclose(*sums)


def test_only_images_are_rotated():
    samples = samples_of((5,))
    with pytest.raises(ValueError, match=r"rotated turns images .* have the shape \[5\]; write"):
        build_scenario("domain_incremental", tensor_dataset(samples, samples), seed=0, transform="rotated")


def broken(value):
    samples, labels = samples_of((5,))
    samples[7, 1] = value
    return samples, labels


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        (broken(np.nan), samples_of((5,)), "the training samples of mine hold 1 values that are NaN or infinite, the"),
        (samples_of((5,)), broken(np.inf), "the test samples of mine hold 1 values .* the first in sample 7"),
        (samples_of((5,), dtype=np.int64), samples_of((5,)), r"or floats \[n, …\], got int64 \[40, 5\]"),
        (samples_of(()), samples_of(()), r"or floats \[n, …\], got float32 \[40\]"),
        (samples_of((5,)), samples_of((6,)), r"must be alike, got float32 \[40, 5\] and float32 \[40, 6\]"),
        ((samples_of((5,))[0], np.zeros(3, int)), samples_of((5,)), r"must be integers \[40\], got int64 \[3\]"),
        ((samples_of((5,))[0], np.zeros(40)), samples_of((5,)), r"must be integers \[40\], got float64 \[40\]"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(train, test, said):
    with pytest.raises(ValueError, match=said):
        tensor_dataset(train, test, name="mine")
