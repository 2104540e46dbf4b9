"""What load_dataset gives, and what it says when it cannot."""

import gzip
import urllib.error

import numpy as np
import pytest
import torch

from drb.data.datasets import downloaded, fashion_mnist, load_dataset


def test_digits_are_scaled_split_by_class_and_reproducible():
    dataset = load_dataset("digits", seed=3)
    images = torch.cat([dataset.train.gather(np.arange(len(dataset.train)))["image"], _test_images(dataset)])
    assert images.dtype == torch.uint8
    assert images.shape == (1797, 1, 8, 8)
    assert (int(images.min()), int(images.max())) == (0, 255)
    assert dataset.image_shape == (1, 8, 8)
    per_class = np.bincount(np.concatenate([dataset.train.labels, dataset.test.labels]))
    assert per_class.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # scikit-learn's
    np.testing.assert_allclose(np.bincount(dataset.test.labels) / per_class, 0.2, atol=0.005)
    assert torch.equal(_test_images(dataset), _test_images(load_dataset("digits", seed=3)))
    assert not torch.equal(_test_images(dataset)[:300], _test_images(load_dataset("digits", seed=4))[:300])


def test_sample_ids_are_contiguous_and_statistics_those_of_the_training_images():
    dataset = load_dataset("synthetic", image_shape=[3, 8, 8], num_train=500, num_test=20)
    np.testing.assert_array_equal(dataset.train.sample_ids, np.arange(500))
    pixels = dataset.train.gather(np.arange(500))["image"].double() / 255
    np.testing.assert_allclose(dataset.mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, pixels.std((0, 2, 3), correction=0), rtol=1e-12)


def test_synthetic_is_seeded_and_learnable():
    dataset = load_dataset("synthetic", image_shape=(1, 6, 5), num_classes=4, num_train=400, num_test=100, seed=1)
    again = load_dataset("synthetic", image_shape=(1, 6, 5), num_classes=4, num_train=400, num_test=100, seed=1)
    assert torch.equal(_test_images(dataset), _test_images(again))
    train = dataset.train.gather(np.arange(400))
    means = torch.stack([train["image"][train["label"] == label].float().mean(0) for label in range(4)])
    distances = torch.cdist(_test_images(dataset).float().flatten(1), means.flatten(1))
    assert (distances.argmin(1).numpy() == dataset.test.labels).mean() > 0.95


def test_fashion_mnist_is_read_from_debians_files(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("t10k", 10)):
        images, labels = rng.integers(0, 256, (count, 28, 28), np.uint8), np.arange(count, dtype=np.uint8) % 10
        with gzip.open(tmp_path / f"{split}-images-idx3-ubyte.gz", "wb") as file:
            file.write(bytes(16) + images.tobytes())
        with gzip.open(tmp_path / f"{split}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(bytes(8) + labels.tobytes())
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FASHION_MNIST", tmp_path)
    dataset = load_dataset("fashion_mnist", root=tmp_path / "unused")
    assert (len(dataset.train), len(dataset.test), dataset.image_shape) == (30, 10, (1, 28, 28))
    assert torch.equal(_test_images(dataset)[:, 0], torch.from_numpy(images))
    np.testing.assert_array_equal(dataset.test.labels, labels)
    assert not (tmp_path / "unused").exists()


def test_a_data_file_that_is_cut_short_or_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FASHION_MNIST", tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    with pytest.raises(ValueError, match=f"the data file {path} cannot be read .*No such file"):
        load_dataset("fashion_mnist")
    content = gzip.compress(np.random.default_rng(0).bytes(16 + 784))
    path.write_bytes(content[:-100])
    with pytest.raises(ValueError, match=f"the data file {path} cannot be read"):
        load_dataset("fashion_mnist")
    path.write_bytes(gzip.compress(bytes(16 + 700)))
    with pytest.raises(ValueError, match=f"the data file {path} is cut short"):
        load_dataset("fashion_mnist")


@pytest.mark.skipif(not fashion_mnist.DEBIAN_FASHION_MNIST.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_whole():
    dataset = load_dataset("fashion_mnist")
    assert np.bincount(dataset.train.labels).tolist() == [6000] * 10
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    np.testing.assert_allclose(dataset.mean + dataset.std, (0.2860, 0.3530), atol=1e-4)  # the published figures


@pytest.mark.parametrize(("name", "library_name"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_cifar_becomes_channels_first(name, library_name, tmp_path, monkeypatch):
    import torchvision

    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)

    class Stub:
        data, targets = pixels, [0, 1, 2, 3, 4, 5]

        def __init__(self, root, train, download):
            assert root == tmp_path

    monkeypatch.setattr(torchvision.datasets, library_name, Stub)
    dataset = load_dataset(name, tmp_path)
    assert torch.equal(_test_images(dataset), torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert dataset.num_classes == int(name.removeprefix("cifar"))


def test_a_root_that_cannot_be_written_is_only_read(tmp_path, monkeypatch):
    monkeypatch.setattr(downloaded.os, "access", lambda path, mode: False)
    with downloaded._exclusive(tmp_path):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [urllib.error.URLError("no route"), RuntimeError("File not found or corrupted.")])
def test_failing_download_names_dataset_and_root(failure, tmp_path, monkeypatch):
    import torchvision

    def fail(*args, **kwargs):
        raise failure

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    with pytest.raises(ValueError, match=rf"CIFAR10 is not under dataset.root={tmp_path}.*set dataset.root"):
        load_dataset("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar11", {}, "unknown dataset 'cifar11'; did you mean cifar10. choose arrivals, cifar10, cifar100"),
        ("digits", {"sed": 1}, "digits has no option sed; did you mean seed. it has root, seed, test_fraction"),
        ("cifar10", {"seed": 1}, "cifar10 has no option seed; it has root, cache, cache_dir, cache_limit"),
        ("digits", {"test_fraction": 1.5}, "digits.test_fraction must be above 0 and below 1, got 1.5"),
        ("synthetic", {"image_shape": (3, 0, 4)}, r"synthetic.image_shape must be at least 1, got \(3, 0, 4\)"),
        ("synthetic", {"image_shape": [4, 4]}, r"synthetic.image_shape must be \[C, H, W\], got \[4, 4\]"),
    ],
)
def test_errors_say_what_is_allowed(name, options, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(name, **options)


def _test_images(dataset):
    return dataset.test.gather(np.arange(len(dataset.test)))["image"]
