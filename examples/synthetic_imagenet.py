"""A folder of made-up pictures that is laid out like ImageNet, to try a job before the data is there.

    python examples/synthetic_imagenet.py FOLDER --classes=1000 --per-class=20 --size=256
    torchrun --nproc-per-node=2 -m drb.train experiment=paper_imagenet_resnet50 dataset.root=FOLDER

Each class has a colour and stripes of its own, so that there is something to learn.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image


def write_folder(folder: Path, *, classes: int, per_class: int, size: int, seed: int = 0) -> None:
    """Write FOLDER/train/nXXXXXXXX/*.jpg and FOLDER/val/..., which has a quarter as many pictures, at least one.

    Raises:
        ValueError: the folder has something in it already, which would be mixed with the new pictures.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; give another folder, or delete it")
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    for label in range(classes):
        colour = generator.uniform(60, 190, 3)
        across, down = generator.uniform(-1, 1, 2) * np.pi / 4
        stripes = 50 * np.sin(across * columns + down * rows)[..., None]
        for split, count in (("train", per_class), ("val", max(1, per_class // 4))):
            place = folder / split / f"n{label:08}"
            place.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                noise = generator.normal(0, 12, (size, size, 3))
                pixels = np.clip(colour + stripes + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{split}_{index:05}.jpg", quality=85)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--per-class", type=int, default=20, help="training pictures")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side")
    options = parser.parse_args()
    try:
        write_folder(options.folder, classes=options.classes, per_class=options.per_class, size=options.size)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
