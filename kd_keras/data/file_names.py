"""The paths of the images in a folder, in the order of the examples."""

from __future__ import annotations

import os
from pathlib import Path

from kd_keras.data.folder_layout import find_images


def file_names(folder: str | os.PathLike, split: str = "train") -> list[str]:
    """The paths of the images in a folder in the order of their examples, as `data.load` numbers them.

    Args:
        folder: a folder of images, as `data.load` takes it.
        split: one of its splits.

    Returns:
        Paths relative to the folder, with `/` between folders.

    Raises:
        ValueError: if the folder or the split is unknown.
        FileNotFoundError: if there are no images.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("b.png", "a.png"):
    ...     (folder / name).touch()
    >>> file_names(folder)
    ['a.png', 'b.png']
    """
    return [path.relative_to(folder).as_posix() for path, _ in find_images(Path(folder)).select(split)]
