"""The program on image files: the same run whether they are cached, and after samples were erased."""

import json
import re
import shutil

import numpy as np
import pytest
from images import write_image_folder

import drb.checkpoint
import drb.program.run
from drb.checkpoint import read_rank_states
from drb.cli import main as drb_main
from drb.data.cache import erase, erased_ids
from drb.data.datasets import load_dataset
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
    ids = load_dataset("image_folder", tmp_path / "images", image_size=10).train.sample_ids[[1, 2, 31]]
    assert erase(run_dir, ids) == 3
    assert erased_ids(run_dir).tolist() == sorted(ids)
    again, _ = train("again")
    assert again["samples"] == 4 * 15 * 2  # as many as before: others were shown instead


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.name.endswith("lock")}


def test_the_cache_is_not_erased_for_a_copy_of_a_run_or_a_dry_run_unless_that_is_meant(train, tmp_path, capsys):
    _, run_dir = train("run")
    copy, cache = tmp_path / "copy", tmp_path / "images" / "drb-cache"
    shutil.copytree(run_dir, copy)
    [state] = read_rank_states(max((run_dir / "checkpoints").iterdir()))
    some = state["rehearsal"]["buffer"]["columns"]["sample_id"][:2]
    ids = ["--ids", ",".join(map(str, some))]
    before = content(cache), content(copy)

    assert drb_main(["forget", str(copy), *ids]) == 1
    assert f"{copy} is a copy of {run_dir} and reads the same cache, " in capsys.readouterr().err
    assert drb_main(["forget", str(copy), *ids, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "2 sample ids would be denied" in out
    assert "2 samples would be erased from the cache" in out
    assert (content(cache), content(copy)) == before

    assert drb_main(["forget", str(copy), *ids, "--keep-cache"]) == 0
    assert content(cache) == before[0]
    assert content(copy) != before[1]
    assert drb_main(["forget", str(copy), *ids, "--yes"]) == 0
    assert erased_ids(run_dir).tolist() == sorted(some)
    assert drb_main(["forget", str(run_dir), *ids]) == 0  # its own: nobody is there to be asked


def test_a_picture_is_forgotten_by_its_file(train, tmp_path, capsys):
    _, run_dir = train("run", "dataset.cache=never")
    [state] = read_rank_states(max((run_dir / "checkpoints").iterdir()))
    stored = state["rehearsal"]["buffer"]["columns"]["sample_id"].tolist()
    data = load_dataset("image_folder", tmp_path / "images", image_size=10).train
    position = data.sample_ids.tolist().index(stored[0])
    files = sorted((tmp_path / "images" / "train").glob("*/*.png"))
    by_class = [[f for f in files if f.parent.name == f"class{c}"] for c in range(4)]
    label = int(data.labels[position])
    number = position - int(np.flatnonzero(data.labels == label)[0])
    picture = by_class[label][number]
    for name in (str(picture), f"{picture.parent.name}/{picture.name}"):
        assert drb_main(["forget", str(run_dir), "--file", name, "--dry-run"]) == 0
        assert "1 sample id would be denied" in capsys.readouterr().out
    picture.unlink()  # it may be gone already
    assert drb_main(["forget", str(run_dir), "--file", f"{picture.parent.name}/{picture.name}"]) == 0
    [state] = read_rank_states(max((run_dir / "checkpoints").iterdir()))
    assert stored[0] not in state["rehearsal"]["buffer"]["columns"]["sample_id"]
    assert drb_main(["forget", str(run_dir), "--file", "kitten/1.png"]) == 1
    assert "--file must be CLASS/NAME of a training picture, got kitten/1.png; the classes are class0" in (
        capsys.readouterr().err
    )


def test_a_limit_that_is_no_size_is_refused(train):
    with pytest.raises(ValueError, match="dataset.cache_limit must be an amount such as 20GiB, got 'lots'"):
        train("run", "dataset.cache_limit=lots")


STREAM = ("scenario.num_tasks=null", "scenario.classes_per_task=1")


@pytest.fixture
def stopped(train, tmp_path):
    """A function that trains two of four tasks, changes the data, and goes on with the settings that it is given."""
    cache = f"dataset.cache_dir={tmp_path / 'cache'}"

    def go_on(change, *settings, stream=STREAM):
        steps = (*stream, cache, "checkpoint.every_steps=7")
        with pytest.MonkeyPatch.context() as patch:
            save = drb.checkpoint.Checkpointer.visit

            def stop(self, step, state):
                save(self, step, state)
                if step == 14:
                    self.finish()
                    raise KeyboardInterrupt

            patch.setattr(drb.checkpoint.Checkpointer, "visit", stop)
            with pytest.raises(KeyboardInterrupt):
                train("run", *steps)
        change(tmp_path / "images")
        return train("run", *steps, *settings)

    return go_on


def add_and_remove(root):
    shutil.copy(root / "train" / "class3" / "0.png", root / "train" / "class2" / "new.png")
    for index in range(12):
        (root / "train" / "class0" / f"{index}.png").unlink()


def test_a_run_does_not_go_on_with_other_data_in_silence(stopped):
    with pytest.raises(
        ValueError,
        match=r"the data is not what it was at .*: train/class0 has 3 samples and had 15; train/class2 has 16 "
        r"samples and had 15 \(written last: new.png\); go on with the same data, or set dataset.changed=allow",
    ):
        stopped(add_and_remove)


def replace_one(root):
    shutil.copy(root / "val" / "class3" / "0.png", root / "train" / "class1" / "3.png")
    with (root / "train" / "class1" / "3.png").open("ab") as file:
        file.write(b"longer")


def test_a_replaced_picture_is_noticed(stopped):
    with pytest.raises(
        ValueError, match=r"train/class1 has 15 samples as before, but some are others \(written last: 3.png\)"
    ):
        stopped(replace_one)


def write_again(root):
    picture = root / "train" / "class1" / "3.png"
    picture.write_bytes(picture.read_bytes()[:-1] + b"x")  # as long as before


def test_a_picture_of_the_same_size_is_noticed_and_a_copy_of_the_data_is_not_refused(stopped, capsys):
    summary, _ = stopped(write_again)
    said = capsys.readouterr()
    assert len(summary["accuracy_matrix"]) == 4
    line = " ".join((said.out + said.err).split())
    assert re.search(r"with the same names and sizes: train/class1 \(written last: 3.png\); if pictures were", line)


def add_a_class(root):
    for split in ("train", "val"):
        shutil.copytree(root / split / "class1", root / split / "ant")


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (
            (*STREAM, "scenario.class_order=shuffled"),
            r"with it task 1, which was trained as 'classes \w+', would be 'classes \w+'",
        ),
        (("scenario=instance_incremental",), "instance_incremental divides the samples by their"),
    ],
)
def test_other_data_that_makes_other_tasks_is_refused(stopped, stream, said):
    with pytest.raises(ValueError, match=said):
        stopped(add_a_class, "dataset.changed=allow", stream=stream)


def test_new_classes_come_behind_the_known_ones(stopped):
    summary, _ = stopped(add_a_class, "dataset.changed=allow")
    assert summary["task_names"] == [f"classes {name}" for name in ("class0", "class1", "class2", "class3", "ant")]


@pytest.mark.parametrize(("removed", "verb"), [("keep", "kept"), ("forget", "forgotten")])
def test_a_run_goes_on_with_other_data_if_it_may(stopped, removed, verb, capsys):
    summary, run_dir = stopped(add_and_remove, "dataset.changed=allow", f"dataset.removed={removed}")
    said = capsys.readouterr()
    assert "train/class0 has 3 samples and had 15" in said.out + said.err
    assert re.search(rf"\b[1-8] of 8 exemplars, whose samples are gone, are {verb}", said.out + said.err)
    assert len(summary["accuracy_matrix"]) == 4
    data = load_dataset("image_folder", run_dir.parent / "images", image_size=10).train
    newest = max((run_dir / "checkpoints").iterdir())
    (state,) = read_rank_states(newest)
    stored = state["rehearsal"]["buffer"]["columns"]
    known = np.isin(stored["sample_id"], data.sample_ids)
    assert known.all() or removed == "keep"
    label_of = dict(zip(data.sample_ids.tolist(), data.labels.tolist(), strict=True))
    pairs = zip(stored["sample_id"].tolist(), stored["stratum"].tolist(), strict=True)
    assert all(label_of[sample] == label for sample, label in pairs if sample in label_of)


def rename(root):
    for split in ("train", "val"):
        (root / split / "class0").rename(root / split / "zebra")


def test_a_run_with_a_renamed_class_goes_on_once_it_is_told(stopped):
    summary, _ = stopped(rename, "dataset.renamed={class0: zebra}")
    assert len(summary["accuracy_matrix"]) == 4


def test_a_renamed_class_is_asked_for(stopped):
    with pytest.raises(ValueError, match=r"no class 'class0' any more .*'zebra': .*dataset.renamed={class0: zebra}"):
        stopped(rename)
