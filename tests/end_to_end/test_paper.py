"""The paper's job on two ranks, with a folder of made-up pictures: across a task boundary, stopped and resumed."""

from __future__ import annotations

import json
import sys

import pytest
from programs import ROOT, start_ranks

from drb.program.config import check_config, compose_config

sys.path.insert(0, str(ROOT / "examples"))
from synthetic_imagenet import write_folder

JOB = [
    "experiment=paper_imagenet_resnet18",
    "training.epochs=1",
    "training.batch_size=4",
    "training.precision=fp32",
    "schedule.warmup_epochs=0.2",
    "schedule.milestones=[0.5, 0.8]",
    "rehearsal.exemplars=1",
    "rehearsal.candidates=2",
    "augmentation.crop_padding=2",
    "dataset.image_size=16",
    "dataset.resize=16",
    "tracking=none",
    "threads=1",
]


@pytest.mark.parametrize("name", ["resnet50", "resnet18", "ghostnet"])
def test_its_settings_are_the_papers(name):
    config, _ = compose_config([f"experiment=paper_imagenet_{name}"], "id")
    check_config(config, world_size=16)
    training, rehearsal = config.training, config.rehearsal
    assert (training.batch_size, training.epochs, rehearsal.exemplars, rehearsal.candidates) == (56, 30, 7, 14)
    assert (rehearsal.capacity, rehearsal.admission, config.scenario.classes_per_task) == (
        "30%",
        "random_replacement",
        250,
    )
    assert (config.strategy.name, config.schedule.warmup_epochs) == ("er", 5)


def test_it_crosses_a_task_boundary_and_goes_on_from_its_checkpoint(tmp_path):
    write_folder(tmp_path / "pictures", classes=4, per_class=8, size=16)
    with pytest.raises(ValueError, match="pictures is not empty"):
        write_folder(tmp_path / "pictures", classes=2, per_class=8, size=16)
    job = [*JOB, f"dataset.root={tmp_path / 'pictures'}", f"hydra.run.dir={tmp_path / 'run'}"]
    for tasks in (1, 2):  # the second start appends a task to the run that the first has ended
        ranks = start_ranks(2, [*job, "scenario.classes_per_task=2", f"scenario.num_tasks={tasks}"], tmp_path)
        ended = [rank.wait(100) for rank in ranks]
        assert [rank.code for rank in ended] == [0, 0], ended[0].err
    assert "resumed from" in ended[0].out
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert [entry["task"] for entry in summary["history"]] == [1, 2]
    assert summary["rehearsal"]["stored_total"] > 0
    assert summary["world_size"] == 2
