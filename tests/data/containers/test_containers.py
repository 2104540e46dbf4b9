"""Tar shards, Parquet and Arrow files give the pictures, labels and ids that were put in; odd ones a line."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from data.containers.files import COUNT, arrow, colours, load, of_both, parquet, picture, shards, write_tar

from drb.data.cache import erased_ids
from drb.data.datasets import CacheSettings, MappedSource

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

WRITERS = {"tar_shards": shards, "parquet": parquet}


@pytest.mark.parametrize("name", WRITERS)
def test_samples_keep_their_ids_and_their_side_when_others_come_and_files_are_packed_anew(name, tmp_path):
    first = load(name, WRITERS[name](tmp_path / "a"))
    assert dict(of_both(first).values()) == {n: n % 3 for n in range(COUNT)}
    assert len(first.train) + len(first.test) == COUNT
    assert len(first.test) >= 1
    more = WRITERS[name](tmp_path / "b", [*range(20, 26), *reversed(range(COUNT))])
    second = load(name, more)
    assert of_both(first).items() <= of_both(second).items()
    assert colours(first.test).keys() <= colours(second.test).keys()
    assert first.identity.changes_since(second.identity)
    other = load(name, tmp_path / "a", source="another")
    assert not of_both(first).keys() & of_both(other).keys()
    backwards = first.train.subset(np.arange(len(first.train))[::-1])
    assert torch.equal(
        backwards.gather(np.arange(2))["sample_id"], torch.from_numpy(first.train.sample_ids[::-1][:2].copy())
    )


def test_splits_names_and_caches(tmp_path):
    root = arrow(tmp_path / "hf")
    dataset = load("hugging_face", root)
    assert (len(dataset.train), len(dataset.test), dataset.num_classes) == (COUNT, 3, 3)
    assert dataset.identity.classes == ("ant", "bee", "cow")
    assert [n % 3 for n in (100, 101, 102)] == dataset.test.labels.tolist()
    cache = CacheSettings("always", tmp_path / "cache")
    cached = load("hugging_face", root, cache=cache)
    assert isinstance(cached.train, MappedSource)
    assert colours(cached.train) == colours(dataset.train)
    assert load("hugging_face", root, cache=cache).cache == cached.cache
    assert not len(erased_ids(cached.cache))
    again = load("hugging_face", root, known_classes=("bee", "dog"))
    assert again.identity.classes == ("bee", "dog", "ant", "cow")
    assert sorted(set(again.train.labels.tolist())) == [0, 2, 3]

    named = shards(tmp_path / "named", label=lambda n: [b"cat", b"dog", b"ant"][n % 3])
    shards(named, [50, 51], split="val", label=lambda n: b"dog")
    dataset = load("tar_shards", named)
    assert (len(dataset.train), len(dataset.test)) == (COUNT, 2)
    assert dataset.identity.classes == ("ant", "cat", "dog")
    assert dataset.test.labels.tolist() == [2, 2]


def test_files_without_a_splits_name_are_never_mixed_with_test_files(tmp_path):
    root = shards(shards(tmp_path / "a", split="pages"), [50, 51], split="val")
    dataset, said = load("tar_shards", root), []
    assert (len(dataset.train), len(dataset.test)) == (COUNT, 2)
    shards(root, [60])
    dataset = load("tar_shards", root, say=said.append)
    assert (len(dataset.train), len(dataset.test)) == (1, 2)
    assert any("pages-000.tar" in line and "left out" in line for line in said)


def test_ids_by_column_and_arrays_of_numbers(tmp_path):
    root = parquet(tmp_path / "a", url=pa.array([f"u/{n}" for n in range(COUNT)]))
    one = load("parquet", root, id_column="url")
    assert of_both(one).keys() != of_both(load("parquet", root)).keys()
    samples = np.arange(COUNT * 6, dtype=np.float32).reshape(COUNT, 2, 3)
    table = pa.table(
        {"image": pa.array(samples.tolist(), pa.list_(pa.list_(pa.float32()))), "label": pa.array([0, 1] * 6)}
    )
    pq.write_table(table, tmp_path / "all.parquet")
    dataset = load("parquet", tmp_path / "all.parquet")
    got = torch.cat([part.gather(np.arange(len(part)))["image"] for part in (dataset.train, dataset.test)])
    assert got.dtype == torch.float32
    assert sorted(got[:, 0, 0].tolist()) == samples[:, 0, 0].tolist()
    stream = io.BytesIO()
    np.save(stream, samples[3])
    root = tmp_path / "npy"
    for n in range(4):
        write_tar(root / f"{n}.tar", [("x.npy", stream.getvalue()), ("x.json", json.dumps({"y": n}).encode())])
    dataset = load("tar_shards", root, label="json:y", per_shard=True)
    assert dataset.image_shape == (2, 3)
    with pytest.raises(ValueError, match=r"two samples have one name: .*0\.tar: x\.npy and .*1\.tar: x\.npy; .*per_sh"):
        load("tar_shards", root, label="json:y")


def test_one_of_two_pictures_of_each_sample(tmp_path):
    """WebDataset's names with more dots: 0001.left.png and 0001.right.png are two pictures of one sample."""
    members = [
        (f"{n}.{name}", content)
        for n in range(COUNT)
        for name, content in (("left.png", picture(n)), ("right.png", picture(n + 40)), ("cls", b"%d" % (n % 3)))
    ]
    write_tar(tmp_path / "a.tar", members)
    left, right = (load("tar_shards", tmp_path, image=f"{side}.png") for side in ("left", "Right"))
    assert np.array_equal(left.train.sample_ids, right.train.sample_ids)
    pairs_of = zip(colours(left.train).items(), colours(right.train).items(), strict=True)
    assert all((one, colour + 40, label) == (two, *other) for (one, (colour, label)), (two, other) in pairs_of)
    assert left.identity.fingerprint != right.identity.fingerprint
    for image, message in (
        (None, r"has \.left\.png, \.right\.png, \.cls; .* choose its picture by dataset\.image=left\.png"),
        ("top.png", r"has no picture \.top\.png, it has \.left\.png"),
        ("left.txt", r"tar_shards.image must be the extension of pictures or arrays, such as left.png"),
    ):
        with pytest.raises(ValueError, match=message):
            load("tar_shards", tmp_path, image=image)
    write_tar(tmp_path / "a.tar", [("x.png", picture(1)), ("x.jpg", picture(1)), ("x.cls", b"1")])
    with pytest.raises(ValueError, match=r"two images, \.png and \.jpg; choose one by dataset\.image=jpg"):
        load("tar_shards", tmp_path)


def cut(root):
    path = next(iter(sorted(root.iterdir())))
    path.write_bytes(path.read_bytes()[:-700])


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("tar_shards", lambda root: cut(shards(root, range(3))), r"train-000.tar cannot be read"),
        ("tar_shards", lambda root: root.joinpath("a.tar").write_bytes(b"no tar" * 200), r"a.tar cannot be read"),
        ("tar_shards", lambda root: write_tar(root / "a.tar", [("x.png", picture(1))]), r"x of .* has no label .cls"),
        ("tar_shards", lambda root: write_tar(root / "a.tar", [("x.cls", b"1")]), r"has no picture and no .npy array"),
        ("tar_shards", lambda root: shards(root, label=lambda n: b"-1"), r"has the label -1; labels count from 0"),
        ("tar_shards", lambda root: None, r"dataset=tar_shards needs .tar files in .*, which is empty"),
        ("parquet", lambda root: None, r"dataset=parquet needs .parquet files"),
        ("parquet", lambda root: cut(parquet(root)), r"train-.*.parquet cannot be read"),
        ("hugging_face", lambda root: None, r"is no data set that save_to_disk"),
        ("hugging_face", lambda root: cut(arrow(root / "x") / "train"), r"data-.*.arrow cannot be read"),
    ],
)
def test_what_cannot_be_used_is_one_line(name, spoil, message, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    spoil(root)
    root = root / "x" if (root / "x").exists() else root
    with pytest.raises(ValueError, match=message) as error:
        load(name, root)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": "img"}, r"has no column 'img', it has image, label; set dataset.image"),
        ({"label": "image"}, r"labels in column 'image' .* must be all integers or all names"),
        ({"image_size": 8, "resize": 4}, r"parquet.resize must be at least parquet.image_size"),
    ],
)
def test_columns_that_are_not_there(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load("parquet", parquet(tmp_path / "a"), **options)


def test_a_broken_picture_is_named(tmp_path):
    write_tar(Path(tmp_path) / "a.tar", [("x.png", picture(1)), ("x.cls", b"0"), ("y.png", b"no"), ("y.cls", b"1")])
    dataset = load("tar_shards", tmp_path)
    with pytest.raises(ValueError, match=r"the image file .*a.tar: y.png cannot be decoded"):
        of_both(dataset)
