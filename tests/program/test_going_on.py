"""What a finished run leaves: its network, for other runs and programs, and a checkpoint for more tasks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from drb.data.datasets import load_dataset
from drb.train import main
from drb.training.models import Outputs, build_model
from drb.training.models.saved import load_network
from drb.training.models.weights import load_weights

JOB = ["experiment=digits", "tracking=none", "training.epochs=1", "scenario.classes_per_task=2", "terms=[ema]"]


def train(run_dir: Path, *arguments: str) -> int:
    return main([*JOB, f"hydra.run.dir={run_dir}", *arguments])


def summary_of(run_dir: Path) -> dict:
    return json.loads((run_dir / "summary.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of two tasks."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    assert train(run_dir, "scenario.num_tasks=2") == 0
    return run_dir


@pytest.fixture(scope="module")
def longer(tmp_path_factory) -> Path:
    """The same with three tasks from the start."""
    run_dir = tmp_path_factory.mktemp("longer") / "run"
    assert train(run_dir, "scenario.num_tasks=3") == 0
    return run_dir


def test_a_finished_run_leaves_the_network_that_was_evaluated(finished):
    network, digits = load_network(finished), load_dataset("digits", "data")
    described = json.loads((finished / "model.json").read_text())
    mean, std = (torch.tensor(described[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
    for task, classes in enumerate([(0, 1), (2, 3)]):
        tested = np.flatnonzero(np.isin(digits.test.labels, classes))
        batch = digits.test.gather(tested)
        with torch.inference_mode():
            logits = network((batch["image"] / 255 - mean) / std)
        accuracy = (logits.argmax(1) == batch["label"]).double().mean().item()
        assert accuracy == pytest.approx(summary_of(finished)["accuracy_matrix"][1][task])


def test_another_run_can_start_from_its_network_or_its_checkpoints(finished):
    [checkpoint] = (finished / "checkpoints").iterdir()
    final, saved = load_file(finished / "model.safetensors"), load_file(checkpoint / "model.safetensors")
    trained = {name.removeprefix("network."): value for name, value in saved.items() if name.startswith("network.")}
    for path, expected in (
        (finished, final),
        (finished / "model.safetensors", final),
        (checkpoint, trained),
        (checkpoint / "model.safetensors", trained),
    ):
        network = build_model("mlp", (1, 8, 8), 4, init=str(path))
        assert network.load_report.complete, path
        assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items()), path


def test_the_program_takes_a_run_as_init_and_says_what_is_no_weights(finished, tmp_path, capsys):
    assert train(tmp_path / "next", "scenario.num_tasks=1", f"model.init={finished}") == 0
    assert train(tmp_path / "other", f"model.init={tmp_path}") == 1
    assert f"{tmp_path} holds no weights: it is neither a checkpoint nor a run" in capsys.readouterr().err


OWN = """
import numpy as np
from drb.data.datasets import DatasetBuilder, tensor_dataset
from drb.data.identity import Identity
from drb.options import setting
from dataclasses import replace

class Animals(DatasetBuilder):
    classes: list[str] = setting(["cat", "dog", "elk", "fox"])

    def load(self, say, known_classes=()):
        places = ["cat", "dog", "elk", "fox", "zebu"]
        labels = np.arange(200) % len(self.classes)
        rows = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32) * 0.1
        rows[np.arange(200), [places.index(self.classes[label]) for label in labels]] += 2
        data = tensor_dataset((rows, labels), (rows, labels), name="animals")
        return replace(data, identity=Identity("animals", tuple(self.classes), data.identity.parts))
"""


@pytest.fixture(scope="module")
def animals(tmp_path_factory) -> Path:
    """A run that can tell four named classes apart, in a folder that can be imported from."""
    folder = tmp_path_factory.mktemp("animals")
    (folder / "animals.py").write_text(OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        assert train_animals(folder / "run", "cat,dog,elk,fox", "training.epochs=10") == 0
    return folder


def train_animals(run_dir: Path, classes: str, *arguments: str) -> int:
    chosen = ["experiment=none", "model=mlp", "dataset=animals.Animals", f"dataset.classes=[{classes}]"]
    few = [
        f"scenario.classes_per_task={classes.count(',') + 1}",
        "tracking=none",
        "strategy=finetune",
        "model.hidden=[16]",
        f"hydra.run.dir={run_dir}",
    ]
    return main([*chosen, *few, *arguments])


@pytest.mark.parametrize(
    ("classes", "order", "accuracy", "note"),
    [
        ("cat,dog,elk,fox", "natural", 1.0, None),
        ("cat,dog,elk,fox", "shuffled", 1.0, "rows of the head were taken by the names of classes"),
        ("dog,elk,fox,cat", "natural", 1.0, "rows of the head were taken by the names of classes"),
        ("dog,elk,fox,zebu", "natural", 0.75, "by the names of classes, and left as initialised for zebu; nothing"),
        ("fox,zebu,cat,elk,dog", "natural", 0.8, "by the names of classes, and left as initialised for zebu"),
        ("elk,dog", "natural", 0.98, "by the names of classes; nothing took those of cat, fox"),
    ],
)
def test_a_head_is_put_on_the_classes_that_it_was_learnt_on(
    animals, tmp_path, monkeypatch, caplog, classes, order, accuracy, note
):
    monkeypatch.syspath_prepend(animals)
    for path in (animals / "run", next((animals / "run" / "checkpoints").iterdir())):
        caplog.clear()
        job = ["training.epochs=1", "optimizer.lr=1e-9"]
        new = tmp_path / path.name
        assert train_animals(new, classes, *job, f"scenario.class_order={order}", f"model.init={path}") == 0
        assert summary_of(new)["accuracy_matrix"][0][0] >= accuracy
        warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert [message for message in warned if note is None or note not in message] == []
        assert len(warned) == (note is not None)
    described = json.loads((new / "model.json").read_text())
    network, told = load_network(new), described["classes"]
    assert sorted(told) == sorted(classes.split(","))
    places = ["cat", "dog", "elk", "fox", "zebu"]
    known = [name for name in told if name != "zebu"]
    rows = torch.zeros(len(known), 5)
    rows[range(len(known)), [places.index(name) for name in known]] = 2.0
    with torch.inference_mode():
        logits = network((rows - torch.tensor(described["mean"])) / torch.tensor(described["std"]))
    assert [told[output] for output in logits.argmax(1).tolist()] == known


def test_a_head_of_other_classes_is_not_taken_and_numbered_classes_are_told(finished):
    outputs = [Outputs(("bee", "ant"), "a"), Outputs(("cat", "dog"), "b")]
    rows, note = outputs[0].taken_from(outputs[1])
    assert rows == [-1, -1]
    assert note == "its head is of other classes (cat, dog), and this one is left as initialised"
    network = build_model("mlp", (1, 8, 8), 4, init=str(finished), outputs=Outputs(tuple("0123"), "fashion_mnist"))
    assert str(network.load_report).endswith("; its head was learnt on the numbered classes of dataset=digits")
    assert build_model(
        "mlp", (1, 8, 8), 4, init=str(finished), outputs=Outputs(tuple("0123"), "digits")
    ).load_report.complete


def test_a_head_of_fewer_rows_than_classes_and_one_without_names():
    """A head that grows has the first classes only; a file of weights says nothing about them."""
    saved, network = build_model("mlp", (1, 2, 2), 2, seed=1), build_model("mlp", (1, 2, 2), 2)
    offered, own = saved.state_dict(), Outputs(("bee", "cat", "dog"), "b")
    before = network.head.weight.detach().clone()
    report = load_weights(network, offered, "a run", own, Outputs(("ant", "bee", "cat"), "a"))
    assert report.note.endswith("by the names of classes, and left as initialised for cat; nothing took those of ant")
    assert torch.equal(network.head.weight, torch.stack([offered["head.weight"][1], before[1]]))
    for unknown in (None, Outputs(("ant",), "a")):
        report = load_weights(network, offered, "a file", own, unknown)
        assert report.note == "nothing tells the classes of its head, whose rows were taken in their order"
        assert torch.equal(network.head.weight, offered["head.weight"])


def test_a_run_of_all_tasks_there_were_goes_on_with_so_many_or_more_tasks(tmp_path, capsys):
    job = ["experiment=none", "dataset=synthetic", "dataset.image_shape=[1,4,4]", "dataset.num_train=80", "model=mlp"]
    job += ["dataset.num_test=40", "training.epochs=1", "scenario.classes_per_task=2", "strategy=finetune"]
    job += ["dataset.num_classes=4", "tracking=none"]
    assert main([*job, f"hydra.run.dir={tmp_path / 'all'}"]) == 0
    again = [*job, f"hydra.run.dir={tmp_path / 'two'}", f"checkpoint.resume={tmp_path / 'all'}"]
    assert main([*again, "scenario.num_tasks=1"]) == 1
    assert "was made with scenario.num_tasks=null, this run has 1; go on" in capsys.readouterr().err
    assert main([*again, "scenario.num_tasks=2"]) == 0
    assert len(summary_of(tmp_path / "two")["accuracy_matrix"]) == 2
    assert main([*job, f"hydra.run.dir={tmp_path / 'all'}", "scenario.num_tasks=2"]) == 0
    assert "this run is finished" in capsys.readouterr().out


def same(one: Path, other: Path) -> bool:
    weights = [load_file(run_dir / "model.safetensors") for run_dir in (one, other)]
    return summary_of(one)["accuracy_matrix"] == summary_of(other)["accuracy_matrix"] and all(
        torch.equal(value, weights[1][name]) for name, value in weights[0].items()
    )


def test_a_finished_run_goes_on_with_more_tasks_in_a_directory_of_its_own(finished, longer, tmp_path):
    assert train(tmp_path / "more", "scenario.num_tasks=3", f"checkpoint.resume={finished}") == 0
    assert same(tmp_path / "more", longer)
    assert len(summary_of(finished)["accuracy_matrix"]) == 2


def test_a_finished_run_goes_on_with_more_tasks_in_its_own_directory(tmp_path, longer, capsys):
    assert train(tmp_path, "scenario.num_tasks=2") == 0
    assert train(tmp_path, "scenario.num_tasks=3") == 0
    assert "resumed from" in capsys.readouterr().out
    assert same(tmp_path, longer)
    assert train(tmp_path, "scenario.num_tasks=3") == 0
    assert "this run is finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scenario.num_tasks=1"], "was made with scenario.num_tasks=2, this run has 1"),
        (["scenario.num_tasks=3", "scenario.classes_per_task=null"], "was made with scenario.classes_per_task=2, this"),
        (["scenario.num_tasks=3", "seed=1"], "was made with seed=0, this run has 1"),
    ],
)
def test_a_run_does_not_go_on_with_other_tasks(finished, tmp_path, capsys, arguments, message):
    assert train(tmp_path, *arguments, f"checkpoint.resume={finished}") == 1
    assert message in capsys.readouterr().err


def test_a_finished_run_can_be_verified_and_one_without_checkpoints_says_so(finished, tmp_path, capsys):
    from drb.cli import main as drb

    assert drb(["verify", str(finished)]) == 0
    assert train(tmp_path, "scenario.num_tasks=1", "checkpoint=none") == 0
    capsys.readouterr()
    assert drb(["verify", str(tmp_path)]) == 1
    assert f"{tmp_path} is a run that has saved no checkpoint (checkpoint.enabled" in capsys.readouterr().err


def test_data_that_is_not_there_is_told_by_its_setting(tmp_path, monkeypatch, capsys):
    (tmp_path / "absent_data.py").write_text(
        "from drb.data.datasets import DatasetBuilder\n"
        "class Absent(DatasetBuilder):\n"
        "    def load(self, say, known_classes=()):\n"
        "        open(self.root)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    job = [
        "dataset=absent_data.Absent",
        "dataset.root=~/gone.npz",
        "tracking=none",
        f"hydra.run.dir={tmp_path / 'run'}",
    ]
    assert main(job) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"drb: error: dataset=absent_data.Absent cannot be loaded from dataset.root={tmp_path}/gone")
