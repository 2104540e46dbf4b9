"""Per epoch every sample once over all ranks, equally many minibatches, none empty."""

import threading
import time

import numpy as np
import pytest
import torch

from drb.data.datasets import TensorSource, load_dataset
from drb.data.loader import TaskLoader


def source(count, shape=(1, 2, 2)):
    return TensorSource(
        {
            "image": torch.arange(count).to(torch.uint8).view(-1, 1, 1, 1).repeat(1, *shape),
            "label": torch.arange(count) % 10,
            "sample_id": torch.arange(count) + 1000,
        }
    )


CASES = [  # samples, b, W: shards that divide, that are one over, smaller than b, of a single sample
    (12, 4, 1), (13, 4, 1), (24, 4, 3), (25, 4, 3), (26, 4, 3), (27, 4, 3), (28, 4, 3),
    (3, 4, 3), (4, 4, 3), (4, 1, 3), (7, 1, 2), (9, 100, 2), (1001, 10, 4),
]  # fmt: skip


@pytest.mark.parametrize(("count", "batch_size", "world_size"), CASES)
def test_every_sample_once_per_epoch_and_equal_steps(count, batch_size, world_size):
    loaders = [
        TaskLoader(source(count), batch_size, rank=rank, world_size=world_size, seed=2) for rank in range(world_size)
    ]
    smallest = count // world_size
    assert {loader.num_batches for loader in loaders} == {max(1, -(-smallest // batch_size))}
    owners = []
    for epoch in range(3):
        epochs = [list(loader.epoch(epoch)) for loader in loaders]
        for step in range(loaders[0].num_batches):
            rows = [len(minibatches[step]["label"]) for minibatches in epochs]
            assert sum(rows) == loaders[0].deal(epoch).rows()[step]
            assert min(rows) >= 1
            assert max(rows) <= loaders[0].max_rows <= batch_size + 1
        ids = [torch.cat([minibatch["sample_id"] for minibatch in minibatches]) for minibatches in epochs]
        assert sorted(torch.cat(ids).tolist()) == list(range(1000, 1000 + count))
        owners.append([sorted(part.tolist()) for part in ids])
    assert owners[0] == owners[1] == owners[2]


@pytest.mark.parametrize(("count", "batch_size", "world_size"), CASES)
def test_max_rows_is_reached_or_is_the_batch_size(count, batch_size, world_size):
    loader = TaskLoader(source(count), batch_size, world_size=world_size)
    deal = loader.deal(0)
    largest = max(int(np.diff(deal.bounds(rank)).max()) for rank in range(world_size))
    assert loader.max_rows == max(largest, batch_size)


def test_columns_stay_together_and_order_changes_between_epochs_and_ranks():
    loader = TaskLoader(source(50), 8)
    ids = []
    for epoch in range(2):
        minibatches = list(loader.epoch(epoch))
        for minibatch in minibatches:
            assert minibatch["image"].dtype == torch.uint8
            assert torch.equal(minibatch["image"][:, 0, 0, 0].long(), minibatch["sample_id"] - 1000)
            assert torch.equal(minibatch["label"], (minibatch["sample_id"] - 1000) % 10)
        ids.append(torch.cat([minibatch["sample_id"] for minibatch in minibatches]).tolist())
    assert ids[0] != ids[1]


@pytest.mark.parametrize("shape", [(1, 2, 2), (3, 200, 200)])  # many minibatches per block, and one
def test_an_epoch_can_start_anywhere(shape):
    loader = TaskLoader(source(103, shape), 10, seed=1)
    whole = [minibatch["sample_id"].tolist() for minibatch in loader.epoch(5)]
    for start in (0, 1, 7, 10, 11):
        assert [minibatch["sample_id"].tolist() for minibatch in loader.epoch(5, start)] == whole[start:]
    with pytest.raises(ValueError, match=r"start must be in \[0, 11\].* got 12"):
        loader.epoch(5, 12)


def test_a_rank_holds_only_its_own_samples():
    full = source(1000)
    loader = TaskLoader(full, 10, rank=1, world_size=4)
    full.columns["image"].zero_()
    assert all(minibatch["image"].any() for minibatch in loader.epoch(0) if (minibatch["sample_id"] % 256 != 232).any())
    assert loader._shard.columns["image"].untyped_storage().nbytes() == 250 * 4


def test_kept_minibatches_are_not_overwritten():
    kept = list(TaskLoader(source(64), 4).epoch(0))
    assert all(torch.equal(m["image"][:, 0, 0, 0].long(), m["sample_id"] - 1000) for m in kept)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 1, "world_size": 6}, "5 samples cannot be shared by 6 ranks"),
    ],
)
def test_impossible_loaders_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        TaskLoader(source(5), **arguments)


class Slow:
    """A source of files: gathers are recorded, and index `broken` cannot be decoded."""

    in_memory = False

    def __init__(self, ids, log, broken=None):
        self.sample_ids = ids
        self.labels = ids % 2
        self._log = log
        self._broken = broken

    def __len__(self):
        return len(self.sample_ids)

    def gather(self, indices):
        self._log.append((threading.current_thread().name, len(indices)))
        ids = self.sample_ids[indices]
        if self._broken in ids:
            raise ValueError(f"the image file {self._broken}.png cannot be decoded")
        return {"label": torch.from_numpy(ids % 2), "sample_id": torch.from_numpy(ids)}

    def subset(self, indices):
        return Slow(self.sample_ids[indices], self._log, self._broken)


def test_files_are_decoded_ahead_in_the_background_in_order():
    log = []
    loader = TaskLoader(Slow(np.arange(40), log), 4)
    stream = loader.epoch(0)
    first = next(stream)
    deadline = time.monotonic() + 5
    while len(log) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert len(log) == 4  # one handed out, three ahead
    assert all(name.startswith("drb-prefetch") for name, _ in log)
    ids = [first["sample_id"], *(minibatch["sample_id"] for minibatch in stream)]
    assert sorted(torch.cat(ids).tolist()) == list(range(40))
    assert [part.tolist() for part in ids] == [m["sample_id"].tolist() for m in loader.epoch(0)]
    assert not _threads()


def test_a_broken_file_reaches_the_training_thread_by_name():
    with pytest.raises(ValueError, match=r"17\.png cannot be decoded"):
        list(TaskLoader(Slow(np.arange(40), [], broken=17), 4).epoch(0))
    assert not _threads()


def test_leaving_an_epoch_early_leaves_no_thread():
    stream = TaskLoader(Slow(np.arange(40), []), 4).epoch(0)
    next(stream)
    assert _threads()
    stream.close()
    assert not _threads()


def test_real_folders_are_loaded(tmp_path):
    from PIL import Image

    for split in ("train", "val"):
        for label in range(2):
            folder = tmp_path / split / str(label)
            folder.mkdir(parents=True)
            for index in range(5):
                Image.new("RGB", (6, 6), (label * 100 + index, 0, 0)).save(folder / f"{index}.png")
    train = load_dataset("image_folder", tmp_path, image_size=4, workers=2).train
    ids = []
    for rank in range(3):
        for minibatch in TaskLoader(train, 2, rank=rank, world_size=3).epoch(0):
            ids += minibatch["sample_id"].tolist()
            index_of = {sample: index for index, sample in enumerate(train.sample_ids.tolist())}
            index = torch.tensor([index_of[sample] for sample in minibatch["sample_id"].tolist()])
            assert torch.equal(minibatch["image"][:, 0, 0, 0].long(), minibatch["label"] * 100 + index % 5)
    assert sorted(ids) == sorted(train.sample_ids.tolist())


def _threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("drb-")]
