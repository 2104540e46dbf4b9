"""A study's page and MLflow's pages of it, as a person opens them in a browser.

A small study is run for it, and `drb dashboard` serves it. With DRB_SCREENSHOTS=FOLDER the pages are saved there as
pictures; those in docs/images are made so.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from programs import ROOT, free_port
from study.browser import CHART, CHROMIUM, Pages, dashboard, open_browser

STUDY = """\
# Does rehearsal help on one rank and on two?
title: A small study
settings: [experiment=digits, scenario.num_tasks=3, tracking.system_seconds=0.5, training.eval_every=10]
ranks: [1, 2]
seeds: [0, 1]
target: 0.5
points:
  incremental: [strategy=finetune]
  rehearsal: [strategy=er]
"""
pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(500),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    pytest.importorskip("playwright", reason="needs playwright: pip install 'drb-train[browser]'")
    folder = tmp_path_factory.mktemp("browser")
    (folder / "small.yaml").write_text(STUDY)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "drb.cli", "study", "small.yaml"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    with dashboard(folder, free_port(), environment) as links, open_browser() as page:
        yield Pages(page, links, folder / "runs/study-small", os.environ.get("DRB_SCREENSHOTS"))


def test_the_page_of_a_study_has_its_table_and_every_plot(pages: Pages):
    page = pages.open_file("page.html", "study_page")
    assert page.get_by_role("heading", level=1).inner_text() == "A small study"
    assert page.get_by_role("row").filter(has_text="rehearsal · W=2").count() == 1
    plots = page.locator("img").evaluate_all("images => images.map(i => [i.alt, i.naturalWidth])")
    assert [name for name, _ in plots][:3] == ["scaling", "accuracy runtime", "accuracy tasks"]
    assert all(width > 600 for _, width in plots)


def test_runs_are_nested_below_their_study_in_mlflow(pages: Pages):
    page = pages.open("experiment", None, wait_for="A small study")
    assert page.get_by_text("seed 0").count() == 0
    page.get_by_role("gridcell").filter(has_text="A small study").get_by_role("button").first.click()
    for name in ("rehearsal · W=2 · seed 1", "incremental · W=1 · seed 0", "scaling: rehearsal"):
        page.get_by_text(name, exact=True).first.wait_for()
    pages.shoot("mlflow_runs")


def test_the_page_of_a_study_is_shown_among_its_files(pages: Pages):
    page = pages.open("its page", "mlflow_study", wait_for="page.html")
    inside = page.frame_locator("iframe")
    inside.get_by_role("heading", name="A small study").wait_for()
    widths = inside.locator("img").evaluate_all("images => images.map(i => i.naturalWidth)")
    assert len(widths) >= 5
    assert min(widths) > 600


def test_a_run_has_tags_data_model_charts_and_system_metrics(pages: Pages):
    page = pages.open_run("rehearsal · W=2 · seed 0", "", "mlflow_run", wait_for="strategy")
    text = page.locator("body").inner_text()
    for tag in ("study", "strategy", "world_size", "nodes", "seed", "host", "git_commit", "version_torch"):
        assert tag in text, tag
    assert "digits (" in text  # data
    assert "drb.train" in text  # source
    page = pages.open_run("rehearsal · W=2 · seed 0", "/model-metrics", "mlflow_charts", wait_for="by_task")
    page.locator(CHART).nth(3).wait_for()
    sections = page.locator("[data-testid='experiment-view-compare-runs-section-header']").all_inner_texts()
    counts = {name: int(count) for name, count in re.findall(r"(\w+)\s*\((\d+)\)", " ".join(sections))}
    assert {"accuracy", "train", "rehearsal", "breakdown"} <= counts.keys()
    assert 10 <= sum(counts.values()) <= 30
    page = pages.open_run("rehearsal · W=2 · seed 0", "/system-metrics", "mlflow_system", wait_for="cpu_utilization")
    page.locator(CHART).nth(3).wait_for()


def test_the_table_of_a_study_has_the_columns_that_matter(pages: Pages):
    page = pages.open("in a table", "mlflow_table", wait_for="rehearsal · W=2 · seed 0")
    for column in ("strategy", "world_size", "seed", "mean", "forgetting", "train_seconds", "samples_per_second"):
        page.get_by_role("columnheader").filter(has_text=column).first.wait_for()
    assert page.get_by_text("scaling: rehearsal").count() == 1  # nested, and named after what is on its axis


def test_runs_are_compared_by_clicks(pages: Pages):
    page = pages.open("in a table", None, wait_for="rehearsal · W=2 · seed 0")
    for name in ("incremental · W=2 · seed 0", "rehearsal · W=2 · seed 0"):
        page.get_by_role("row").filter(has_text=name).get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("Comparing 2 Runs").first.wait_for()
    pages.shoot("mlflow_compare")
    pages.open("side by side", None, wait_for="Comparing 8 Runs")
    page = pages.open("in charts", "mlflow_compared", wait_for="accuracy/by_task")
    page.locator(CHART).nth(5).wait_for()
