"""Tar shards, Parquet and Arrow files of small pictures, and what a data set has read of them."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from drb.data.datasets import load_dataset

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

COUNT = 12


def picture(number):
    """A PNG of one colour, which decoding leaves as it is."""
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (number, 2 * number, 3 * number)).save(stream, "PNG")
    return stream.getvalue()


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def shards(root, numbers=range(COUNT), split="train", per_shard=5, label=lambda n: b"%d\n" % (n % 3)):
    numbers = list(numbers)
    for first in range(0, len(numbers), per_shard):
        members = [
            (f"set/{n:04d}.{extension}", content)
            for n in numbers[first : first + per_shard]
            for extension, content in (("png", picture(n)), ("cls", label(n)), ("txt", b"a caption"))
        ]
        write_tar(root / f"{split}-{first:03d}.tar", members)
    return root


def parquet(root, numbers=range(COUNT), name="train-00000-of-00001", group=4, **columns):
    root.mkdir(parents=True, exist_ok=True)
    numbers = list(numbers)
    images = pa.array(
        [{"bytes": picture(n), "path": f"{n}.png"} for n in numbers],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({"image": images, "label": pa.array([n % 3 for n in numbers]), **columns})
    pq.write_table(table, root / f"{name}.parquet", row_group_size=group)
    return root


def arrow(root, numbers=range(COUNT), names=("ant", "bee", "cow")):
    """As `save_to_disk` of the library `datasets` lays it out."""
    for split, chosen in (("train", list(numbers)), ("test", [100, 101, 102])):
        folder = root / split
        folder.mkdir(parents=True)
        features = {"label": {"names": list(names), "_type": "ClassLabel"}}
        schema = pa.schema(
            [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
            metadata={"huggingface": json.dumps({"info": {"features": features}})},
        )
        rows = [{"image": {"bytes": picture(n % 85), "path": None}, "label": n % 3} for n in chosen]
        with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows, schema))
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    return root


def load(name, root, **options):
    return load_dataset(name, root, **{"image_size": 8, "workers": 1, **options})


def colours(source):
    """The number that each picture was made of, by its id; and its label."""
    got = source.gather(np.arange(len(source)))
    assert (got["image"] == got["image"][:, :, :1, :1]).all()
    numbers = got["image"][:, 0, 0, 0].tolist()
    return dict(zip(got["sample_id"].tolist(), zip(numbers, got["label"].tolist(), strict=True), strict=True))


def of_both(dataset):
    return colours(dataset.train) | colours(dataset.test)
