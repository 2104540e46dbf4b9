"""Text settings take any text: what Hydra's grammar would take apart is one value."""

from __future__ import annotations

import pytest

from drb.program.config import compose_config

PATHS = [
    "/data/a(b)", "/data/a=b", "/data/größe/日本", "/data/it's", "/data/a&b#c", "/data/[a]", "[a]", "{a: b}", "/d/a,b",
    "~/a", '/data/"a"', "range(1,3)", "2024",
]  # fmt: skip
KEYS = ["dataset.root", "hydra.run.dir", "checkpoint.resume", "tracking.uri"]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_taken_as_it_is_typed(path):
    config, run_dir = compose_config(["dataset=image_folder", *(f"{key}={path}" for key in KEYS)], "id")
    assert [config.dataset.root, str(run_dir), config.checkpoint.resume, config.tracking.uri] == [path] * 4


@pytest.mark.parametrize("quoted", ["'/data/a(b)'", '"/data/a(b)"'])
def test_quotes_of_hydra_still_work(quoted):
    config, _ = compose_config(["dataset=image_folder", f"dataset.root={quoted}"], "id")
    assert config.dataset.root == "/data/a(b)"


def test_a_text_may_still_refer_to_another_setting():
    config, _ = compose_config(["seed=3", "name=run-${seed}"], "id")
    assert config.name == "run-3"
