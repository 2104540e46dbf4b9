"""Image files of every mode that Pillow opens become the 8-bit pixels that a viewer shows, or are refused by name."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from drb import with_ids
from drb.data.datasets import load_dataset

SIZE = 64
GREY16 = np.tile(np.linspace(0, 65535, SIZE).astype(np.uint16), (SIZE, 1))
GREY8 = np.rint(GREY16 / 257).astype(np.uint8)
COLOUR = np.stack([GREY8, GREY8.T, np.full_like(GREY8, 40)], -1)


def save(root, image, suffix, **options):
    """A data set of this one picture."""
    for split in ("train", "val"):
        folder = root / split / "cat"
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"picture.{suffix}", **options)


def decoded(root, size=SIZE, **options):
    """The picture as the data set gives it, uint8 [3, H, W]."""
    return load_dataset("image_folder", root, image_size=size, workers=1, **options).train.gather(np.arange(1))[
        "image"
    ][0]


def grey():
    return torch.from_numpy(GREY8).expand(3, -1, -1)


@pytest.mark.parametrize(
    ("suffix", "mode", "dtype"),
    [("png", "I;16", "<u2"), ("tiff", "I;16", "<u2"), ("tiff", "I;16B", ">u2"), ("tiff", "I", "<i4")],
)
def test_greys_of_16_bits_are_scaled(tmp_path, suffix, mode, dtype):
    image = Image.frombytes(mode, (SIZE, SIZE), GREY16.astype(dtype).tobytes())
    save(tmp_path, image, suffix)
    assert torch.equal(decoded(tmp_path), grey())
    with Image.open(tmp_path / "train" / "cat" / f"picture.{suffix}") as file:
        assert torch.equal(with_ids([(file, 0)])[0]["image"][0], grey()[0])


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (GREY16.astype(np.float32) / 65535, "floating-point pixels"),
        (GREY16.astype(np.int32) * 30_000, "32-bit integer pixels from 0 to 1966050000"),
        (GREY16.astype(np.int32) - 5, "32-bit integer pixels from -5 to"),
        (GREY8.astype(np.int32), "32-bit integer pixels from 0 to 255"),
    ],
    ids=["float", "wide", "negative", "narrow"],
)
def test_pixels_of_an_unknown_range_are_refused_by_name(tmp_path, pixels, reason):
    image = Image.fromarray(pixels)
    save(tmp_path, image, "tiff")
    with pytest.raises(
        ValueError, match=rf"picture.tiff cannot be decoded \(it has {reason}.*8 or 16 bits per channel"
    ):
        decoded(tmp_path)
    with pytest.raises(ValueError, match=f"field 'image' of item 0 is an image that cannot be used: it has {reason}"):
        with_ids([(image, 0)])[0]


def of_mode(mode):
    """A picture of this mode, the RGB that it shows, and how far they may differ."""
    image = Image.fromarray(COLOUR)
    if mode in ("1", "L"):
        image = image.convert(mode)
        return image, image.convert("RGB"), 0
    if mode == "P":
        image = image.quantize(200)
        return image, image.convert("RGB"), 0
    alpha = Image.fromarray(np.where(np.arange(SIZE) < 20, 0, 200).astype(np.uint8)[None].repeat(SIZE, 0))
    if mode in ("LA", "RGBA"):
        opaque = image.convert(mode[:-1])
        image = opaque.copy()
        image.putalpha(alpha)
        return image, opaque.convert("RGB"), 0  # what is transparent keeps its stored colour
    return image.convert(mode), image, 3


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("1", "png"),
        ("1", "tiff"),
        ("L", "bmp"),
        ("LA", "png"),
        ("P", "png"),
        ("RGBA", "png"),
        ("RGBA", "webp"),
        ("CMYK", "tiff"),
        ("CMYK", "jpg"),
        ("YCbCr", "tiff"),
        ("RGB", "ppm"),
    ],
)
def test_other_modes_show_what_a_viewer_shows(tmp_path, mode, suffix):
    image, expected, tolerance = of_mode(mode)
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True, "exact": True}}.get(suffix, {})
    save(tmp_path, image, suffix, **options)
    expected = torch.from_numpy(np.array(expected)).permute(2, 0, 1).int()
    assert (decoded(tmp_path).int() - expected).abs().max() <= tolerance
    ours = with_ids([(image, 0)], channels=3)[0]["image"].int()
    assert (ours - expected).abs().max() <= tolerance


def test_a_palette_with_transparency_keeps_its_colours(tmp_path):
    image = Image.fromarray(COLOUR).quantize(100)
    save(tmp_path, image, "png", transparency=bytes(range(100)))
    assert torch.equal(decoded(tmp_path), torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright_unless_told_otherwise(tmp_path, orientation):
    """Pillow turns a picture by each of the eight; as it is stored is what the setting is for."""
    methods = [None, 0, 3, 1, 5, 4, 6, 2]  # Image.Transpose, for orientations 1 to 8
    shown = Image.fromarray(COLOUR)
    inverse = {None: None, 0: 0, 3: 3, 1: 1, 5: 5, 4: 2, 6: 6, 2: 4}[methods[orientation - 1]]
    stored = shown if inverse is None else shown.transpose(Image.Transpose(inverse))
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path, stored, "png", exif=exif)

    def pixels(image):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    assert torch.equal(decoded(tmp_path), pixels(shown))
    assert torch.equal(decoded(tmp_path, upright=False), pixels(stored))
    with Image.open(tmp_path / "train" / "cat" / "picture.png") as file:
        assert torch.equal(with_ids([(file, 0)])[0]["image"], pixels(shown))
        assert torch.equal(with_ids([(file, 0)], upright=False)[0]["image"], pixels(stored))


def thin_png(path, width, height):
    """A grey PNG in some hundred bytes."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(width)) * height, 9)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


DECODE = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
worker = runpy.run_path(sys.argv[1], run_name="worker")
assert len(worker["decode"](sys.argv[2], 64, 64)) == 3 * 64 * 64
"""


@pytest.mark.parametrize(("width", "height"), [(24_000, 1), (1, 24_000), (100_000, 3)])
def test_a_long_and_thin_picture_takes_little_memory(tmp_path, width, height):
    thin_png(tmp_path / "thin.png", width, height)
    from drb.data.decoding import worker

    subprocess.run([sys.executable, "-c", DECODE, worker.__file__, str(tmp_path / "thin.png")], check=True, timeout=20)


def test_a_long_picture_shows_its_middle(tmp_path):
    pixels = np.zeros((2, 3000, 3), np.uint8)
    pixels[:, 1500:] = 200
    save(tmp_path, Image.fromarray(pixels), "png")
    image = decoded(tmp_path, 8)
    assert image[:, :, :2].max() == 0
    assert image[:, :, 6:].min() == 200


# -- with_ids


def pictures(*modes):
    return [(Image.new("RGB", (4, 3), (9, 9, 9)).convert(mode), label) for label, mode in enumerate(modes)]


def test_grey_and_colour_together_are_refused_with_what_to_write_and_stack_then():
    with pytest.raises(ValueError, match=r"item 1 has 3 channels \(mode RGB\), that of item 0 has 1: .*channels=3"):
        next(iter(DataLoader(with_ids(pictures("L", "RGB")), batch_size=2)))
    with pytest.raises(ValueError, match=r"item 2 has 1 channels .* of item 0 has 3"):
        with_ids(pictures("RGB", "RGB", "L"))[2]  # item 0 was not asked for before
    for channels in (1, 3):
        batch = next(iter(DataLoader(with_ids(pictures("L", "RGB", "RGBA"), channels=channels), batch_size=3)))
        assert batch["image"].shape == (3, channels, 3, 4)
    with pytest.raises(ValueError, match="channels of 1, 3 or None, got 2"):
        with_ids([], channels=2)


def test_pictures_are_found_under_any_name():
    items = [{"img": image, "label": label} for image, label in pictures("RGB", "RGB")]
    batch = next(iter(DataLoader(with_ids(items), batch_size=2)))
    assert batch["img"].shape == (2, 3, 3, 4)
    assert batch["sample_id"].tolist() == [0, 1]


def test_a_palette_beside_the_picture_may_be_a_mask_and_is_refused():
    picture, mask = pictures("RGB", "P")
    with pytest.raises(
        ValueError, match="field 'mask' of item 0 is a Pillow image of mode P .* its indices or its colours"
    ):
        with_ids([{"image": picture[0], "mask": mask[0], "label": 1}])[0]
