"""Any data set that Python code makes: with indices, or an iterable that is read once."""

from __future__ import annotations

import importlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch

from drb.data.arrays import statistics_of_some
from drb.data.containers.hold_out import held_out
from drb.data.datasets.builder import DatasetBuilder
from drb.data.identity import Identity
from drb.data.ids import first_repeated, ids_of_paths, key_of_content
from drb.data.mapped import MappedSource
from drb.data.source import Dataset
from drb.data.with_ids import with_ids
from drb.options import setting
from drb.types import Int64Array


class PythonObject(DatasetBuilder):
    """What a function returns: a data set with indices or an iterable, or a pair of them, training and test samples.

    Items are pairs (image, label) or dicts with `image`, `label` and perhaps an integer `sample_id`. Images are Pillow
    images, tensors or arrays, all of one shape. They are read once, in their order, into a temporary file that is
    mapped: a rank holds none of them in memory, and reads all of them at its start. `drb prefill` keeps them.

    function: its dotted path, such as mypkg.data.pages.
    arguments: keyword arguments for it.
    source: the collection's name, a part of every sample id.
    test_fraction: of samples that are held out where the function returns no pair.
    spool_dir: the folder of the temporary file; None: the system's.

    A sample without a sample_id has one that is made of its content, so that it keeps it wherever it comes.
    """

    name = "python"
    fields = ("image", "label")
    function: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    source: str = "python"
    test_fraction: float = setting(0.1, above=0, below=1)
    spool_dir: str | None = None

    def load(self, say: Callable[[str], None], known_classes: Sequence[str] = ()) -> Dataset:
        """See `DatasetBuilder.load`.

        Raises:
            ValueError: the function cannot be imported or fails, or samples that are not alike.
        """
        return self.dataset_of(self.call())

    def dataset_of(self, made: Any, *, is_whole: bool = True) -> Dataset:
        """The samples of a data set, an iterable or a pair of them.

        is_whole: whether others may come to these later, so that each must stay on its side of what is held out. If
            not, what is held out has no labels that the rest lacks.
        Raises:
            ValueError: samples that are not alike or cannot be read.
        """
        pair = made if isinstance(made, tuple) and len(made) == 2 else (made,)
        content = blake2b(digest_size=8)
        read = [self._read(each, split, content) for each, split in zip(pair, ("train", "test"), strict=False)]
        if len(read) == 1:
            is_test = held_out(read[0].sample_ids, self.test_fraction)
            if not is_whole:
                is_test &= np.isin(read[0].labels, read[0].labels[~is_test])
            train, test = (read[0].subset(np.flatnonzero(part)) for part in (~is_test, is_test))
        else:
            train, test = read
        parts = {name: _part(source, content.digest()) for name, source in (("train", train), ("test", test))}
        shapes = [source.gather(np.zeros(1, np.int64))["image"] for source in (train, test)]
        if (shapes[0].shape, shapes[0].dtype) != (shapes[1].shape, shapes[1].dtype):
            raise ValueError(f"the training and the test samples of {self.function} must be alike")
        mean, std = statistics_of_some(train)
        return Dataset(
            train=train,
            test=test,
            image_shape=tuple(shapes[0].shape[1:]),
            num_classes=int(max(train.labels.max(), test.labels.max())) + 1,
            mean=mean,
            std=std,
            dtype=shapes[0].dtype,
            identity=Identity(self.source, parts=parts),
        )

    def call(self) -> Any:
        """What the function returns. Raises ValueError if it cannot be imported or fails."""
        if not self.function:
            raise ValueError("dataset.function is empty: name the function that returns the data, as mypkg.data.pages")
        module, _, name = self.function.rpartition(".")
        try:
            function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"dataset.function={self.function} cannot be imported ({error}); give a dotted path such as "
                "mypkg.data.pages, and put its folder on PYTHONPATH"
            ) from error
        try:
            return function(**self.arguments)
        except Exception as error:
            raise ValueError(f"dataset.function={self.function} raised {type(error).__name__}: {error}") from error

    def _read(self, dataset: Any, split: str, hashed: blake2b) -> MappedSource:
        """All samples of a data set, in an unnamed file. hashed: of what their ids do not tell."""
        labels: list[int] = []
        keys: list[bytes] = []
        given: list[int] = []
        shape, dtype, seen = (), np.dtype(np.uint8), Counter[bytes]()
        with tempfile.TemporaryFile(dir=self.spool_dir, prefix="drb-") as spool:
            for index, item in enumerate(self._items(dataset)):
                image = _image(item, index, self.function)
                if index == 0:
                    shape, dtype = image.shape, image.dtype
                if (image.shape, image.dtype) != (shape, dtype):
                    raise ValueError(
                        f"sample {index} of {self.function} is {image.dtype} {list(image.shape)}, and sample 0 is "
                        f"{dtype} {list(shape)}; give all samples one form"
                    )
                content = image.tobytes()
                spool.write(content)
                labels.append(_integer(item, "label", index, self.function))
                if "sample_id" in item:
                    given.append(_integer(item, "sample_id", index, self.function))
                    hashed.update(content)
                else:
                    keys.append(key_of_content(content, seen))
            return self._mapped(spool, labels, self._ids(split, keys, given), shape, dtype)

    def _ids(self, split: str, keys: list[bytes], given: list[int]) -> Int64Array:
        if keys and given:
            raise ValueError(f"some samples of {self.function} have a sample_id and others have none")
        ids = np.array(given, np.int64) if given else ids_of_paths(self.source, split, keys)
        if (pair := first_repeated(ids)) is not None:
            raise ValueError(f"samples {pair[0]} and {pair[1]} of {self.function} have the same sample_id")
        return ids

    def _items(self, dataset: Any) -> Iterator[Mapping[str, Any]]:
        try:
            if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
                given: Iterable[Any] = (dataset[index] for index in range(len(dataset)))
            else:
                given = iter(dataset)
            for item in given:
                named = dict(with_ids([item])[0])
                if not isinstance(item, dict) or "sample_id" not in item:
                    del named["sample_id"]
                yield named
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(f"the data of {self.function} raised {type(error).__name__}: {error}") from error

    def _mapped(
        self, spool: IO[bytes], labels: list[int], ids: Int64Array, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> MappedSource:
        if not labels:
            raise ValueError(f"the function {self.function} gives no samples")
        spool.flush()
        images = np.memmap(spool, dtype, "r", shape=(len(labels), *shape))
        erased = np.zeros(len(labels), np.bool_)
        return MappedSource(np.asarray(images), np.array(labels), ids, erased, where=Path(self.function))


def _image(item: Mapping[str, Any], index: int, where: str) -> npt.NDArray[Any]:
    try:
        image = torch.as_tensor(item["image"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"sample {index} of {where} has no image that is a picture or an array ({error})") from None
    image = image.float() if image.dtype in (torch.float64, torch.bfloat16) else image
    if not (image.dtype == torch.uint8 or image.is_floating_point()) or not image.dim():
        raise ValueError(
            f"sample {index} of {where} is {image.dtype} {list(image.shape)}; samples must be pictures, uint8 "
            "[C, H, W] or floats of any shape"
        )
    if image.is_floating_point() and not torch.isfinite(image).all():
        raise ValueError(f"sample {index} of {where} holds values that are NaN or infinite")
    array: npt.NDArray[Any] = np.ascontiguousarray(image.detach().numpy())
    return array


def _integer(item: Mapping[str, Any], name: str, index: int, where: str) -> int:
    value = item.get(name)
    try:
        number = int(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = -1
    if number < 0 or number != value:
        raise ValueError(f"sample {index} of {where} must have an integer {name} of at least 0, got {value!r}")
    return number


def _part(source: MappedSource, content: bytes) -> list[object]:
    digest = blake2b(content, digest_size=8)
    digest.update(source.sample_ids.tobytes())
    digest.update(source.labels.tobytes())
    return [len(source), digest.hexdigest()]
