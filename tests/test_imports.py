"""Imports point one way, and each heavy dependency has one door.

Read from the sources by `ast`, so imports inside functions and under TYPE_CHECKING count, too.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "drb"

LAYERS = [
    {"types", "warn", "seeding", "options", "registry", "variant", "machine", "tracking"},
    {"buffer", "sampling", "distributed"},  # must not know one another
    {"coreset"},
    {"exchange", "checkpoint", "data"},  # must not know one another
    {"rehearsal"},
    {"training", "runs"},  # must not know one another
    {"program", "demo"},
    {"plan", "train", "study", "prefill"},
    {"update"},
    {"cli"},
    {"__main__"},
]
LAYER = {unit: level for level, units in enumerate(LAYERS) for unit in units}
STRANGERS = [LAYERS[1], LAYERS[3], LAYERS[5]]

MOST_LINES = 300  # of a file

ALLOWED_IN = {
    "hydra": ("train.py", "program/config/"),
    "omegaconf": ("train.py", "program/config/"),
    "mlflow": ("tracking/",),
    "mpi4py": ("distributed/mpi.py",),
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def unit_of(path: Path) -> str:
    """The first part below drb/: a folder or a file is one unit; `__init__` is the facade."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(path: Path, source: str) -> set[str]:
    """Absolute dotted names, one for each `import a.b` and one for each name of `from a.b import c, d`."""
    names: set[str] = set()
    package = ("drb", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (start, node.module) if part)
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def imported_units(path: Path, source: str) -> set[str]:
    """Units of drb that a module imports; "" for the facade itself (`import drb`)."""
    names = [name.split(".") for name in imported_names(path, source)]
    units = {parts[1] if len(parts) > 1 else "" for parts in names if parts[0] == "drb"}
    return {unit if unit in LAYER else "" for unit in units} - {unit_of(path)}


def problems(path: Path, source: str) -> list[str]:
    unit = unit_of(path)
    found = []
    for other in sorted(imported_units(path, source)):
        if other == "":
            found.append(f"{unit} imports the facade drb")
        elif LAYER[other] > LAYER[unit]:
            found.append(f"{unit} imports {other}, which is above it")
        elif any({unit, other} <= strangers for strangers in STRANGERS):
            found.append(f"{unit} imports {other}, which it must not know")
    return found


def forbidden(path: Path, source: str) -> list[str]:
    where = path.relative_to(PACKAGE).as_posix()
    roots = {name.split(".")[0] for name in imported_names(path, source)} & ALLOWED_IN.keys()
    return sorted(root for root in roots if not where.startswith(ALLOWED_IN[root]))


def test_imports_point_one_way():
    graph: dict[str, set[str]] = {}
    found: dict[str, list[str]] = {}
    for path in modules():
        unit, source = unit_of(path), path.read_text()
        assert unit == "__init__" or unit in LAYER, f"{path} has no layer"
        if unit == "__init__":
            continue
        graph.setdefault(unit, set()).update(imported_units(path, source))
        found[path.relative_to(PACKAGE).as_posix()] = problems(path, source)
    assert {path: each for path, each in found.items() if each} == {}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_no_file_is_longer_than_300_lines():
    lines = {path.relative_to(PACKAGE).as_posix(): len(path.read_text().splitlines()) for path in modules()}
    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}


def test_hydra_mlflow_and_mpi_have_one_door_each():
    found = {path.relative_to(PACKAGE).as_posix(): forbidden(path, path.read_text()) for path in modules()}
    assert {path: roots for path, roots in found.items() if roots} == {}


WRONG = [
    ("buffer/buffer.py", "from drb.training import Trainer", "buffer imports training, which is above it"),
    ("buffer/buffer.py", "def f():\n    import drb.rehearsal", "buffer imports rehearsal, which is above it"),
    ("sampling/sampler.py", "from drb.buffer import record", "sampling imports buffer, which it must not know"),
    ("exchange/shared.py", "from ..data import source", "exchange imports data, which it must not know"),
    ("rehearsal/engine.py", "from drb import Rehearsal", "rehearsal imports the facade drb"),
]
RIGHT = [
    ("data/scenarios/task.py", "from drb.data.source import Source"),
    ("exchange/shared.py", "from drb.exchange import Exchange\nfrom . import plan"),
    ("train.py", "from drb.rehearsal import Rehearsal\nimport drb.types"),
]
DOORS = [
    ("training/loop.py", "import mlflow", ["mlflow"]),
    ("training/loop.py", "from omegaconf import DictConfig\nimport hydra.utils", ["hydra", "omegaconf"]),
    ("exchange/rma.py", "from mpi4py import MPI", ["mpi4py"]),
    ("distributed/mpi.py", "def load_mpi():\n    from mpi4py import MPI", []),
    ("tracking/store.py", "from mlflow.entities import Metric", []),
    ("train.py", "import hydra", []),
]


def test_wrong_imports_are_found():
    for where, source, problem in WRONG:
        assert problems(PACKAGE / where, source) == [problem]
    for where, source in RIGHT:
        assert problems(PACKAGE / where, source) == []
    for where, source, roots in DOORS:
        assert forbidden(PACKAGE / where, source) == roots


def test_importing_drb_loads_no_checkpointing_no_data_set_and_no_trainer():
    """Whoever trains in a loop of his own pays for rehearsal only."""
    program = "import json, sys, drb; print(json.dumps(sorted(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = json.loads(ended.stdout)
    unwanted = ("checkpoint", "data.datasets", "data.cache", "data.scenarios", "training", "program", "plan", "runs")
    names = tuple(f"drb.{name}" for name in unwanted)
    assert [name for name in loaded if name in names or name.startswith(tuple(f"{name}." for name in names))] == []
    assert set(ALLOWED_IN) & set(loaded) == set()
    assert len([name for name in loaded if name.startswith("drb")]) <= 125
