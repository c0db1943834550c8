"""What kind of labels does a dataset have? Found from the features of a TFDS dataset or the files of a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from kd_keras.data.base import BOXES, CLASS, MASKS


def find_label_kind(name: str | os.PathLike, data_dir: str | os.PathLike | None, download_timeout: float) -> str:
    """The kind of the labels of a dataset that `load` or another reader of this room opens.

    If a TFDS dataset has several kinds of labels, the result is the first of `CLASS`, `BOXES` and `MASKS`; for a folder
    it is the first of `MASKS`, `BOXES` and `CLASS`. Without any labels it is `CLASS`, whose reader says what is
    missing.

    Args:
        name: as for `load`.
        data_dir: as for `load`.
        download_timeout: as for `load`.

    Raises:
        ValueError: if the dataset is unknown.
        FileNotFoundError: if it is neither prepared nor can be downloaded.

    >>> find_label_kind("digits", None, 60.0)
    'class'
    """
    if os.path.isdir(name):
        from kd_keras.data.box_folders import has_boxes
        from kd_keras.data.mask_folders import has_masks

        return MASKS if has_masks(name) else BOXES if has_boxes(name) else CLASS
    if os.fspath(name) == "digits":
        return CLASS
    # Imported here because TFDS takes seconds to import, and a folder of images does not need it.
    from kd_keras.data.box_sources import find_box_keys
    from kd_keras.data.downloads import prepare
    from kd_keras.data.mask_sources import find_mask_keys
    from kd_keras.data.sources import find_class_keys

    builder = prepare(os.fspath(name), data_dir, download_timeout)
    kinds: dict[str, Callable[[Any], Any]] = {CLASS: find_class_keys, BOXES: find_box_keys, MASKS: find_mask_keys}
    return next((kind for kind, find_keys in kinds.items() if _has(find_keys, builder)), CLASS)


def _has(find_keys: Callable[[Any], Any], builder: Any) -> bool:
    try:
        find_keys(builder)
    except ValueError:
        return False
    return True
