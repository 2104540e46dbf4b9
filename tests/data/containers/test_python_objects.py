"""Data sets that a Python function returns: indexed, iterated, with and without ids."""

import numpy as np
import pytest
from data.containers.files import COUNT, of_both
from PIL import Image

from drb.data.datasets import load_dataset


def pairs(count=COUNT):
    return [(Image.new("RGB", (4, 4), (n, n, n)), n % 3) for n in range(count)]


def stream_of(count=COUNT, ids=False):
    class Stream:
        def __iter__(self):
            for image, label in pairs(count):
                yield {
                    "image": np.array(image).transpose(2, 0, 1),
                    "label": label,
                    **({"sample_id": label} if ids else {}),
                }

    return Stream(), pairs(4)


def broken():
    yield from pairs(3)
    raise OSError("the disk is gone")


def test_python_objects_with_indices_and_iterables(tmp_path):
    dataset = load_dataset("python", function=f"{__name__}.pairs")
    assert dict(of_both(dataset).values()) == {n: n % 3 for n in range(COUNT)}
    more = load_dataset("python", function=f"{__name__}.pairs", arguments={"count": 20})
    assert of_both(dataset).items() <= of_both(more).items()
    dataset = load_dataset("python", function=f"{__name__}.stream_of", spool_dir=str(tmp_path))
    assert (len(dataset.train), len(dataset.test), dataset.image_shape) == (COUNT, 4, (3, 4, 4))
    assert not list(tmp_path.iterdir())


def numbered(shade):
    return [{"image": np.full((3, 4, 4), shade, np.uint8), "label": n % 3, "sample_id": n} for n in range(4)]


def test_images_that_change_under_given_ids_are_other_data():
    first, other = (load_dataset("python", function=f"{__name__}.numbered", arguments={"shade": n}) for n in (1, 2))
    assert first.train.sample_ids.tolist() == other.train.sample_ids.tolist()
    assert first.identity.fingerprint != other.identity.fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"dataset.function is empty"),
        ({"function": "nowhere.at_all"}, r"dataset.function=nowhere.at_all cannot be imported"),
        ({"function": f"{__name__}.broken"}, r"broken raised OSError: the disk is gone"),
        (
            {"function": f"{__name__}.stream_of", "arguments": {"ids": True}},
            r"samples 0 and 3 of .* same sample_id",
        ),
        ({"function": f"{__name__}.pairs", "arguments": {"count": 0}}, r"gives no samples"),
        ({"function": f"{__name__}.pairs", "arguments": {"size": 0}}, r"raised TypeError: .*size"),
    ],
)
def test_python_objects_that_cannot_be_used(options, message):
    with pytest.raises(ValueError, match=message):
        load_dataset("python", **options)
