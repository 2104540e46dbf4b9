"""What pip installs: the wheel holds the configs and works without a checkout and without the [train] extra."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ["pyproject.toml", "README.md", "LICENSE", "drb", "configs"]

# what `pip install drb-train` alone does not bring
IMPORT_WITHOUT_EXTRAS = """
import sys
import sysconfig
import venv
names = "torchvision hydra omegaconf mlflow rich matplotlib psutil sklearn mpi4py cryptography"
for name in names.split():
    sys.modules[name] = None
import drb, drb.training.evaluation.evaluate, drb.training.evaluation.metrics
import drb.runs.report.table, drb.runs.report.plots, drb.tracking
print(drb.__file__)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources and installed without the network into an empty folder."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    offline = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *offline, "--root-user-action=ignore", "--target", site, source]
    subprocess.run(command, check=True, timeout=100)
    return site


def test_the_wheel_ships_every_config_where_a_checkout_has_them(site: Path):
    configs = sorted(path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml"))
    assert configs
    assert sorted(path.relative_to(site / "drb/configs") for path in (site / "drb/configs").rglob("*.yaml")) == configs
    assert (ROOT / "drb/configs").resolve() == ROOT / "configs"


def test_the_wheel_is_typed_and_licensed_and_has_its_command(site: Path):
    distribution = PathDistribution(next(site.glob("drb_train-*.dist-info")))
    assert (site / "drb/py.typed").exists()
    assert distribution.metadata["License-Expression"] == "Apache-2.0"
    assert distribution.read_text("licenses/LICENSE")
    assert [(entry.name, entry.value) for entry in distribution.entry_points] == [("drb", "drb.cli:main")]


def test_the_wheel_holds_nothing_but_drb(site: Path):
    assert {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")} == {"drb", "bin"}


def test_the_core_imports_without_any_extra(site: Path, tmp_path: Path):
    command = [sys.executable, "-W", "error", "-c", IMPORT_WITHOUT_EXTRAS]
    environment = {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == site / "drb/__init__.py"


def test_the_wheel_trains_in_another_environment(site: Path, tmp_path: Path):
    """A venv of its own, which sees this one's libraries but neither this one's drb nor the checkout."""
    venv.create(tmp_path / "venv", with_pip=False)
    packages = next((tmp_path / "venv/lib").glob("python*/site-packages"))
    for entry in site.iterdir():
        (packages / entry.name).symlink_to(entry)
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    settings = ["experiment=digits", "training.epochs=1", "tracking=none", "hydra.run.dir=here"]
    command = [tmp_path / "venv/bin/python", packages / "bin/drb", "train", *settings]
    environment = {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "here" / "summary.json").read_text())
    assert len(summary["accuracy_matrix"]) == 5
    assert summary["rehearsal"]["stored_total"] == 200


def test_every_requirement_is_pinned_for_the_tests():
    text = (ROOT / "pyproject.toml").read_text()
    tables = re.search(r"^dependencies = .*?(?=^\[project\.scripts\])", text, re.DOTALL | re.MULTILINE)
    assert tables
    wanted = set(re.findall(r'"([A-Za-z0-9_-]+)>=', tables[0]))
    pinned = set(re.findall(r"^([A-Za-z0-9_-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert wanted
    assert wanted <= pinned


def test_version_is_the_same_everywhere(site: Path):
    version = PathDistribution(next(site.glob("drb_train-*.dist-info"))).version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text()
