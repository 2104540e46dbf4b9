"""Folders as one finds them: what is hidden is passed over and counted, what cannot be right is refused by name."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from images import write_image_folder

from drb.data.datasets import load_dataset


@pytest.fixture
def root(tmp_path):
    return write_image_folder(tmp_path / "data", per_class=3)


def load(root, said=None, **options):
    say = (lambda line: None) if said is None else said.append
    return load_dataset("image_folder", root, say=say, image_size=8, **options)


def test_what_is_hidden_is_no_class_and_no_sample(root):
    plain = load(root)
    for split in ("train", "val"):
        (root / split / ".ipynb_checkpoints").mkdir()
        shutil.copy(root / split / "class0" / "0.png", root / split / ".ipynb_checkpoints" / "0-checkpoint.png")
    (root / "train" / "class0" / ".ipynb_checkpoints").mkdir()
    shutil.copy(root / "train" / "class0" / "0.png", root / "train" / "class0" / ".ipynb_checkpoints" / "1.png")
    (root / "train" / "class1" / "._0.png").write_bytes(b"\0\5\26\7AppleDouble")
    (root / "train" / ".DS_Store").touch()
    (root / "train" / "class1" / "Thumbs.db").touch()
    (root / "train" / "readme.txt").touch()
    said = []
    found = load(root, said)
    [line] = said
    assert line.startswith(
        f"passed over in {root}: 5 hidden files or folders, 1 files in no class's folder, 1 of 4 files of train/class1 "
        "(.db); image files end in .bmp, .jfif, .jpeg, "
    )
    assert found.num_classes == 2
    assert found.train.sample_ids.tolist() == plain.train.sample_ids.tolist()
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    found.train.gather(np.arange(6))


def test_a_class_that_loses_files_is_named_with_their_suffixes_and_jfif_is_jpeg(root):
    from PIL import Image

    shutil.copy(root / "train" / "class0" / "0.png", root / "train" / "class0" / "old.gif")
    for index in range(5):
        Image.new("RGB", (9, 9), (index, 0, 0)).save(root / "train" / "class1" / f"{index}.jfif", "JPEG")
        (root / "train" / "class1" / f"{index}.HEIC").touch()
    (root / "train" / "class1" / "notes").touch()
    said = []
    found = load(root, said)
    assert f"passed over in {root}: 6 of 14 files of train/class1 (.heic, no suffix), 1 of 4 files" in said[0]
    assert np.bincount(found.train.labels).tolist() == [3, 8]
    found.train.gather(np.arange(11))


@pytest.mark.parametrize(("largest", "scaled"), [(255, 1), (4095, 16), (65535, None)])
def test_greys_of_16_bits_with_a_smaller_range_are_told(root, largest, scaled):
    from PIL import Image

    pixels = np.linspace(0, largest, 144).astype(np.uint16).reshape(12, 12)
    for name in ("0.png", "1.png"):
        Image.fromarray(pixels).save(root / "train" / "class0" / name)
    said = []
    load(root, said)
    expected = (
        f"the 2 greys of 16 bits looked at in {root}/train have values up to {largest} of 65535, and only {scaled} of"
    )
    assert [line.startswith(expected) for line in said] == ([] if scaled is None else [True])


def test_nothing_is_said_of_a_plain_folder(root):
    said = []
    load(root, said)
    assert said == []


@pytest.mark.parametrize(
    ("link", "target"),
    [("class0/again", "class0"), ("class0/up", "."), ("class1/other", "class0"), ("class0/more/b", "class0/more/a")],
    ids=["itself", "above", "another class's", "twice"],
)
def test_a_folder_that_would_be_there_twice_is_refused(root, link, target):
    (root / "train" / "class0" / "more" / "a").mkdir(parents=True)
    shutil.copy(root / "train" / "class0" / "0.png", root / "train" / "class0" / "more" / "a" / "0.png")
    assert len(load(root).train) == 7
    (root / "train" / link).symlink_to((root / "train" / target).resolve())
    with pytest.raises(ValueError, match="leads to .* again: its images would be there twice; remove the link"):
        load(root)


def test_links_to_other_folders_and_files_are_followed(root, tmp_path):
    (root / "train" / "class0").rename(tmp_path / "elsewhere")
    (root / "train" / "class0").symlink_to(tmp_path / "elsewhere")
    (root / "train" / "class1" / "9.png").symlink_to(tmp_path / "elsewhere" / "0.png")
    data = load(root).train
    assert data.labels.tolist() == [0] * 3 + [1] * 4
    images = data.gather(np.array([0, 6]))["image"]
    assert (images[0] == images[1]).all()


def dangling(folder):
    (folder / "x.png").symlink_to("nowhere.png")


def to_itself(folder):
    (folder / "x.png").symlink_to("x.png")


def pipe(folder):
    os.mkfifo(folder / "x.png")


def empty(folder):
    (folder / "x.png").touch()


def class_without_target(folder):
    (folder.parent / "lost").symlink_to("nowhere")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (dangling, "x.png is a link that leads nowhere; remove it"),
        (to_itself, "x.png is a link that leads nowhere; remove it"),
        (pipe, "x.png is no regular file; remove it"),
        (empty, "x.png is empty; replace or remove it"),
        (class_without_target, "lost is a link that leads nowhere; mend or remove it"),
    ],
)
def test_what_could_not_be_read_later_is_refused_at_once(root, spoil, message):
    spoil(root / "train" / "class1")
    with pytest.raises(ValueError, match=message):
        load(root)


def test_a_folder_without_permission_is_named(root, monkeypatch):
    hidden = root / "train" / "class1" / "locked"
    hidden.mkdir()
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path) == os.fspath(hidden):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # the tests may run as root, who may read everything
    with pytest.raises(ValueError, match=f"the folder {hidden} cannot be read"):
        load(root)


def test_a_test_set_that_is_the_training_set_is_said(root):
    shutil.rmtree(root / "val")
    (root / "val").symlink_to("train")
    said = []
    load(root, said)
    assert len(said) == 1
    assert f"{root / 'val'} is the same folder as {root / 'train'}" in said[0]


@pytest.mark.parametrize(
    "name", ["a b", "été", "日本語", "a\nb", "x=y", "'q\"", b"\xff\xfe".decode("utf-8", "surrogateescape")]
)
def test_any_name_can_be_used(root, name):
    for split in ("train", "val"):
        (root / split / "class1").rename(root / split / name)
        (root / split / name / "0.png").rename(root / split / name / f"{name}.PNG")
    data = load(root).train
    assert len(data) == 6
    assert data.gather(np.arange(6))["image"].flatten(1).any(1).all()
