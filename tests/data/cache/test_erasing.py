"""What is erased from a cache is in none of its files and is never given out again."""

import json
import shutil

import numpy as np
import pytest
import torch
from images import write_image_folder

from drb.data.cache import erase, erased_ids
from drb.data.datasets import CacheSettings, Concat, View, erased_rows, load_dataset
from drb.data.ids import in_guise
from drb.data.loader import TaskLoader
from drb.distributed.world import World
from drb.training.augment import Preprocess
from drb.training.evaluation.evaluate import evaluate
from drb.training.objectives import Classification


def load(tmp_path, say=print):
    cache = CacheSettings("always", tmp_path / "cache")
    return load_dataset("image_folder", tmp_path / "images", cache=cache, say=say, image_size=10)


@pytest.fixture
def dataset(tmp_path):
    write_image_folder(tmp_path / "images", per_class=10)
    return load(tmp_path)


def at(source, *rows):
    """The ids of some rows."""
    return source.sample_ids[list(rows)]


def ids_of(loader, epoch=0):
    return torch.cat([minibatch["sample_id"] for minibatch in loader.epoch(epoch)]).tolist()


def test_erased_pixels_are_in_no_file_of_the_cache(dataset, tmp_path):
    pattern = dataset.train.gather(np.array([7]))["image"].numpy().tobytes()[:64]
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert any(pattern in path.read_bytes() for path in files)
    assert erase(dataset.cache, at(dataset.train, 7, 3)) == 2
    assert not any(pattern in path.read_bytes() for path in files)
    assert erase(dataset.cache, at(dataset.train, 3, 5)) == 1
    assert erased_ids(dataset.cache).tolist() == sorted(at(dataset.train, 3, 5, 7))
    assert not load(tmp_path).test.erased.any()


def test_a_loader_shows_others_of_the_rank_instead_and_keeps_its_numbers(dataset, tmp_path):
    before = [TaskLoader(dataset.train, 3, rank=rank, world_size=2, seed=1) for rank in range(2)]
    seen = [ids_of(loader) for loader in before]
    gone = [seen[0][2], seen[0][3], seen[1][-1]]
    erase(dataset.cache, gone)
    reopened = load(tmp_path).train
    for rank in range(2):
        loader = TaskLoader(View(reopened, np.arange(20)), 3, rank=rank, world_size=2, seed=1)
        now = ids_of(loader)
        assert len(now) == len(seen[rank])
        assert set(now) == set(seen[rank]) - set(gone)
        kept = [index for index, sample in enumerate(seen[rank]) if sample not in gone]
        assert [now[index] for index in kept] == [seen[rank][index] for index in kept]
    assert all(minibatch["image"].flatten(1).any(1).all() for minibatch in loader.epoch(3))


def test_a_run_that_has_the_cache_open_is_told(dataset):
    loader = TaskLoader(dataset.train, 2)
    minibatches = loader.epoch(0)
    erase(dataset.cache, dataset.train.sample_ids[1:])
    with pytest.raises(ValueError, match=rf"the sample \d+ was erased from {dataset.cache} while this run uses it"):
        dataset.train.gather(np.arange(20))
    minibatches.close()
    assert set(ids_of(loader, 1)) == set(at(dataset.train, 0))
    erase(dataset.cache, at(dataset.train, 0))
    with pytest.raises(ValueError, match="all 20 samples of rank 0 in this task have been erased"):
        loader.epoch(2)


def test_a_cache_that_is_made_again_stays_blank(dataset, tmp_path):
    erase(dataset.cache, at(dataset.train, 4))
    (dataset.cache / "train-image.npy").unlink()
    again = load(tmp_path).train
    assert np.flatnonzero(again.erased).tolist() == [4]
    assert not again._images[4].any()
    assert again._images[5].any()


def test_erased_rows_are_found_through_views_and_unions(dataset):
    view = View(dataset.train, np.array([5, 4, 3]))
    assert erased_rows(Concat([view, dataset.test])) is None
    erase(dataset.cache, at(dataset.train, 4))
    assert erased_rows(view).tolist() == [False, True, False]
    assert erased_rows(Concat([dataset.test, view])).tolist() == [False] * 20 + [False, True, False]


def test_an_evaluation_leaves_them_out(dataset):
    erase(dataset.cache, at(dataset.test, 0, 19), split="test")

    class Counting(Classification):
        def values(self, sums):
            return {"count": float(sums["count"])}

    def num_evaluated(source):
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(300, 2))
        preprocess = Preprocess(mean=[0.0] * 3, std=[1.0] * 3, crop_padding=0, flip=False)
        settings = {"preprocess": preprocess, "device": torch.device("cpu"), "batch_size": 7, "world": World()}
        return evaluate(network, source, Counting(), **settings)["count"]

    assert num_evaluated(dataset.test) == 18
    erase(dataset.cache, dataset.test.sample_ids, split="test")
    with pytest.raises(ValueError, match="all 20 samples of the test set have been erased"):
        num_evaluated(dataset.test)


def test_a_run_directory_stands_for_its_cache_and_later_guises_for_the_sample(dataset, tmp_path):
    (tmp_path / "data.json").write_text(json.dumps({"cache": str(dataset.cache)}))
    assert erase(tmp_path, in_guise(at(dataset.train, 6), 2)) == 1  # domain-incremental: the sample's third guise
    assert erased_ids(tmp_path).tolist() == at(dataset.train, 6).tolist()
    (tmp_path / "data.json").unlink()
    (tmp_path / "config.yaml").touch()  # a run that read no cache
    assert erase(tmp_path, [7]) == 0
    assert erased_ids(tmp_path).tolist() == []


def test_a_sample_stays_erased_when_a_file_is_added_and_one_is_removed(dataset, tmp_path):
    gone = at(dataset.train, 4)
    erase(dataset.cache, gone)
    folder = tmp_path / "images" / "train" / "class0"
    shutil.copy(folder / "9.png", folder / "00.png")
    (folder / "1.png").unlink()
    now = load(tmp_path)
    assert now.cache != dataset.cache
    assert now.train.sample_ids[now.train.erased].tolist() == gone.tolist()
    assert erase(now.cache, gone) == 0


def test_wrong_requests_change_nothing(dataset, tmp_path):
    with pytest.raises(ValueError, match="at least 0, got -1"):
        erase(dataset.cache, [3, -1])
    with pytest.raises(ValueError, match="train or test, got 'all'"):
        erase(dataset.cache, [3], split="all")
    with pytest.raises(ValueError, match="is neither a cache of a dataset nor a run"):
        erase(tmp_path / "images", [3])
    assert erased_ids(dataset.cache).tolist() == []
