"""Several ranks fill one folder: with what one would, each sample read once, also over kills and on other ranks."""

import os
import signal
from collections import Counter

import numpy as np
import pytest
import torch
from ranks import collect_ranks, run_cases, run_ranks

from drb.data.cache import erase, open_prefilled, parallel
from drb.data.cache.choose import choose_rows
from drb.data.cache.parallel import build_together
from drb.data.datasets import Dataset, MappedSource, TensorSource, load_dataset
from drb.distributed.world import World

SHAPE = (3, 1024, 1365)  # 4 MiB: four samples in a block
COUNT, NUM_TEST = 18, 5


class Noted:
    """A source of n samples that notes which ones are gathered, and may kill its process or fail."""

    in_memory = False

    def __init__(self, count, log, split, kill_after=10**9, broken=()):
        self.labels, self.sample_ids = np.arange(count) % 3, 100 + np.arange(count)
        self._log, self._split, self._kill_after, self._broken = log, split, kill_after, broken

    def __len__(self):
        return len(self.labels)

    def gather(self, indices):
        if bad := [index for index in indices.tolist() if index in self._broken]:
            raise ValueError(f"the image file {bad[0]}.png cannot be decoded")
        self._kill_after -= 1
        if self._kill_after < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        with self._log.open("a") as file:
            file.writelines(f"{self._split}{index}\n" for index in indices.tolist())
        images = torch.from_numpy(indices + 1).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, *SHAPE)
        return {
            "image": images,
            "label": torch.from_numpy(self.labels[indices]),
            "sample_id": torch.from_numpy(self.sample_ids[indices]),
        }


def fill(rank, world_size, folder, facts=(), leave_out=False, **source):
    """What is said, and the folder."""
    lines = []
    train, test = (Noted(n, folder.parent / "log", s, **source) for n, s in ((COUNT, "train"), (NUM_TEST, "test")))
    dataset = Dataset(train, test, image_shape=SHAPE, num_classes=3, mean=(0.5,), std=(0.2,))
    world = World(rank=rank, world_size=world_size)
    filled = build_together(
        folder, dataset, {"is": "noted", **dict(facts)}, world, 20.0, lines.append, leave_out_broken=leave_out
    )
    return lines, filled


def case(rank, world_size, folder, options):
    try:
        lines, filled = fill(rank, world_size, folder, **options)
        return lines, None, filled.train.gather(np.arange(COUNT))["image"][:, 0, 0, 0].tolist()
    except ValueError as error:
        return [], str(error), None


def killed(rank, world_size, folder):
    fill(rank, world_size, folder, kill_after=1)


def reads(folder):
    return Counter((folder / "log").read_text().split())


ALL = Counter({f"train{n}": 1 for n in range(COUNT)}) + Counter({f"test{n}": 1 for n in range(NUM_TEST)})


def test_ranks_share_the_work_and_go_on_where_others_were_killed(tmp_path):
    folders = [tmp_path / name / "base" for name in ("whole", "after", "broken")]
    for folder in folders:
        folder.parent.mkdir()
    whole, after, broken = folders
    collect_ranks(killed, 2, after, timeout=30)
    begun = reads(after.parent)
    assert 4 <= len(begun) < len(ALL)
    with pytest.raises(ValueError, match=r"base is not filled yet: give the command drb prefill again"):
        open_prefilled(after)
    results = run_cases(
        case,
        3,
        {
            "whole": (whole, {}),
            "again": (whole, {}),
            "other": (whole, {"facts": (("other", 1),)}),
            "broken": (broken, {"broken": (2, 3, 9, 10, 11)}),
            "left out": (broken, {"broken": (2, 3, 9, 10, 11), "leave_out": True}),
        },
    )
    assert reads(whole.parent) == ALL
    wanted = list(range(1, COUNT + 1))
    assert [result[2] for result in results["whole"]] == [wanted] * 3
    assert results["whole"][0][0][0].startswith(f"making {whole}: ")
    assert results["again"] == [([], None, wanted)] * 3
    assert all(f"{whole} was made from other data" in result[1] for result in results["other"])
    assert all(
        "the image file 2.png cannot be decoded; " in result[1] and "with --leave-out-broken" in result[1]
        for result in results["broken"]
    )
    assert len({result[1] for result in results["broken"]}) == 1
    assert "was erased" in results["left out"][0][1]  # a sample that is left out is never given as a blank one
    left = open_prefilled(broken)
    assert np.flatnonzero(left.train.erased).tolist() == [2, 3, 9, 10, 11]
    rest = np.flatnonzero(~left.train.erased)
    assert left.train.gather(rest)["image"][:, 0, 0, 0].tolist() == (rest + 1).tolist()
    lines, filled = fill(0, 1, after)
    assert lines[0].startswith(f"going on with {after}: ")
    assert filled.train.gather(np.arange(COUNT))["image"][:, -1, -1, -1].tolist() == wanted
    assert set(reads(after.parent)) == set(ALL)
    assert sum(reads(after.parent).values()) <= len(ALL) + 2 * 2 * 4  # two blocks at most that each rank had in hand
    assert isinstance(filled.train, MappedSource)
    assert sorted(path.name for path in after.parent.iterdir()) == ["base", "base.erased", "base.lock", "log"]


def test_what_was_erased_stays_erased_when_the_folder_is_filled_anew(tmp_path, monkeypatch):
    folder = tmp_path / "base"
    fill(0, 1, folder)
    assert erase(folder, [104]) == 1
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    _, filled = fill(0, 1, folder)
    assert np.flatnonzero(filled.train.erased).tolist() == [4]
    monkeypatch.setattr(parallel.shutil, "disk_usage", lambda path: _Usage())
    with pytest.raises(ValueError, match=r"more needs .* MiB, 1 KiB are free on its disk"):
        fill(0, 1, tmp_path / "more")


def on_a_node_of_its_own(rank, world_size, top):
    source = TensorSource({"image": torch.ones(4, 1, 2, 2), "label": torch.arange(4), "sample_id": torch.arange(4)})
    dataset = Dataset(source, source, (1, 2, 2), 4, (0.5,), (0.2,), torch.float32)
    folder = top / f"disk-{rank}" / "base"
    if rank == 0:
        build_together(folder, dataset, {}, World(), 20.0, print)
    world = World(rank=rank, world_size=world_size, node=f"node-{rank}")
    return len(build_together(folder, dataset, {}, world, 20.0, print).train)


def test_a_node_that_has_its_folder_waits_for_one_that_has_not(tmp_path):
    assert run_ranks(on_a_node_of_its_own, 2, tmp_path) == [4, 4]


class _Usage:
    free = 1024


def test_what_is_no_prefilled_folder_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"the prefilled folder .*/none is not there; make it with drb prefill"):
        load_dataset("prefilled", tmp_path / "none")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(ValueError, match=r"other is there, but drb prefill has not made it"):
        load_dataset("prefilled", tmp_path / "other")
    with pytest.raises(ValueError, match=r"other is there already and is no prefilled folder"):
        fill(0, 1, tmp_path / "other")


def test_chosen_samples_are_those_that_a_buffer_would_hold():
    ids, labels = np.arange(5000), (np.arange(5000) % 7 == 0).astype(np.int64)
    chosen = choose_rows(ids, labels, 500, record_bytes=8)
    assert len(chosen) == 500
    assert np.array_equal(chosen, np.unique(chosen))
    backwards = choose_rows(ids[::-1].copy(), labels, "10%", record_bytes=8)
    assert set(ids[::-1][backwards]) == set(chosen)  # a sample's luck is its own
    balanced = choose_rows(ids, labels, 500, record_bytes=8, admission="class_balanced")
    assert np.bincount(labels[balanced]).tolist() == [250, 250]
    assert len(choose_rows(ids, labels, 9000, record_bytes=8)) == 5000
    with pytest.raises(ValueError, match=r"admission=mean_matching decides by .* which a prefill has not read"):
        choose_rows(ids, labels, 500, record_bytes=8, admission="mean_matching")
