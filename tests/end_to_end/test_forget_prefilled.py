"""drb forget in a run that draws from a prefilled folder: the run draws no more, and what is left there is told."""

import re

import numpy as np
import pytest
from end_to_end.updates import FAST, day

import drb.program.run
from drb.checkpoint import read_rank_states
from drb.cli import main as drb_main
from drb.data.cache import erase, erased_ids, open_prefilled
from drb.distributed.world import World
from drb.prefill import main as prefill
from drb.program.config import check_config, compose_config
from drb.training.phases import PhaseTrainer


def test_forgotten_samples_of_a_prefilled_folder_are_denied_and_those_left_there_are_told(tmp_path, capsys):
    folder, run_dir = tmp_path / "base", tmp_path / "run"
    assert prefill([str(folder), "dataset=digits", "--capacity", "60", "--seed", "1"]) == 0
    arguments = [
        "experiment=none", "dataset=digits", "tracking=none", "threads=1",
        "training.epochs=1", "training.batch_size=128", "scenario.num_tasks=2", "rehearsal.capacity=8",
        "rehearsal.exemplars=2", f"rehearsal.prefilled={folder}", f"hydra.run.dir={run_dir}",
    ]  # fmt: skip
    config, _ = compose_config(arguments, "id")
    check_config(config, 1)
    drb.program.run.run(config, run_dir, World())
    source = open_prefilled(folder).train
    threes = source.sample_ids[source.labels == 3].tolist()
    capsys.readouterr()
    assert drb_main(["forget", str(run_dir), "--where", "label=3"]) == 0
    said = capsys.readouterr().out
    assert f"{len(threes)} samples lie in the prefilled folder {folder} still" in said
    for path in (run_dir / "checkpoints").iterdir():
        assert set(threes) <= set(read_rank_states(path)[0]["rehearsal"]["denied"].tolist())
    pictures = [source.gather(np.flatnonzero(source.sample_ids == each))["image"].numpy().tobytes() for each in threes]
    files = [path for path in folder.iterdir() if path.is_file()]
    assert all(any(picture in path.read_bytes() for path in files) for picture in pictures)
    (tmp_path / "ids").write_text(" ".join(map(str, threes[1:])))
    assert drb_main(["prefill", str(folder), "--forget", f"{threes[0]},{1 << 60}"]) == 0
    assert "1 training and 0 test samples were erased; it does not hold 1 of the ids" in capsys.readouterr().out
    assert drb_main(["prefill", str(folder), "--forget-file", str(tmp_path / "ids"), "--forget", str(threes[0])]) == 0
    assert f"{len(threes) - 1} training and 0 test samples were erased; 1 had been erased" in capsys.readouterr().out
    assert not any(picture in path.read_bytes() for path in files for picture in pictures)
    assert sorted(erased_ids(folder)) == sorted(threes)
    assert erase(folder, threes) == 0
    assert drb_main(["forget", str(run_dir), "--where", "label=3"]) == 0
    assert not re.search("prefilled folder", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--forget", "1"], "nowhere is not there; make it with drb prefill"),
        (["nowhere", "--forget", "one"], "--forget must hold integers, got 'one'"),
        (["nowhere", "--forget", "1", "dataset=digits"], "--forget takes ids and nothing else"),
        (["nowhere", "--forget-file", "no.txt"], "No such file or directory: 'no.txt'"),
        (["dataset=digits", "nowhere"], "name the folder to fill first"),
    ],
)
def test_what_cannot_be_erased_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert prefill(arguments) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_mix_that_was_begun_before_samples_were_erased_does_not_go_on(tmp_path, monkeypatch, capsys):
    """Its order is a formula of how many there are; a run that begins after it leaves them out."""
    base, run_dir = tmp_path / "base", tmp_path / "run"
    files = [day(tmp_path, number, [0, 1]) for number in (1, 2)]
    assert prefill([str(base), "dataset=arrivals", f"dataset.files=[{files[0]}]"]) == 0
    few = [setting for setting in FAST if not setting.startswith("rehearsal")]
    arguments = ["train", "experiment=none", "strategy=finetune", "scenario=base_plus_new", "tracking=none", *few]
    arguments += ["dataset=arrivals", f"dataset.files=[{base},{files[1]}]", f"hydra.run.dir={run_dir}"]
    step, seen = PhaseTrainer._optimisation_step, []

    def interrupt(self, *given):
        seen.append(1)
        if len(seen) > 14:
            raise KeyboardInterrupt
        step(self, *given)

    monkeypatch.setattr(PhaseTrainer, "_optimisation_step", interrupt)
    assert drb_main(arguments) == 130
    monkeypatch.setattr(PhaseTrainer, "_optimisation_step", step)
    assert prefill([str(base), "--forget", str(open_prefilled(base).train.sample_ids[5])]) == 0
    capsys.readouterr()
    assert drb_main(arguments) == 1
    err = capsys.readouterr().err
    assert "which mixes new 60, base 60, and there are new 60, base 59: the order of a mix is a formula" in err
    assert err.count("\n") == 1
    assert drb_main([*arguments, "checkpoint.resume=never"]) == 0
