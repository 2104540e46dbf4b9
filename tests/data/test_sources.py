"""Sources keep to their contract however they are stacked."""

from pathlib import Path

import numpy as np
import pytest
import torch

from drb.data.datasets import Concat, FolderSource, MappedSource, TensorSource, View
from drb.data.decoding.pool import DecoderPool
from drb.data.ids import in_guise
from drb.data.with_columns import WithColumns, with_columns


def tensors(count=12, first_id=0):
    generator = torch.Generator().manual_seed(count)
    return TensorSource(
        {
            "image": torch.randint(0, 256, (count, 2, 3, 3), dtype=torch.uint8, generator=generator),
            "label": torch.arange(count) % 4,
            "sample_id": torch.arange(count) + first_id,
        }
    )


def folder(tmp_path):
    from PIL import Image

    for index in range(7):
        Image.new("RGB", (5, 5), (index, 0, 0)).save(tmp_path / f"{index}.png")
    names = np.array([f"{index}.png".encode() for index in range(7)])
    decoders = DecoderPool(2, resize=4, image_size=4)
    return FolderSource(tmp_path, names, np.arange(7) % 2, np.arange(7), image_size=4, decoders=decoders)


def mapped():
    images = np.random.default_rng(0).integers(0, 256, (9, 2, 3, 3), np.uint8)
    return MappedSource(images, np.arange(9) % 4, np.arange(9), np.zeros(9, np.bool_), where=Path("cache"))


def sources(tmp_path):
    base = tensors()
    inverted = View(base, np.arange(11, 2, -1), transform=lambda x: 255 - x, guise=2, task=2)
    yield base
    yield View(base, np.array([3, 1, 7, 11, 0]), label_map=np.array([2, 3, 0, 1]))
    yield inverted
    yield View(inverted, np.array([4, 0, 2]), guise=1)
    yield Concat([tensors(3), tensors(5, first_id=3), View(tensors(9), np.array([8, 2]), guise=1)])
    yield folder(tmp_path)
    yield View(folder(tmp_path), np.array([6, 2, 4]), guise=1, task=1)
    yield Concat([folder(tmp_path), View(folder(tmp_path), np.array([3, 1]), guise=1)])
    yield mapped()
    yield View(mapped(), np.array([8, 2, 4]), transform=lambda x: 255 - x, label_map=np.array([2, 3, 0, 1]), task=1)
    yield Concat([mapped(), View(mapped(), np.array([3, 1]), guise=1)])


def test_gather_agrees_with_labels_ids_and_subset(tmp_path):
    for source in sources(tmp_path):
        everything = source.gather(np.arange(len(source)))
        np.testing.assert_array_equal(everything["label"], source.labels)
        np.testing.assert_array_equal(everything["sample_id"], source.sample_ids)
        nothing = source.gather(np.empty(0, np.int64))  # as of a rank without test samples
        assert {name: column.shape for name, column in nothing.items()} == {
            name: (0, *column.shape[1:]) for name, column in everything.items()
        }
        indices = np.random.default_rng(0).permutation(len(source))[: len(source) - 1]
        part = source.subset(indices)
        assert len(part) == len(indices)
        np.testing.assert_array_equal(part.labels, source.labels[indices])
        np.testing.assert_array_equal(part.sample_ids, source.sample_ids[indices])
        assert part.in_memory == source.in_memory
        for gathered in (source.gather(indices), part.gather(np.arange(len(part)))):
            assert gathered.keys() == everything.keys()
            for name, column in gathered.items():
                assert column.dtype == (torch.uint8 if name == "image" else torch.int64)
                assert torch.equal(column, everything[name][indices])


def test_view_applies_transform_labels_guise_and_task():
    base = tensors()
    view = View(
        base,
        np.array([5, 2]),
        transform=lambda images: 255 - images,
        label_map=np.array([7, 6, 5, 4]),
        guise=6,
        task=3,
    )
    minibatch = view.gather(np.array([1, 0]))
    assert torch.equal(minibatch["image"], 255 - base.columns["image"][[2, 5]])
    assert minibatch["label"].tolist() == [5, 6]
    assert minibatch["sample_id"].tolist() == in_guise(np.array([2, 5]), 6).tolist()
    assert minibatch["task"].tolist() == [3, 3]


def test_subset_of_tensors_shares_no_memory_and_keeps_only_its_rows():
    base = tensors()
    part = View(base, np.arange(12)).subset(np.array([4, 9]))
    assert isinstance(part, TensorSource)
    assert part.columns["image"].untyped_storage().nbytes() == 2 * 18
    part.columns["image"].zero_()
    assert base.columns["image"][4].any()


def test_a_subset_larger_than_a_block_is_transformed_whole():
    base = TensorSource({"image": torch.zeros(9000, 1, 1, 1, dtype=torch.uint8), **ids(9000)})
    part = View(base, np.arange(9000), transform=lambda images: images + 1).subset(np.arange(8999, -1, -1))
    assert part.gather(np.arange(9000))["image"].min() == 1
    assert part.sample_ids[0] == 8999


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": torch.zeros(2, 1, 1, 1), "label": torch.zeros(2, dtype=torch.int64)}, "'sample_id', got image"),
        ({"label": torch.zeros(2), "sample_id": torch.arange(2)}, r"int64 column 'label', got label torch.float32"),
        ({"label": torch.arange(3), "sample_id": torch.arange(2)}, r"equally long, got label torch.int64 \[3\]"),
    ],
)
def test_columns_are_checked(columns, message):
    with pytest.raises(ValueError, match=message):
        TensorSource(columns)


def test_concat_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one source"):
        Concat([])


def ids(count):
    return {"label": torch.zeros(count, dtype=torch.int64), "sample_id": torch.arange(count)}


def test_a_column_does_not_replace_a_field():
    fields = {"label": torch.arange(4), "sample_id": torch.arange(4)}
    grouped = WithColumns(TensorSource(fields), {"cluster": torch.zeros(4, dtype=torch.int64)})
    with pytest.raises(ValueError, match="have a field 'cluster' already"):
        with_columns(grouped, {"cluster": torch.ones(4, dtype=torch.int64)}).gather(np.arange(2))
    with pytest.raises(ValueError, match="have a field 'label' already"):
        with_columns(TensorSource(fields), {"label": torch.ones(4, dtype=torch.int64)})
