"""`make gpu-check` without a GPU: the loops that it checks, and the table that it writes."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import torch

from benchmarks.gpu import docs, program, report, soak
from benchmarks.gpu.jobs import Way
from benchmarks.gpu.steps import compared, interleaved
from drb.program.config.compose import compose_config

CPU = torch.device("cpu")


def test_the_soak_counts_a_row_that_is_not_what_its_id_says():
    loop = soak.Soak(CPU, from_host=True)
    loop.run(8)
    ids = torch.arange(4)
    rows = {"image": loop._images(ids), "label": ids % 10, "sample_id": ids}
    rows["image"][2, 1, 3, 5] += 1
    rows["label"][3] += 1
    before = int(loop._wrong)
    loop._check(rows, with_logits=False)
    assert (before, int(loop._wrong)) == (0, 2)


def test_every_loop_of_the_soak_returns_right_rows():
    found = soak.measure(CPU, 12)
    assert all(figures["wrong"] == 0 and figures["rehearsed"] > 0 for figures in found.values())


def test_the_table_states_ratios_calls_and_wrong_rows(tmp_path):
    chosen = {"device=": Way(True, {})}
    times = {name: [(0.010, 0.010), (0.012, 0.012)] for name in ("plain", "plain again", "plain from the host")}
    kinds = compared({**times, "device=": [(0.011, 0.011), (0.0132, 0.0132)]}, chosen)
    assert abs(kinds["device="]["ratio"] - 1.1) < 1e-9
    job = {
        "plain_ms": 11.0,
        "kinds": kinds,
        "wrong": {"device=": {"rows": 10, "wrong": 3}},
        "extend": {
            "device=": {"us_per_round": {"extend": 90.0, "round": 200.0}, "cuda_calls": {"calls": 9.0, "us": 70}}
        },
    }
    found = {"machine": report.machine(CPU), "steps": {"cnn 56+7": job}}
    path = report.new_path(found["machine"], tmp_path)
    report.save(found, path)
    text = path.read_text()
    assert "| cnn 56+7 | 11.00 | 1.000 [1.000, 1.000]; +0.00 | 1.100 [1.100, 1.100]; +1.10 |" in text
    assert "| cnn 56+7 | device= | 9.0 | 70 | 90.0 | 200.0 |" in text
    assert "3 of 10 rows that were looked at are wrong." in text
    assert json.loads(path.with_suffix(".json").read_text())["machine"]["card"] == "cpu"


def test_neither_a_part_nor_a_second_check_of_a_day_takes_the_place_of_the_whole(tmp_path):
    found = {"machine": report.machine(CPU), "pieces": {"program": "ran, 9 s"}}
    whole = report.new_path(found["machine"], tmp_path)
    report.save(found, whole)
    found["program"] = {"resnet50 56+7": {"ms": {"finetune": [10.0, 12.0], "er": [11.55]}, "ratio": {"er": 1.05}}}
    part = report.new_path(found["machine"], tmp_path, "program")
    report.save(found, part)
    assert part.name == whole.name.replace(".md", "-program.md")
    names = []
    for _ in range(2):
        path = report.new_path(found["machine"], tmp_path)
        report.save(found, path)
        names.append(path.name)
    assert names == [whole.name.replace(".md", "-2.md"), whole.name.replace(".md", "-3.md")]
    assert "program" not in json.loads(whole.with_suffix(".json").read_text())
    line = "Whole program, resnet50 56+7: finetune 11.00 ms, er 11.55 ms (x1.050) a step; 2 turns."
    assert line in part.read_text()


def test_the_commit_says_whether_files_differ_from_it(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True)

    (tmp_path / "file").write_text("1")
    git("init", "-q")
    git("add", "file")
    git("commit", "-qm", "first")
    monkeypatch.setattr(report, "_HERE", str(tmp_path))
    commit = report.machine(CPU)["commit"]
    assert re.fullmatch("[0-9a-f]{7,}", commit)
    (tmp_path / "file").write_text("2")
    assert report.machine(CPU)["commit"] == f"{commit}+changes"
    assert report.machine(CPU, "abc1234")["commit"] == "abc1234"


def test_the_programs_settings_are_known_and_both_train_on_as_many_rows():
    (job,) = program.TINY
    for kind, rows in (("finetune", 16), ("er", 12)):
        config, _ = compose_config([*program.settings(job, kind, rows, Path("cache"), tiny=True), "hydra.run.dir=run"])
        assert (config.training.batch_size, config.training.epochs, config.strategy.name) == (rows, 1, kind)
    assert config.rehearsal.exemplars == 4
    assert program.ratios({"finetune": [10.0, 12.0], "er": [11.0], "other": []}) == {"er": 1.0}


def test_turns_end_with_the_time_but_there_are_two():
    kinds = {"plain": SimpleNamespace(step=lambda: None), "device=": SimpleNamespace(step=lambda: None)}
    for end, turns in ((time.monotonic() - 1, 2), (time.monotonic() + 60, 5)):
        assert [len(blocks) for blocks in interleaved(kinds, 3, 5, CPU, end).values()] == [turns, turns]


def test_the_tables_of_the_docs_put_results_together_by_job():
    kinds = {"plain again": {"ratio": 1.0, "low": 0.99, "high": 1.01, "extra_ms": 0.0}}
    first = {"machine": {"commit": "aaa"}, "steps": {"cnn 56+7": {"plain_ms": 3.0, "kinds": kinds}}}
    later = {"machine": {"commit": "bbb"}, "steps": {"resnet50 256+32": {"plain_ms": 73.3, "kinds": kinds}}}
    later["pause"] = {
        "resnet50": {
            "step_ms": 30.0,
            "pause_ms": [12.0, 8.0, 9.0],
            "first_share": 0.008,
            "later_share": 0.006,
            "share_while_writing": 0.01,
        }
    }
    later["steps"]["resnet50 256+32"]["kinds"] = kinds | {"stored on the gpu": {"ratio": 1.0012, "extra_ms": 0.1}}
    found, commits = docs.merged([first, later])
    lines = list(docs.tables(found, json.loads(docs.BEFORE.read_text())))
    again = "1.000 [0.990, 1.010] +0.00"
    assert lines[2] == f"| ResNet-50, 256+32 | 73.3 | {again} | 1.016 |  | 1.001 +0.10 | 1.042 |  |  |"
    assert lines[3] == f"| CNN 32², 56+7 | 3 | {again} | 1.440 |  |  | 1.330 |  |  |"
    assert "| ResNet-50 | 30.0 | 230 ms, 19.2% | 38 ms, 3.1% | 12 ms, 0.8% | 9 ms, 0.6% | 1.010 |" in lines
    assert commits == {"aaa": ["steps cnn 56+7"], "bbb": ["pause resnet50", "steps resnet50 256+32"]}
