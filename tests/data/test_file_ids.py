"""A sample id is a file's for good: it does not depend on which other files there are, nor on where they lie."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from images import write_image_folder

from drb.data import ids as ids_module
from drb.data.datasets import CacheSettings, load_dataset
from drb.data.ids import first_repeated, ids_of_paths, in_guise


@pytest.fixture
def root(tmp_path):
    return write_image_folder(tmp_path / "data", per_class=4, num_classes=3)


def load(root, **options):
    return load_dataset("image_folder", root, image_size=10, **options)


def pictures(source):
    """{sample id: (label, the image's bytes)}"""
    batch = source.gather(np.arange(len(source)))
    images = batch["image"].numpy()
    return {
        sample: (label, image.tobytes())
        for sample, label, image in zip(batch["sample_id"].tolist(), batch["label"].tolist(), images, strict=True)
    }


@pytest.mark.parametrize("mode", ["never", "always"])
def test_ids_stay_when_files_come_and_go(root, tmp_path, mode):
    cache = CacheSettings(mode, tmp_path / "cache")
    before = pictures(load(root, cache=cache).train)
    assert len(before) == 12
    train = root / "train"
    shutil.copy(train / "class1" / "0.png", train / "class0" / "00.png")
    (train / "class2" / "1.png").unlink()
    after = pictures(load(root, cache=cache).train)
    assert len(after) == 12
    common = before.keys() & after.keys()
    assert len(common) == 11
    assert all(before[sample] == after[sample] for sample in common)


def test_ids_depend_on_source_split_and_path_and_not_on_the_root(root, tmp_path):
    here = load(root)
    shutil.move(root, tmp_path / "moved")
    (tmp_path / "moved" / "val").rename(tmp_path / "moved" / "test")
    there = load(tmp_path / "moved")
    assert there.train.sample_ids.tolist() == here.train.sample_ids.tolist()
    assert there.test.sample_ids.tolist() == here.test.sample_ids.tolist()
    other = load(tmp_path / "moved", source="today")
    everything = np.concatenate([data.sample_ids for pair in (here, other) for data in (pair.train, pair.test)])
    assert len(np.unique(everything)) == 4 * 12
    assert everything.min() >= 0
    assert everything.dtype == np.int64


def test_the_ids_are_those_that_checkpoints_hold():
    """Changing how they are made would make strangers of all exemplars that are stored."""
    assert ids_of_paths("image_folder", "train", [b"cat/1.jpg", b"cat/\xff.jpg"]).tolist() == [IDS[0], IDS[1]]


IDS = (5772173814104438915, 2169341554992754295)


def test_two_files_of_one_id_are_named(root, monkeypatch):
    monkeypatch.setattr(ids_module, "_MASK", 7)
    with pytest.raises(
        ValueError, match=r"the files .*class\d/\d.png and .*class\d/\d.png have the same sample id by chance"
    ):
        load(root)


def test_renamed_classes_keep_ids_labels_and_identity(root):
    before = load(root)
    shown = pictures(before.train)
    for split in ("train", "val"):
        (root / split / "class0").rename(root / split / "zebra")
    after = load(root, renamed={"class0": "zebra"})
    assert pictures(after.train) == shown
    assert after.identity == before.identity
    moved = load(root)
    assert moved.identity.classes == ("class1", "class2", "zebra")
    assert moved.identity.changes_since(before.identity)[0].startswith(
        "this has the classes class1, class2, zebra and had"
    )


def test_new_classes_get_labels_behind_the_known_ones(root):
    known = load(root).identity.classes
    for split in ("train", "val"):
        shutil.copytree(root / split / "class1", root / split / "antelope")
    grown = load(root, known_classes=known)
    assert grown.identity.classes == ("class0", "class1", "class2", "antelope")
    assert np.bincount(grown.train.labels).tolist() == [4, 4, 4, 4]
    old = {s: v for s, v in pictures(grown.train).items() if v[0] != 3}
    for split in ("train", "val"):
        shutil.rmtree(root / split / "antelope")
    assert old == pictures(load(root).train)


def test_a_class_that_may_have_been_renamed_is_asked_for(root):
    known = load(root).identity.classes
    for split in ("train", "val"):
        (root / split / "class1").rename(root / split / "hound")
    with pytest.raises(
        ValueError, match=r"no class 'class1' any more and a new one, 'hound': .*renamed={class1: hound}"
    ):
        load(root, known_classes=known)
    gone = load(root, known_classes=known, renamed={"class1": ""})
    assert gone.identity.classes == ("class0", "class1", "class2", "hound")
    assert np.bincount(gone.train.labels).tolist() == [4, 0, 4, 4]


@pytest.mark.parametrize(
    ("renamed", "message"),
    [({"a": "nowhere"}, r"there is no \['nowhere'\]"), ({"class1": "class0"}, "still there: .'class1'")],
)
def test_wrong_names_are_refused(root, renamed, message):
    with pytest.raises(ValueError, match=message):
        load(root, renamed=renamed)


def test_guises_move_ids_and_back():
    ids = np.random.default_rng(0).integers(0, 2**63, 1000)
    assert in_guise(ids, 0) is ids
    moved = np.stack([in_guise(ids, guise) for guise in range(20)])
    assert len(np.unique(moved)) == moved.size
    assert moved.min() >= 0
    assert (in_guise(in_guise(ids, 7), 7) == ids).all()
    assert first_repeated(np.array([5, 1, 3, 1])) == (1, 3)
    assert first_repeated(ids) is None
