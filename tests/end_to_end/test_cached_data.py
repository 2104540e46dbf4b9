"""The program on image files: the same run whether they are cached, and after samples were erased."""

import json

import pytest
from images import write_image_folder

import drb.program.run
from drb.data.cache import erase, erased_ids
from drb.distributed.world import World
from drb.program.config import check_config, compose_config


@pytest.fixture
def train(tmp_path):
    root = write_image_folder(tmp_path / "images", per_class=15, num_classes=4)

    def run(name, *settings):
        arguments = [
            "experiment=none", "dataset=image_folder", f"dataset.root={root}", "dataset.image_size=10",
            "scenario.num_tasks=2", "tracking=none", "training.batch_size=4", "training.epochs=2", "threads=1",
            "rehearsal.exemplars=2", "rehearsal.capacity=8", f"hydra.run.dir={tmp_path / name}", *settings,
        ]  # fmt: skip
        config, run_dir = compose_config(arguments, "id")
        check_config(config, 1)
        drb.program.run.run(config, run_dir, World())
        return json.loads((run_dir / "summary.json").read_text()), run_dir

    return run


def test_a_cache_changes_nothing_but_where_pixels_come_from(train, tmp_path):
    decoded, run_dir = train("decoded", "dataset.cache=never")
    assert not (run_dir / "data.json").exists()
    cached, run_dir = train("cached", f"dataset.cache_dir={tmp_path / 'cache'}")
    assert cached["accuracy_matrix"] == decoded["accuracy_matrix"]
    assert json.loads((run_dir / "data.json").read_text())["cache"].startswith(str(tmp_path / "cache"))
    one, other = (sorted((tmp_path / name).rglob("*.safetensors")) for name in ("decoded", "cached"))
    assert len(one) > 1
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_a_run_goes_on_after_samples_were_erased(train, tmp_path):
    _, run_dir = train("run", "scenario.num_tasks=2")
    cache = json.loads((run_dir / "data.json").read_text())["cache"]
    assert cache.startswith(str(tmp_path / "images" / "drb-cache"))
    assert erase(run_dir, [1, 2, 31]) == 3
    assert erased_ids(run_dir).tolist() == [1, 2, 31]
    again, _ = train("again")
    assert again["samples"] == 4 * 15 * 2  # as many as before: others were shown instead


def test_a_limit_that_is_no_size_is_refused(train):
    with pytest.raises(ValueError, match="dataset.cache_limit must be an amount such as 20GiB, got 'lots'"):
        train("run", "dataset.cache_limit=lots")
