"""Imports point one way, and each heavy dependency has one door.

Read from the sources by `ast`, so imports inside functions and under TYPE_CHECKING count, too.
"""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "drb"

LAYERS = [
    {
        "types",
        "world",
        "launchers",
        "rendezvous",
        "rollcall",
        "mpi",
        "seeding",
        "registry",
        "limits",
        "hiding",
        "failure",
        "heartbeat",
        "patience",
        "fence",
        "capacity",
        "agreement",
    },
    {
        "record",
        "storage",
        "snapshot",
        "admission",
        "proportions",
        "sampler",
        "exchange",
        "union",
        "distinct",
        "spares",
        "table",
    }
    | {"metrics", "models", "datasets", "scenarios", "augment"},
    {
        "buffer",
        "engine",
        "strategies",
        "ahead",
        "loader",
        "dealing",
        "ownership",
        "extension",
        "intake",
        "round",
        "fetched",
    }
    | {"settings", "memory", "state_check", "auto_exemplars", "cuda"},
    {"assembly", "choices", "beginning", "pipeline", "turns", "reshard", "saved", "erasure", "rehearsal", "statistics"}
    | {"evaluation", "checkpoint", "tracking", "report"},
    {"trainer"},
    {"config", "ranges", "profiling", "summary", "tracked", "loading", "run", "train", "cli", "demo", "plan"},
]
LAYER = {unit: level for level, units in enumerate(LAYERS) for unit in units}
STRANGERS = LAYERS[1]  # units that must not know one another …
EXCEPTIONS = {
    ("scenarios", "datasets"),  # a stream of tasks is made of parts of a dataset
    ("exchange", "storage"),  # ranks of a node read straight from each other's storage
    ("sampler", "proportions"),  # how many of a draw come from each stratum
}

ALLOWED_IN = {
    "hydra": ("train.py", "config.py", "config/"),
    "omegaconf": ("train.py", "config.py", "config/"),
    "mlflow": ("tracking/",),
    "mpi4py": ("mpi.py",),
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
        elif {unit, other} <= STRANGERS and (unit, other) not in EXCEPTIONS:
            found.append(f"{unit} imports {other}, which it must not know")
    return found


def forbidden(path: Path, source: str) -> list[str]:
    where = path.relative_to(PACKAGE).as_posix()
    roots = {name.split(".")[0] for name in imported_names(path, source)} & ALLOWED_IN.keys()
    return sorted(root for root in roots if not where.startswith(ALLOWED_IN[root]))


def test_every_module_has_a_layer():
    assert {unit_of(path) for path in modules()} - {"__init__", "__main__"} <= LAYER.keys()


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_one_way(path):
    if unit_of(path) == "__init__":
        assert {LAYER[unit] for unit in imported_units(path, path.read_text())} <= {0, 1, 2, 3}
    else:
        assert problems(path, path.read_text()) == []


def test_units_have_no_import_cycle():
    graph: dict[str, set[str]] = {}
    for path in modules():
        graph.setdefault(unit_of(path), set()).update(imported_units(path, path.read_text()))
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_hydra_mlflow_and_mpi_have_one_door_each(path):
    assert forbidden(path, path.read_text()) == []


@pytest.mark.parametrize(
    ("where", "source", "problem"),
    [
        ("buffer.py", "from drb.trainer import Trainer", "buffer imports trainer, which is above it"),
        ("buffer.py", "def f():\n    import drb.rehearsal", "buffer imports rehearsal, which is above it"),
        ("sampler.py", "from drb import record", "sampler imports record, which it must not know"),
        ("exchange/shared.py", "from ..admission import fifo", "exchange imports admission, which it must not know"),
        (
            "datasets/digits.py",
            "from drb.scenarios.task import Task",
            "datasets imports scenarios, which it must not know",
        ),
        ("engine.py", "from drb import Rehearsal", "engine imports the facade drb"),
    ],
)
def test_wrong_imports_are_found(where, source, problem):
    assert problems(PACKAGE / where, source) == [problem]


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("scenarios/task.py", "from drb.datasets.source import Source"),
        ("exchange/shared.py", "from drb.exchange import Exchange\nfrom . import plan"),
        ("trainer.py", "from drb.rehearsal import Rehearsal\nimport drb.types"),
    ],
)
def test_right_imports_are_not_complained_about(where, source):
    assert problems(PACKAGE / where, source) == []


@pytest.mark.parametrize(
    ("where", "source", "roots"),
    [
        ("trainer.py", "import mlflow", ["mlflow"]),
        ("trainer.py", "from omegaconf import DictConfig\nimport hydra.utils", ["hydra", "omegaconf"]),
        ("exchange/shared.py", "def f():\n    from mpi4py import MPI", ["mpi4py"]),
        ("exchange/rma.py", "from mpi4py import MPI", ["mpi4py"]),
        ("mpi.py", "def load_mpi():\n    from mpi4py import MPI", []),
        ("tracking/store.py", "from mlflow.entities import Metric", []),
        ("train.py", "import hydra", []),
    ],
)
def test_doors_are_guarded(where, source, roots):
    assert forbidden(PACKAGE / where, source) == roots
