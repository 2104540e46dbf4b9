"""Folders of images as people have them: each is listed as a plain walk would list it, or refused in one sentence."""

from __future__ import annotations

import os
import random
import shutil

import numpy as np
import pytest
from fuzz.told import refusal
from PIL import Image

from drb.data.datasets import load_dataset

FOLDERS, PICTURES = 500, 600
NAMES = ["cat", "Dog", "été", "日本", "a b", "x=1", "'q'", "-n", "..a"[1:], "ß\n", "N" * 100, "\udcff\udcfe", "1", "00"]
SUFFIXES = [".png", ".PNG", ".jpg", ".tiff", ".webp"]


class Folder:
    """A split that is being made: its expected images by class, and what must be refused in it."""

    def __init__(self, root, picture, rng):
        self.root, self.picture, self.rng = root, picture, rng
        self.expected: dict[str, set[str]] = {}
        self.refused: list[str] = []

    def name(self):
        return self.rng.choice([name for name in NAMES if not name.startswith(".")]) + str(self.rng.randrange(50))

    def add_class(self, name):
        (self.root / name).mkdir(parents=True)
        self.expected[name] = set()
        for _ in range(self.rng.randrange(1, 4)):
            self.add_image(name, ".")

    def add_image(self, name, below):
        file = f"{self.name()}{self.rng.choice(SUFFIXES)}"
        path = self.root / name / below / file
        path.parent.mkdir(exist_ok=True, parents=True)
        if not os.path.lexists(path):
            os.link(self.picture, path)
            self.expected[name].add(os.path.normpath(os.path.join(name, below, file)))

    def spoil(self):
        """One odd thing."""
        name, rng = self.rng.choice(sorted(self.expected)), self.rng
        folder, kind = self.root / name, rng.randrange(13)
        other = f"{self.name()}-{rng.randrange(10**6)}"
        if kind == 0:
            (folder / f".{other}").mkdir()
            os.link(self.picture, folder / f".{other}" / "0.png")
        elif kind == 1:
            os.link(self.picture, folder / f"._{other}.png")
        elif kind == 2:
            (folder / f"{other}.txt").touch()
        elif kind == 3:
            self.add_image(name, f"{other}/deeper" if rng.random() < 0.5 else other)
        elif kind == 4:
            self.add_image(name, f"{other}.png")  # a folder that is called like a file
        elif kind == 5:
            (folder / f"{other}.png").symlink_to(self.picture)
            self.expected[name].add(f"{name}/{other}.png")
        elif kind == 6:
            (folder / f"{other}.txt").symlink_to("nowhere")
        elif kind == 7:
            (self.root / f".{other}").mkdir()
        elif kind == 8:
            (self.root / f"{other}.png").touch()
        elif kind == 9:
            (folder / f"{other}.png").symlink_to("nowhere")
            self.refused.append("leads nowhere")
        elif kind == 10:
            (folder / f"{other}.png").touch()
            self.refused.append("is empty")
        elif kind == 11:
            (folder / other).symlink_to(self.root if rng.random() < 0.5 else folder)
            self.refused.append("there twice")
        else:
            os.mkfifo(folder / f"{other}.png")
            self.refused.append("no regular file")


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (5, 4), (9, 8, 7)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_folders(tmp_path, picture):
    rng, refused, id_of = random.Random(1), 0, {}
    for case in range(FOLDERS):
        root = tmp_path / "data"
        train = Folder(root / "train", picture, rng)
        for name in sorted({train.name() for _ in range(rng.randrange(1, 4))}):
            train.add_class(name)
        for _ in range(rng.choice([0, 1, 1, 2, 3])):
            train.spoil()
        for name in train.expected:
            (root / "val" / name).mkdir(parents=True)
            os.link(picture, root / "val" / name / "0.png")
        found = []
        message = refusal(lambda r=root, f=found: f.append(load_dataset("image_folder", r, image_size=4)))
        if train.refused:
            refused += 1
            assert message is not None, train.refused
            assert any(reason in message for reason in train.refused), message
        else:
            assert message is None, message
            source = found[0].train
            names = [os.path.relpath(name, "train") for name in source.names]
            assert sorted(names) == sorted(set().union(*train.expected.values()))
            classes = sorted(train.expected)
            assert [classes[label] for label in source.labels] == [name.split("/")[0] for name in names]
            for name, sample in zip(names, source.sample_ids.tolist(), strict=True):
                assert id_of.setdefault(name, sample) == sample  # whatever else there is
            if case % 50 == 0:
                assert (source.gather(np.arange(len(source)))["image"][:, 0] == 9).all()
        shutil.rmtree(root)
    assert FOLDERS / 5 < refused < FOLDERS * 4 / 5
    assert len(set(id_of.values())) == len(id_of)


MODES = {
    "png": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "tiff": ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"],
    "jpg": ["L", "RGB", "CMYK"],
    "bmp": ["1", "L", "P", "RGB"],
    "webp": ["RGB", "RGBA"],
    "ppm": ["1", "L", "RGB", "I;16"],
}


def random_picture(rng):
    """A picture of one grey, its mode and format, and the grey; None if it must be refused."""
    suffix = rng.choice(sorted(MODES))
    mode, grey = rng.choice(MODES[suffix]), rng.choice([0, 1, 77, 128, 254, 255])
    size = rng.choice([(1, 1), (7, 3), (3, 7), (64, 64), (1, 200), (300, 2), (33, 50)])
    if mode == "1":
        grey = 255 * (grey > 100)
    if mode in ("I;16", "I"):
        depth = {"I;16": "<u2", "I": "<i4"}[mode]
        image = Image.frombytes(mode, size, np.full(size[0] * size[1], grey * 257, depth).tobytes())
    elif mode == "F":
        image, grey = Image.new("F", size, grey / 255), None
    elif mode == "LAB":
        from PIL import ImageCms

        rgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(Image.new("RGB", size, (grey,) * 3), rgb, lab, outputMode="LAB")
    elif mode == "P":
        image = Image.new("RGB", size, (grey,) * 3).quantize(4)  # convert() takes the nearest of fixed colours
    else:
        image = Image.new("RGB", size, (grey,) * 3).convert(mode)
        if mode in ("LA", "RGBA"):
            image.putalpha(rng.choice([0, 100, 255]))
    return image, suffix, grey


def test_pictures(tmp_path):
    rng, expected, options = random.Random(2), {}, {"webp": {"lossless": True, "exact": True}, "jpg": {"quality": 100}}
    for split in ("train", "val"):
        for name in ("good", "bad"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (3, 3)).save(tmp_path / split / name / "first.png")
    for index in range(PICTURES):
        image, suffix, grey = random_picture(rng)
        name = f"{'bad' if grey is None else 'good'}/{index:04}.{suffix}"
        exif = Image.Exif()
        exif[0x0112] = rng.choice([0, 1, 3, 6, 8, 99])
        more = {"exif": exif} if suffix in ("jpg", "png", "webp") else {}
        image.save(tmp_path / "train" / name, **options.get(suffix, {}), **more)
        expected[name] = (image.mode, grey)
    source = load_dataset("image_folder", tmp_path, image_size=6, resize=rng.choice([6, 9])).train
    names = [os.path.relpath(name, "train") for name in source.names]
    good = [index for index, name in enumerate(names) if name in expected and expected[name][1] is not None]
    for index, image in zip(good, source.gather(np.array(good))["image"].numpy(), strict=True):
        mode, grey = expected[names[index]]
        worst = np.abs(image.astype(int) - grey).max()
        assert worst <= (4 if mode in ("CMYK", "YCbCr", "LAB") or names[index].endswith("jpg") else 0), names[index]
    bad = [index for index, name in enumerate(names) if name in expected and expected[name][1] is None]
    assert bad
    for index in bad:
        message = refusal(lambda i=index: source.gather(np.array([i])))
        assert message is not None
        assert names[index] in message
