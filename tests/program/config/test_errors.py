"""Whatever is wrong with a command line ends with one line that names the key, the value and what is allowed."""

from __future__ import annotations

import pytest
from programs import TRAIN, Running

import drb.train
from drb.train import main

BAD = [
    # unknown keys
    (["training.epoch=3"], "training.epoch=3: there is no setting training.epoch; did you mean training.epochs?"),
    (["foo=1"], "foo=1: there is no setting foo; the program has"),
    (["foo.bar=1"], "there is no setting foo"),
    (
        ["dataset.num_train=3"],
        "dataset=mixtures or dataset=synthetic has the setting dataset.num_train; dataset has changed, name, removed",
    ),
    (["dataset.bogus=1"], "dataset.bogus=1: there is no setting dataset.bogus; dataset has changed, name, removed"),
    (
        ["optimizer=adam", "optimizer.momentun=0.9"],
        "there is no setting optimizer.momentun; did you mean optimizer.momentum, which only optimizer=sgd has?",
    ),
    (["+training.foo=1"], "+training.foo=1: settings cannot be added or deleted; write key=value"),
    (["++training.foo=1"], "training.foo=1: there is no setting training.foo; "),
    (["~seed"], "~seed: settings cannot be added or deleted"),
    (["hydra.runn.dir=x"], "there is no setting hydra.runn.dir; did you mean hydra.run.dir?"),
    # a name without its section, in a wrong one, misspelt, of another program
    (["epochs=3"], "epochs=3: there is no setting epochs; did you mean training.epochs?"),
    (["lr=0.1"], "lr=0.1: there is no setting lr; did you mean optimizer.lr?"),
    (["root=/data"], "root=/data: there is no setting root; did you mean dataset.root?"),
    (["train.epochs=1"], "train.epochs=1: there is no setting train.epochs; did you mean training.epochs?"),
    (["rehersal.capacity=100"], "rehersal.capacity=100: there is no setting rehersal.capacity; did you mean rehearsal"),
    (["learning_rate=1"], "there is no setting learning_rate; did you mean optimizer.lr?"),
    (["++epochs=1"], "epochs=1: there is no setting epochs; did you mean training.epochs?"),
    (["--epochs=3"], "--epochs=3 is not understood: settings are written without dashes, training.epochs=3"),
    (["--batch-size", "3"], "settings are written without dashes, training.batch_size=…"),
    (["epochs"], "'epochs' is not understood: write training.epochs=…"),
    # options of another variant
    (["experiment=synthetic", "model=resnet18"], "model=resnet18 has no option width as experiment=synthetic sets it"),
    (["experiment=fashion_mnist_online", "model=cnn"], "model=cnn has no option hidden as experiment=fashion_mnist_on"),
    (
        ["experiment=fashion_mnist_best", "rehearsal=class_balanced"],
        "rehearsal.admission=class_balanced has no option compared as experiment=fashion_mnist_best with",
    ),
    # unknown choices
    (["strategy=foo"], "strategy=foo is unknown; choose "),
    (["terms=[ewcc]"], "terms=[ewcc]: there is no term ewcc; did you mean ewc? choose "),
    (["model=mlp2"], "model=mlp2 is unknown; did you mean mlp? choose cnn, "),
    (
        ["experiment=x"],
        "experiment=x is unknown; choose base_plus_new, cifar100, digits, fashion_mnist_best, fashion_mnist_on",
    ),
    (["dataset=data.npz"], "dataset=data.npz is a path, and dataset= names a kind of data: for a folder of pictures"),
    (["dataset=./pictures"], "write dataset=image_folder dataset.root=./pictures, for arrays a class that loads them"),
    (["experiment=null"], "experiment=null is unknown; choose base_plus_new, cifar100, digits"),
    (
        ["dataset=[digits,cifar10]"],
        "dataset=[digits,cifar10] is unknown; choose arrivals, cifar10, cifar100, diffraction",
    ),
    (["strategy.name=foo"], "strategy.name=foo does not choose the strategy: write strategy=foo"),
    (["dataset.name=foo"], "dataset.name=foo does not choose the dataset: write dataset=foo"),
    (["optimizer=lbfgs"], "optimizer=lbfgs is unknown; choose adam, adamw or sgd"),
    (
        ["optimizer=adam", "optimizer.momentum=0.9"],
        "only optimizer=sgd has the setting optimizer.momentum; optimizer has beta1, beta2",
    ),
    (["schedule.milestones=[3]"], "only schedule=step has the setting schedule.milestones; schedule has name"),
    (
        ["rehearsal.exchange=mpi"],
        "rehearsal.exchange: unknown exchange 'mpi'; choose auto, collective, hierarchical, loopback, nccl, rma or sha",
    ),
    (["device=tpu"], "device must be auto, cpu or cuda, got 'tpu'"),
    # wrong types
    (["training.epochs=abc"], "training.epochs must be an integer, got 'abc'"),
    (["training.epochs=null"], "training.epochs needs a value, got null"),
    (["training=3"], "training is a group of settings, got 3; set training.<setting>"),
    (["seed=1.5"], "seed must be an integer, got '1.5'"),
    (["optimizer.lr=fast"], "optimizer.lr must be a number, got 'fast'"),
    (["training.channels_last=2"], "training.channels_last must be true or false, got 2"),
    (["rehearsal.capacity=[1]"], "rehearsal.capacity must be exemplars (500), memory ('20GiB') or a share"),
    (["rehearsal.asynchronous=maybe"], "rehearsal.asynchronous must be auto, true or false, got 'maybe'"),
    (["schedule=step", "schedule.milestones=3"], "schedule.milestones must be a list such as [1,2], got 3"),
    (["model.hidden=[a]"], "model.hidden[0] must be an integer, got 'a'"),
    # what is no override at all
    (["a b=3"], "a b=3 is not understood: write key=value or group=choice"),
    (["training.epochs=(3"], "training.epochs=(3 is not understood: write one value, training.epochs=value, or a list"),
    (["dataset.root='x"], """'dataset.root="'"'"'x"'"""),  # quoted for Hydra and for the shell
    (["seed=${oops}"], "oops"),
    (["training.epochs=1,2"], "training.epochs=1,2"),
    # impossible values
    (["training.epochs=0"], "training.epochs must be at least 1, got 0"),
    (["training.batch_size=0"], "training.batch_size must be at least 1, got 0"),
    (["optimizer.lr=0"], "optimizer.lr must be above 0, got 0.0"),
    (["optimizer.lr=nan"], "optimizer.lr must be above 0, got nan"),
    (["optimizer.momentum=1"], "optimizer.momentum must be at least 0 and below 1, got 1.0"),
    (["scenario.validation=1"], "scenario.validation must be at least 0 and below 1, got 1.0"),
    (["model.hidden=[100,0]"], "model.hidden must be at least 1, got [100, 0]"),
    (["rehearsal.exemplars=-1"], "rehearsal.exemplars must be at least 1 for strategy=er, got -1"),
    (["rehearsal.exemplars=0"], "rehearsal.exemplars must be at least 1 for strategy=er, got 0; strategy=finetune"),
    (["rehearsal.exemplars=many"], "rehearsal.exemplars must be an integer of at least 1, auto, or auto:N"),
    (["rehearsal.exemplars=auto:0"], "rehearsal.exemplars must be an integer of at least 1, auto, or auto:N"),
    (
        ["rehearsal.exemplars=auto", "rehearsal.asynchronous=false"],
        "rehearsal.exemplars=auto:16 needs rounds that run behind the training steps: leave asynchronous at its",
    ),
    (["rehearsal.codec=zip"], "rehearsal.codec: unknown codec 'zip'; choose bits, deflate, jpeg or png"),
    (["rehearsal.codec=deflate"], "rehearsal.codec: the codec deflate needs the option max_bytes"),
    (["rehearsal.codec=bits", "rehearsal.codec_options.bits=9"], "rehearsal.codec: bits.bits must be at least 1 and"),
    (["rehearsal.codec_options.bits=4"], "rehearsal.codec_options are options of a codec: choose rehearsal.codec"),
    (["rehearsal.capacity=0"], "rehearsal.capacity must be at least 1 exemplar, got 0"),
    (["rehearsal.capacity=lots"], "rehearsal.capacity must be exemplars (500), memory ('20GiB') or a share"),
    (["rehearsal.capacity=120%"], "share above 0 % and up to 100 %"),
    (
        ["rehearsal.candidates=3"],
        "rehearsal.candidates=3 has no meaning for admission=reservoir; only for random",
    ),
    (["rehearsal.interval=0"], "rehearsal.interval must be at least 1 and at most 1024, got 0"),
    (["rehearsal.interval=5000"], "rehearsal.interval must be at least 1 and at most 1024, got 5000"),
    (
        ["rehearsal.depth=2", "rehearsal.exemplars=auto"],
        "rehearsal.exemplars=auto:16 measures one round behind one step",
    ),
    (["rehearsal.min_fill=-1"], "rehearsal.min_fill must be at least 0, got -1"),
    (["device=cpu", "training.precision=fp16"], "training.precision=fp16 needs CUDA, and this run is on the CPU"),
    (["device=cpu", "training.sync_bn=true"], "training.sync_bn=true needs CUDA, and this run is on the CPU"),
    (
        ["model.init=weights.pt"],
        "model.init must be random, torchvision or a path (a file of weights, a run, a checkpoint), got 'weights.pt'",
    ),
    (["rehearsal.min_fill=201"], "rehearsal.min_fill must be at most the total capacity, 200, got 201"),
    (["console=none"], "console must be main or all, got 'none'"),
    (["optimizer.nesterov=true"], "optimizer.nesterov=true needs optimizer.momentum above 0"),
    (
        ["schedule=step", "schedule.milestones=[]"],
        "schedule.milestones must name the epochs at which",
    ),
    (["schedule=cosine", "schedule.span=run"], "schedule.span=run needs schedule.total_epochs"),
    (["scenario=task_incremental", "objective.label_smoothing=0.1"], "objective.label_smoothing must be 0 with"),
    (
        ["objective.input=picture"],
        "objective.input=picture: there is no such field, the samples of",
    ),
    (["rehearsal.stratum=lable"], "rehearsal.stratum=lable: there is no such field"),
    (["rehearsal.stratum=task"], "rehearsal.stratum=task: there is no such field"),
    (["device=cuda"], "local rank 0 needs a CUDA device of its own"),
]


@pytest.mark.parametrize(("arguments", "line"), BAD, ids=lambda value: " ".join(value) if type(value) is list else "")
def test_one_line_says_what_is_wrong(arguments, line, capsys, monkeypatch):
    if arguments == ["device=cuda"]:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("drb: error: ")
    assert err.count("\n") == 1
    assert line in err


def test_an_unused_rehearsal_is_not_checked():
    from drb.program.config import check_config, compose_config

    config, _ = compose_config(["strategy=finetune", "rehearsal.exemplars=0"], "id")
    check_config(config, world_size=1)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["training.batch_scope=total", "training.batch_size=10"], "training.batch_size=10 in total cannot be shared"),
        (
            ["training.batch_size=9", "rehearsal.exemplars=10"],
            "rehearsal.exemplars=10 in total cannot be shared evenly",
        ),
        (["training.batch_size=9", "rehearsal.exemplars=9", "rehearsal.exchange=loopback"], "this run has 3"),
    ],
)
def test_what_ranks_cannot_share_evenly_is_said(arguments, line, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert main(arguments) == 1  # a process group of three would never open here
    assert line in capsys.readouterr().err


def test_other_ranks_fail_silently(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(drb.train, "_GRACE_S", 0.0)
    assert main(["training.epochs=0"]) == 1
    assert capsys.readouterr() == ("", "")


def test_the_process_prints_one_line_and_makes_nothing(tmp_path):
    ended = Running([*TRAIN, "optimizer.lr=-1"], tmp_path).wait()
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == "drb: error: optimizer.lr must be above 0, got -1.0\n"
    assert list(tmp_path.iterdir()) == []
