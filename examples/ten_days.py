"""Ten days of data for `drb update`, made of Fashion-MNIST: new classes, and known ones that look different.

    python examples/ten_days.py days [--samples 600] [--seed 0]

writes days/day01.npz … day10.npz, the files of docs/update.md, and three more: day05_mislabelled.npz, as day05.npz with
the labels of its two classes swapped; day08_upside_down.npz, which no gate notices; and weak.npz, hard pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from drb.data.datasets import load_dataset

Images = Any  # uint8 [n, 1, 28, 28]


def plain(images: Images, rng: np.random.Generator) -> Images:
    return images


def dark(images: Images, rng: np.random.Generator) -> Images:
    """A camera that takes half of the light."""
    return images // 2


def noisy(images: Images, rng: np.random.Generator) -> Images:
    return np.clip(images + rng.normal(0, 30, images.shape), 0, 255).astype(np.uint8)


def shifted(images: Images, rng: np.random.Generator) -> Images:
    """Pictures that are no longer in the middle."""
    return np.roll(images, 4, axis=3)


# the classes of each day, and how they look; the first day has three times as many pictures as the others
DAYS: list[tuple[list[int], Callable[[Images, np.random.Generator], Images]]] = [
    ([0, 2, 3, 4, 6], plain),
    ([1, 0], plain),
    ([0, 1, 2, 3, 4, 6], dark),
    ([8, 3], plain),
    ([5, 1], plain),
    ([2, 3, 4, 6], noisy),
    ([7, 8], plain),
    ([0, 1, 5], shifted),
    ([9, 1], plain),
    ([5, 7, 8, 9], dark),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=600, help="of a day, the first has three times as many")
    parser.add_argument("--seed", type=int, default=0, help="which pictures a day has")
    options = parser.parse_args()
    write_days(options.folder, options.samples, options.seed)


def write_days(folder: Path, samples: int, seed: int) -> list[Path]:
    """Write the files; the paths of the ten days."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    data = load_dataset("fashion_mnist")
    draw = [_Draw(source.columns["image"].numpy(), source.labels, rng) for source in (data.train, data.test)]  # type: ignore[attr-defined]
    paths = []
    for number, (classes, look) in enumerate(DAYS, 1):
        (images, labels), (tested, test_labels) = (
            each.take(classes, count * (3 if number == 1 else 1))
            for each, count in zip(draw, (samples, samples // 3), strict=True)
        )
        content = {
            "image": look(images, rng),
            "label": labels,
            "test_image": look(tested, rng),
            "test_label": test_labels,
        }
        paths.append(folder / f"day{number:02}.npz")
        np.savez_compressed(paths[-1], **content)
        if number == 5:
            np.savez_compressed(folder / "day05_mislabelled.npz", **{**content, "label": sum(classes) - labels})
        if number == 8:
            turned = {name: content[name][:, :, ::-1] for name in ("image", "test_image")}
            np.savez_compressed(folder / "day08_upside_down.npz", **{**content, **turned})
    images, labels = draw[1].take(DAYS[0][0], samples // 3)
    np.savez_compressed(folder / "weak.npz", image=noisy(dark(images, rng), rng), label=labels)
    return paths


class _Draw:
    """Pictures of a split, each of which is taken once."""

    def __init__(self, images: Images, labels: Any, rng: np.random.Generator) -> None:
        self._images, self._labels = images, labels
        self._left = {label: list(rng.permutation(np.flatnonzero(labels == label))) for label in range(10)}

    def take(self, classes: list[int], count: int) -> tuple[Images, Any]:
        """count // len(classes) pictures of each class, and their labels."""
        rows = [self._left[label].pop() for label in classes for _ in range(count // len(classes))]
        return self._images[rows], self._labels[rows]


if __name__ == "__main__":
    main()
