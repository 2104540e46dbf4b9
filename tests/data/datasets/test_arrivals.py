"""Data that came in several files, and the streams of it."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from drb.data.datasets import load_dataset
from drb.data.datasets.arrivals import Arrivals
from drb.data.scenarios import build_scenario


def save(path, count, first_label=0, tested=None, **arrays):
    rng = np.random.default_rng(first_label)
    content = {"image": rng.integers(0, 256, (count, 1, 4, 4), np.uint8), "label": np.arange(count) % 3 + first_label}
    if tested:
        content |= {"test_image": content["image"][:tested], "test_label": content["label"][:tested]}
    np.savez(path, **{**content, **arrays})
    return str(path)


def test_files_come_one_behind_the_other_with_ids_and_statistics_that_stay(tmp_path):
    files = [save(tmp_path / "base.npz", 50), save(tmp_path / "new.npz", 20, 2, tested=4)]
    base, both = (load_dataset("arrivals", files=files[:count]) for count in (1, 2))
    assert (both.num_classes, len(both.train), len(both.test)) == (5, 45 + 20, 5 + 4)
    assert [(each.num_train, each.num_test) for each in both.arrivals] == [(45, 5), (20, 4)]
    assert (both.mean, both.std) == (base.mean, base.std)
    assert both.train.sample_ids[:45].tolist() == base.train.sample_ids.tolist()
    assert len(np.unique(both.train.sample_ids)) == 65
    assert both.test.labels[:5].tolist() == base.test.labels.tolist()
    assert both.identity.changes_since(base.identity)
    tasks = list(build_scenario("arrivals", both, seed=0))
    assert [(len(task.train), len(task.test), task.classes) for task in tasks] == [
        (45, 5, (0, 1, 2)),
        (20, 4, (2, 3, 4)),
    ]
    (task,) = build_scenario("base_plus_new", both, seed=0, base_per_epoch=30)
    assert [(each.name, each.count, each.share) for each in task.mix.sources] == [("new", 20, 20), ("base", 45, 30)]
    assert task.mix.epoch == 50
    assert task.train.sample_ids.tolist() == np.roll(both.train.sample_ids, 20).tolist()


def test_a_rare_class_is_trained_before_it_is_tested(tmp_path):
    file = save(tmp_path / "rare.npz", 40, label=np.minimum(np.arange(40), 21))  # 21 classes of one sample
    data = load_dataset("arrivals", files=[file], test_fraction=0.5)
    assert len(data.test) > 0
    assert np.unique(data.train.labels).tolist() == list(range(22))
    build_scenario("arrivals", data, seed=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: [], "dataset.files is empty"),
        (lambda folder: [str(folder / "no.npz")], "no.npz cannot be read: No such file"),
        (lambda folder: [broken(folder)], "broken.npz cannot be read: it is no whole .npz file"),
        (lambda folder: [save(folder / "a.npz", 9, other=np.arange(3), image=None)], "cannot be read: it is no whole"),
        (lambda folder: [only_labels(folder)], "has no array 'image', it has label"),
        (lambda folder: [save(folder / "a.npz", 0)], "a.npz holds no samples: leave it out"),
        (
            lambda folder: [save(folder / "a.npz", 9)] * 2,
            "the same samples twice, as .*a.npz and as .*a.npz; name them",
        ),
        (
            lambda folder: [save(folder / "a.npz", 9), save(folder / "b.npz", 7), save(folder / "c.npz", 9)],
            "the same samples twice, as .*a.npz and as .*c.npz",
        ),
        (lambda folder: [save(folder / "a.npz", 9, label=np.arange(8))], "as many labels as images, got 8 and 9"),
        (lambda folder: [save(folder / "a.npz", 3, label=np.array(list("abc")))], "must be integers, got <U1; number"),
        (lambda folder: [save(folder / "a.npz", 1)], "one sample cannot be divided"),
        (lambda folder: [save(folder / "a.npz", 9, test_image=np.zeros(3))], "has no array 'test_label'"),
        (
            lambda folder: [save(folder / "a.npz", 9), save(folder / "b.npz", 9, image=np.zeros((9, 5)))],
            r"a.npz has uint8 \[1, 4, 4\], and .*b.npz has float32 \[5\]",
        ),
    ],
)
def test_files_that_cannot_be_used_are_refused_in_one_line(tmp_path, make, message):
    with pytest.raises(ValueError, match=message) as refused:
        load_dataset("arrivals", files=make(tmp_path))
    assert "\n" not in str(refused.value)


def broken(folder):
    (folder / "broken.npz").write_bytes(b"PK\x03\x04 and then nothing")
    return str(folder / "broken.npz")


def only_labels(folder):
    np.savez(folder / "labels.npz", label=np.arange(3))
    return str(folder / "labels.npz")


def test_streams_of_arrivals_need_arrivals():
    digits = load_dataset("digits")
    with pytest.raises(ValueError, match="choose dataset=arrivals"):
        build_scenario("arrivals", digits, seed=0)


def colour(number):
    """A PNG of one colour, which decoding leaves as it is."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def pictures(root, **numbers):
    """A folder of train/<class>/* and val/<class>/*; numbers: the first of three by class."""
    for split in ("train", "val"):
        for name, first in numbers.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(first, first + 3):
                (folder / f"{number}.png").write_bytes(colour(number))
    return str(root)


def shard(path, names):
    """A shard of pictures whose classes have names."""
    with tarfile.open(path, "w") as archive:
        for number, name in enumerate(names):
            for extension, content in (("png", colour(100 + number)), ("cls", name.encode())):
                info = tarfile.TarInfo(f"{number:03d}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return str(path)


def test_folders_and_shards_come_behind_one_another_and_classes_keep_their_labels(tmp_path):
    files = [
        pictures(tmp_path / "monday", cat=10, dog=20),
        pictures(tmp_path / "tuesday", ant=30),  # no cats and dogs today
        shard(tmp_path / "wednesday.tar", ["dog", "bee"] * 10),
    ]
    options = {"image_size": 8, "workers": 1}
    data = load_dataset("arrivals", files=files, **options)
    assert data.identity.classes == ("cat", "dog", "ant", "bee")
    assert [each.num_train for each in data.arrivals][:2] == [6, 3]
    assert sum(each.num_train + each.num_test for each in data.arrivals) == 2 * (6 + 3) + 20
    batch = data.train.gather(np.arange(len(data.train)))
    by_label = {label: set((batch["image"][batch["label"] == label][:, 0, 0, 0] // 10).tolist()) for label in range(4)}
    assert by_label[0] == {1}
    assert by_label[2] == {3}
    assert by_label[1] >= {2, 10}  # Monday's dogs and Wednesday's
    ids = np.concatenate([data.train.sample_ids, data.test.sample_ids])
    assert len(np.unique(ids)) == len(ids)
    less = load_dataset("arrivals", files=files[:2], **options)
    assert np.isin(less.train.sample_ids, data.train.sample_ids).all()
    again = Arrivals(files=files, cache="never", **options).load(
        lambda line: None, data.identity.classes
    )  # as a run that goes on
    assert again.identity == data.identity
    evaluated = (
        Arrivals(files=files, cache="never", **options).load_all_of(tmp_path / "tuesday", data.identity.classes).test
    )
    assert evaluated.labels.tolist() == [2] * 6
    with pytest.raises(ValueError, match=r"monday has names of classes, and .*n.npz has numbers"):
        numbers = save(tmp_path / "n.npz", 9, image=np.zeros((9, 3, 8, 8), np.uint8))
        load_dataset("arrivals", files=[files[0], numbers], **options)
