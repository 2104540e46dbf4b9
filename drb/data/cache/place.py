"""Where a cache lies and whether there is room for it. Nothing is written before that is known and said."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from drb.machine import format_bytes

FOLDER_NAME = "drb-cache"
_MARGIN = 0.05  # of the disk's free space that a cache never takes
_AUTO_SHARE = 0.5  # of the free space that a cache takes without being told to


@dataclass(frozen=True)
class CacheSettings:
    """
    mode:   auto (decode once if the images take at most limit_bytes and half of the free space), always or never
    folder: None: drb-cache in the data's root, or in the temporary folder if the root cannot be written
    """

    mode: str = "auto"
    folder: Path | None = None
    limit_bytes: int = 20 << 30

    def folder_for(self, root: Path) -> Path:
        """Where the caches of data under `root` lie."""
        if self.folder is not None:
            return self.folder.absolute()
        if os.access(_existing(root), os.W_OK | os.X_OK):
            return (root / FOLDER_NAME).absolute()
        return Path(tempfile.gettempdir()) / f"{FOLDER_NAME}-{os.getuid()}"

    def objection(self, size: int, folder: Path) -> str | None:
        """Why images of `size` bytes are not cached in `folder`; None if they are.

        Raises:
            ValueError: mode=always, and there is no room.
        """
        free = shutil.disk_usage(_existing(folder)).free
        if self.mode == "always":
            if size > free * (1 - _MARGIN):
                raise ValueError(
                    f"dataset.cache=always needs {format_bytes(size)} in {folder}, which has {format_bytes(free)} "
                    "free; set dataset.cache_dir to a larger disk or dataset.cache=never"
                )
            return None
        if size > self.limit_bytes:
            return f"they take {format_bytes(size)}, more than dataset.cache_limit={format_bytes(self.limit_bytes)}"
        if size > free * _AUTO_SHARE:
            return f"they take {format_bytes(size)}, more than half of the {format_bytes(free)} free in {folder}"
        return None


def _existing(path: Path) -> Path:
    """The path or the nearest of its parents that is there."""
    path = path.absolute()
    return next(p for p in (path, *path.parents) if p.exists())
