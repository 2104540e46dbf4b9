"""Small folders of image files, and what is in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_image_folder(
    root: Path, *, per_class: int = 3, num_classes: int = 2, size: tuple[int, int] = (20, 12), suffix: str = "png"
) -> Path:
    """ROOT/train and ROOT/val with `per_class` random images of width x height in each class."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in range(num_classes):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(per_class):
                pixels = generator.integers(0, 256, (size[1], size[0], 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.{suffix}")
    return root
