"""What an update is asked for, by the command line, a YAML file and keywords of Python, in this order of precedence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drb.runs.lineage.gates import Gates, check_gates

_KEYS = {"eval_sets": dict, "gates": dict, "settings": list, "stream": dict}


@dataclass(frozen=True)
class Request:
    """An update that somebody asks for; nothing in it has been looked at yet but for its form.

    state: the folder of the lineage. data: the new samples, see `drb.data.datasets.arrivals`; None: of the stream.
    base: a folder that drb prefill has filled, which a new lineage begins from.
    stream: what `drb.update.stream.StreamSettings.made_of` takes.
    eval_sets: paths by name, which are taken as they are now. usual_sets: those that a file names for every update.
    gates: see `drb.runs.lineage.gates`. settings: of training, as key=value.
    export: whether model.pt2 is written, too.
    """

    state: Path
    data: Path | None
    eval_sets: Mapping[str, str] = field(default_factory=dict)
    usual_sets: Mapping[str, str] = field(default_factory=dict)
    gates: Gates = field(default_factory=dict)
    settings: Sequence[str] = ()
    export: bool = False
    base: Path | None = None
    stream: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in {**self.eval_sets, **self.usual_sets}:
            if name in ("base", "new"):
                raise ValueError(f"an evaluation set must have a name that is not base or new, got {name!r}")
        check_gates(self.gates)

    def over(self, file: Path | None) -> Request:
        """This request, and below it what a YAML file says.

        Raises:
            ValueError: a file that cannot be read, or says something else.
        """
        if file is None:
            return self
        below = _read(file)
        names = {*below["gates"], *self.gates}
        return replace(
            self,
            usual_sets=below["eval_sets"],
            gates={name: {**below["gates"].get(name, {}), **self.gates.get(name, {})} for name in names},
            settings=[*below["settings"], *self.settings],
            stream={**below["stream"], **self.stream},
        )


def read_eval_sets(texts: Sequence[str]) -> dict[str, str]:
    """Paths of evaluation sets by name, from NAME=PATH each.

    Raises:
        ValueError: another form.
    """
    found = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not name or not path or name in ("base", "new"):
            raise ValueError(f"--eval takes NAME=PATH with a name that is not base or new, got {text!r}")
        found[name] = str(Path(path).expanduser().absolute())
    return found


def _read(file: Path) -> dict[str, Any]:
    """The file's eval_sets (whose paths are relative to the file), gates, settings and stream."""
    import yaml  # only a lineage that has such a file needs it

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ValueError(f"--config {file} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {file} is no YAML: {error}") from error
    expected = f"--config {file} must have the keys {', '.join(_KEYS)}"
    if not isinstance(content, dict) or (unknown := sorted(map(str, content.keys() - set(_KEYS)))):
        raise ValueError(f"{expected}, got {', '.join(unknown) if isinstance(content, dict) else 'no mapping'}")
    eval_sets, gates, settings, stream = (content.get(key) or kind() for key, kind in _KEYS.items())
    if not isinstance(eval_sets, dict) or not all(isinstance(path, str) for path in eval_sets.values()):
        raise ValueError(f"{expected}: eval_sets is {{NAME: PATH}}, got {eval_sets!r}")
    if not isinstance(settings, list) or not all(isinstance(each, str) and "=" in each for each in settings):
        raise ValueError(f"{expected}: settings is a list of key=value, got {settings!r}")
    if not isinstance(stream, dict):
        raise ValueError(f"{expected}: stream is {{function: MODULE.FUNCTION, every: N}}, got {stream!r}")
    check_gates(gates)
    paths = {str(name): str((file.parent / Path(path).expanduser()).absolute()) for name, path in eval_sets.items()}
    return {"eval_sets": paths, "gates": gates, "settings": settings, "stream": stream}
