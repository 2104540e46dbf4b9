"""Which datasets are cached, and what the cache of each depends on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from drb.data.cache import CacheSettings, cached, fingerprint
from drb.data.datasets.builtin import cifar10_files, cifar100_files, fashion_mnist_files
from drb.data.datasets.folder import DECODING_VERSION, FolderSource
from drb.data.source import Dataset

_FILES: dict[str, Callable[[Path], tuple[Path, list[str]]]] = {
    "fashion_mnist": fashion_mnist_files,
    "cifar10": cifar10_files,
    "cifar100": cifar100_files,
}
_NOT_IN_KEY = ("root", "workers")
_SMALL_BYTES = 64 << 20  # made data up to this size is not worth a file


def load_cached(
    name: str,
    root: Path,
    load: Callable[..., Dataset],
    options: Mapping[str, Any],
    settings: CacheSettings,
    say: Callable[[str], None],
) -> Dataset:
    """The dataset that load(root, **options) gives, from its cache if it has one or is to have one.

    digits and small synthetic sets have none: they are made in less time than a file is opened.

    Raises:
        ValueError: as `load` and `cached`.
    """
    parameters = inspect.signature(load).parameters
    facts: dict[str, Any] = {key: p.default for key, p in parameters.items() if key not in _NOT_IN_KEY}
    facts = {"name": name, **facts, **{key: value for key, value in options.items() if key not in _NOT_IN_KEY}}
    if name == "synthetic":
        if _synthetic_bytes(facts) <= _SMALL_BYTES and settings.mode == "auto":
            return load(root, **options)
        return cached(name, root, lambda: load(root, **options), facts, settings, say)
    if name == "image_folder":
        dataset = load(root, **options)  # a list of files, nothing decoded
        facts |= {"files": _files_of(dataset, root), "pillow": version("pillow"), "decoding": DECODING_VERSION}
        facts["classes"] = list(dataset.identity.classes)
        mapped = cached(name, root, lambda: dataset, facts, settings, say)
        return replace(mapped, notes=dataset.notes)
    if name in _FILES:
        folder, names = _FILES[name](root)
        if not names:
            load(root, **options)  # downloads them
            folder, names = _FILES[name](root)
        facts["files"] = fingerprint(folder, names)
        return cached(name, root, lambda: load(root, **options), facts, settings, say)
    return load(root, **options)


def _synthetic_bytes(facts: Mapping[str, Any]) -> int:
    channels, height, width = facts["image_shape"]
    return int((facts["num_train"] + facts["num_test"]) * channels * height * width)


def _files_of(dataset: Dataset, root: Path) -> str:
    sources = (dataset.train, dataset.test)
    return fingerprint(root, (name for source in sources if isinstance(source, FolderSource) for name in source.names))
