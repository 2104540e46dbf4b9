"""Folders of images: layout, decoding, and files that cannot be decoded."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from drb.data.datasets import load_dataset


@pytest.fixture
def root(tmp_path):
    """Two classes; images whose left half is dark and right half bright."""
    for split in ("train", "val"):
        for label, name in enumerate(("ant", "bee")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for index in range(3):
                pixels = np.zeros((20, 40, 3), np.uint8)
                pixels[:, 20:] = 200 + 10 * label + index
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path


def test_labels_follow_sorted_class_names_and_shapes_are_fixed(root):
    dataset = load_dataset("image_folder", root, image_size=8, workers=2)
    assert dataset.image_shape == (3, 8, 8)
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    minibatch = dataset.train.gather(np.array([5, 0]))
    assert minibatch["image"].shape == (2, 3, 8, 8)
    assert minibatch["image"].dtype == torch.uint8
    assert minibatch["label"].tolist() == [1, 0]
    # the shorter side (20) becomes 8, so the centre 8 columns span 20 of 40: dark left, bright right
    assert minibatch["image"][0, :, :, 0].max() == 0
    assert minibatch["image"][0, 0, 0, -1] == 212
    assert minibatch["image"][1, 0, 0, -1] == 200


def test_crop_is_the_centre_of_the_resized_image(root):
    whole = load_dataset("image_folder", root, image_size=16).train.gather(np.arange(1))["image"]
    centre = load_dataset("image_folder", root, image_size=8, resize=16).train.gather(np.arange(1))["image"]
    assert torch.equal(centre, whole[:, :, 4:12, 4:12])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_other_modes_become_rgb(root, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new("RGB", (30, 30), (255, 255, 255)).convert(mode).save(root / "train" / "ant" / f"0a.{suffix}")
    source = load_dataset("image_folder", root, image_size=8).train
    assert source.gather(np.array([1]))["image"].min() > 250


@pytest.mark.parametrize("content", [b"not an image", b"\x89PNG\r\n\x1a\n\x00\x00"])
def test_a_broken_file_is_named(root, content):
    broken = root / "train" / "bee" / "9.png"
    broken.write_bytes(content)
    source = load_dataset("image_folder", root, image_size=8).train
    with pytest.raises(ValueError, match=rf"{broken} cannot be decoded"):
        source.gather(np.arange(len(source)))
    source.gather(np.arange(6))  # the others still can be
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("drb")]


def test_layout_errors_name_the_folder(tmp_path, root):
    with pytest.raises(ValueError, match=rf"needs a folder {tmp_path / 'none' / 'train'}"):
        load_dataset("image_folder", tmp_path / "none")
    (root / "val" / "cat").mkdir()
    with pytest.raises(ValueError, match=r"same class folders; only one has \['cat'\]"):
        load_dataset("image_folder", root)
    (root / "train" / "cat").mkdir()
    with pytest.raises(ValueError, match="cat has no image file"):
        load_dataset("image_folder", root)
    with pytest.raises(ValueError, match="resize must be at least image_folder.image_size, 9, got 8"):
        load_dataset("image_folder", root, image_size=9, resize=8)
    with pytest.raises(ValueError, match="image_folder.workers must be at least 1, got 0"):
        load_dataset("image_folder", root, workers=0)


def test_nested_linked_and_oddly_named_files_are_found(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    Image.new("RGB", (8, 8), (9, 9, 9)).save(elsewhere / "käfer 1.PNG")
    (root / "train" / "ant" / "more").symlink_to(elsewhere)
    (root / "train" / "ant" / "notes.txt").write_text("not an image")
    source = load_dataset("image_folder", root, image_size=8).train
    assert source.labels.tolist() == [0] * 4 + [1] * 3
    assert source.gather(np.array([3]))["image"].unique().tolist() == [9]


def test_a_test_folder_serves_where_there_is_no_val(root):
    (root / "val").rename(root / "test")
    assert len(load_dataset("image_folder", root).test) == 6
