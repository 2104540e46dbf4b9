"""drb forget in a run that draws from a prefilled folder: the run draws no more, and what is left there is told."""

import re

import drb.program.run
from drb.checkpoint import read_rank_states
from drb.cli import main as drb_main
from drb.data.cache import erase, open_prefilled
from drb.distributed.world import World
from drb.prefill import main as prefill
from drb.program.config import check_config, compose_config


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
    assert erase(folder, threes) == len(threes)
    assert drb_main(["forget", str(run_dir), "--where", "label=3"]) == 0
    assert not re.search("prefilled folder", capsys.readouterr().out)
