"""A cache gives what it was made from, is made once, and is never taken for whole when it is not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from images import write_image_folder
from ranks import collect_ranks, run_ranks

from drb.data.cache import build, cached
from drb.data.datasets import CacheSettings, Dataset, FolderSource, MappedSource, TensorSource, load_dataset

ROOT = Path(__file__).resolve().parents[3]


def settings(folder, mode="always", limit=1 << 30):
    return CacheSettings(mode, folder, limit)


def everything(source):
    return source.gather(np.arange(len(source)))


def assert_same(one, other):
    for split in ("train", "test"):
        a, b = everything(getattr(one, split)), everything(getattr(other, split))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)
    assert (one.image_shape, one.num_classes, one.mean, one.std) == (
        other.image_shape,
        other.num_classes,
        other.mean,
        other.std,
    )


def whole(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.suffix == "")


@pytest.mark.parametrize(
    ("name", "options"),
    [("image_folder", {"image_size": 9, "resize": 11}), ("synthetic", {"image_shape": [3, 5, 7], "num_train": 300})],
)
def test_a_cache_holds_what_it_was_made_from_and_is_not_made_twice(name, options, tmp_path):
    root = write_image_folder(tmp_path / "images")
    lines = []
    first = load_dataset(name, root, cache=settings(tmp_path / "cache"), say=lines.append, **options)
    assert_same(first, load_dataset(name, root, **options))
    assert isinstance(first.train, MappedSource)
    assert first.cache is not None
    assert len(lines) == 1
    assert lines[0].startswith(f"making {first.cache}: ")
    assert " free" in lines[0]
    again = load_dataset(name, root, cache=settings(tmp_path / "cache"), say=lines.append, **options)
    assert len(lines) == 1
    assert_same(first, again)
    assert not list((tmp_path / "cache").glob("*.partial-*"))


@pytest.mark.parametrize("small", ["digits", "synthetic"])
def test_what_is_made_at_once_has_no_cache(small, tmp_path):
    dataset = load_dataset(small, tmp_path, cache=settings(tmp_path / "cache", "auto"))
    assert isinstance(dataset.train, TensorSource)
    assert not (tmp_path / "cache").exists()


def test_whatever_changes_the_images_makes_another_cache(tmp_path):
    root = write_image_folder(tmp_path / "images")
    folder = tmp_path / "cache"

    def load(**options):
        return load_dataset("image_folder", root, cache=settings(folder), **{"image_size": 8, **options}).cache

    first = load()
    assert load(workers=1) == first
    changed = [load(image_size=7), load(resize=9)]
    picture = root / "train" / "class0" / "1.png"
    os.utime(picture, (1, 1))
    changed.append(load())
    picture.write_bytes(picture.read_bytes() + b"more")
    os.utime(picture, (1, 1))
    changed.append(load())
    picture.rename(picture.with_name("7.png"))
    changed.append(load())
    assert len({first, *changed}) == 6


class Counting:
    """A source of n images that notes each gather in a file and takes its time."""

    in_memory = False

    def __init__(self, count, log, delay=0.0, broken=False):
        self.labels = np.arange(count) % 3
        self.sample_ids = np.arange(count)
        self._log, self._delay, self._broken = log, delay, broken

    def __len__(self):
        return len(self.labels)

    def gather(self, indices):
        with self._log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(self._delay)
        if self._broken:
            raise ValueError("the image file some/where.png cannot be decoded")
        images = torch.from_numpy(indices % 251).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 1000, 1000)
        return {"image": images, "label": torch.from_numpy(indices % 3), "sample_id": torch.from_numpy(indices)}


def of_counting(folder, say, **options):
    log = folder / "gathers"
    sources = Counting(12, log, **options), Counting(4, log, **options)
    dataset = Dataset(*sources, image_shape=(3, 1000, 1000), num_classes=3, mean=(0.0,), std=(1.0,))
    return cached("counting", folder, lambda: dataset, {"some": "facts"}, settings(folder / "cache"), say)


def make_on_rank(rank, world_size, folder):
    lines = []
    dist.barrier()
    dataset = of_counting(folder, lines.append, delay=0.2)
    return lines, everything(dataset.train)["image"][:, 0, 0, 0].tolist(), os.getpid()


def test_one_process_makes_it_and_the_others_wait(tmp_path):
    results = run_ranks(make_on_rank, 3, tmp_path, timeout=60)
    gathered_by = (tmp_path / "gathers").read_text().split()
    assert len(set(gathered_by)) == 1
    assert len(gathered_by) == 4  # 12 and 4 images in blocks of 5
    lines = [line for result in results for line in result[0]]
    assert sum(line.startswith("making") for line in lines) == 1
    waiting = [line for line in lines if line.startswith("waiting for another process that makes")]
    assert len(waiting) == 2
    assert all(" MiB, " in line and " free" in line for line in waiting)
    assert all(result[1] == list(range(12)) for result in results)


def test_progress_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_SAY_EVERY_S", 0.0)
    lines = []
    of_counting(tmp_path, lines.append)
    assert lines[1].startswith("5 of 16 images, ")
    assert lines[1].endswith(" s left")


def fail_on_rank(rank, world_size, folder):
    dist.barrier()
    of_counting(folder, print, delay=1.0, broken=True)


def test_a_file_that_cannot_be_read_is_named_to_all_and_tried_once(tmp_path):
    results, failures = collect_ranks(fail_on_rank, 2, tmp_path, timeout=60, patience=20)
    assert not results
    assert len(failures) == 2
    assert all("ValueError: the image file some/where.png cannot be decoded" in text for text in failures.values())
    assert len((tmp_path / "gathers").read_text().split()) == 1
    assert whole(tmp_path / "cache") == []


KILLED = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
from pathlib import Path
from test_cache import of_counting
of_counting(Path({folder!r}), print, delay=60 if sys.argv[1:] else 0)
"""


def test_a_killed_decode_leaves_nothing_that_is_taken_for_whole(tmp_path):
    program = KILLED.format(tests=str(Path(__file__).parent), root=str(ROOT), folder=str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    process = subprocess.Popen([sys.executable, "-c", program, "slow"], env=environment)
    deadline = time.monotonic() + 60
    while not (tmp_path / "gathers").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list((tmp_path / "cache").glob("counting-*.partial-*"))
    assert whole(tmp_path / "cache") == []
    lines = []
    dataset = of_counting(tmp_path, lines.append)
    assert everything(dataset.train)["image"][:, 0, 0, 0].tolist() == list(range(12))
    assert lines[0].startswith("making")
    assert not list((tmp_path / "cache").glob("*.partial-*"))


@pytest.mark.parametrize("damage", ["cut", "missing", "meta"])
def test_a_damaged_cache_is_said_and_made_again(damage, tmp_path):
    folder = of_counting(tmp_path, print).cache
    file = folder / ("cache.json" if damage == "meta" else "train-image.npy")
    if damage == "missing":
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size - 1)
    lines = []
    dataset = of_counting(tmp_path, lines.append)
    assert str(file) in lines[0]
    assert "made again" in lines[0]
    assert everything(dataset.test)["image"][:, 0, 0, 0].tolist() == list(range(4))


def test_what_does_not_fit_is_not_cached_and_why_is_said(tmp_path, monkeypatch):
    root = write_image_folder(tmp_path / "images")

    def load(mode, limit=1 << 30):
        lines = []
        cache = settings(tmp_path / "cache", mode, limit)
        return load_dataset("image_folder", root, cache=cache, say=lines.append, image_size=10), lines

    dataset, [line] = load("auto", limit=3599)  # 12 images of 300 bytes
    assert isinstance(dataset.train, FolderSource)
    assert line == "the images are not cached: they take 3.516 KiB, more than dataset.cache_limit=3.515 KiB"
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 3700})())
    dataset, [line] = load("auto")
    assert isinstance(dataset.train, FolderSource)
    assert "more than half of the 3.613 KiB free in" in line
    with pytest.raises(ValueError, match=r"dataset.cache=always needs 3.516 KiB in .*cache, which has 3.613 KiB free"):
        load("always")
    assert whole(tmp_path / "cache") == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    root = write_image_folder(tmp_path / "images")
    (tmp_path / "file").touch()
    lines = []
    cache = CacheSettings("auto", tmp_path / "file" / "cache")
    dataset = load_dataset("image_folder", root, cache=cache, say=lines.append, image_size=8)
    assert isinstance(dataset.train, FolderSource)
    assert "cannot be written" in lines[0]
    with pytest.raises(ValueError, match="set dataset.cache_dir to another disk"):
        load_dataset("image_folder", root, cache=CacheSettings("always", tmp_path / "file" / "cache"), image_size=8)


def test_a_cache_lies_beside_the_data_or_else_in_the_temporary_folder(tmp_path, monkeypatch):
    assert CacheSettings().folder_for(tmp_path / "not" / "yet") == tmp_path / "not" / "yet" / "drb-cache"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/scratch")
    assert CacheSettings().folder_for(tmp_path) == Path(f"/scratch/drb-cache-{os.getuid()}")
    assert CacheSettings(folder=tmp_path / "own").folder_for(Path("elsewhere")) == tmp_path / "own"
