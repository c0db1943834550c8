"""Images in folders: one folder for each class, or images without labels."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import tensorflow as tf

from kd_keras.data.base import Source
from kd_keras.errors import explain_mismatch, suggest

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")


def read(folder: str | os.PathLike, split: str = "train") -> Source:
    """Opens a folder of images as a source. Images are decoded to three channels, animations to their first frame.

    There are three layouts, which the content of the folder determines. Hidden files and files with other suffixes are
    ignored.

    * `FOLDER/<class>/*.jpg`: one split, called `"train"` or `"all"`;
    * `FOLDER/<split>/<class>/*.jpg`: `split` is one of these folders, or `"all"`. Classes are numbered over all splits
      together, so that a class that is missing in one split does not change the numbers of the others;
    * `FOLDER/*.jpg`: images without labels, `"train"` or `"all"`.

    Examples are in the order of their paths, classes in the order of their names.

    Raises:
        FileNotFoundError: if there is no image.
        ValueError: if the split is unknown, the layouts are mixed, or a file is not an image (with its name). A file
            may also be decoded later, when its example is read; then this is a `tf.errors.InvalidArgumentError`.
    """
    folder = Path(folder)
    files = _find_images(folder, split)
    if not files:
        raise FileNotFoundError(f"Split {split!r} of {folder} has no images ({' '.join(SUFFIXES)}).")
    paths = [str(path) for path, _ in files]
    columns = {"path": paths, "index": tf.range(len(paths), dtype=tf.int64)}
    names = None
    if files[0][1] is not None:
        names = tuple(sorted({str(name) for _, name in _find_images(folder, "all")}))
        columns["label"] = tf.constant([names.index(name) for _, name in files], tf.int64)
    shape = _common_shape(paths)

    def decode(example: dict) -> dict:
        image = tf.py_function(_decode, [example["path"]], tf.uint8)
        others = {key: value for key, value in example.items() if key != "path"}
        return {"image": tf.ensure_shape(image, shape or (None, None, 3)), **others}

    def read_range(begin: int, end: int) -> tf.data.Dataset:
        rows = tf.data.Dataset.from_tensor_slices({key: column[begin:end] for key, column in columns.items()})
        return rows.map(decode, tf.data.AUTOTUNE, deterministic=True)

    listing = [(str(path.relative_to(folder)), path.stat().st_size) for path, _ in files]
    return Source(
        examples=read_range(0, len(paths)),
        name=str(folder),
        size=len(paths),
        classes=len(names) if names else None,
        class_names=names,
        image_shape=shape,
        version=f"{folder.name} {split} {hashlib.sha256(repr(listing).encode()).hexdigest()}",
        files=len(paths),
        read_range=read_range,
    )


def _find_images(folder: Path, split: str) -> list[tuple[Path, str | None]]:
    """Every image of a split with the name of its class, or with `None` if there are no class folders."""
    loose = _list_files(folder)
    splits = {inner.name: _list_classes(inner) for inner in _list_folders(folder)}
    splits = {name: images for name, images in splits.items() if images}
    classes = _list_classes(folder)
    if sum(map(bool, (loose, splits, classes))) > 1:
        names = sorted({str(name) for _, name in classes})
        raise ValueError(
            f"{folder} must have either images, class folders, or split folders of class folders, but it has a "
            f"mixture: {len(loose)} images, class folders {names}, split folders {sorted(splits)}. Keep only one kind."
        )
    if split not in (*splits, "all") and not (split == "train" and not splits):
        choices = [*splits, "all"] if splits else ["train", "all"]
        raise ValueError(explain_mismatch(f"a split of {folder}", repr(split), suggest(split, choices)))
    if splits:
        return [image for name in sorted(splits) if split in (name, "all") for image in splits[name]]
    return list(classes) or [(path, None) for path in loose]


def _list_classes(folder: Path) -> list[tuple[Path, str | None]]:
    return [(path, inner.name) for inner in _list_folders(folder) for path in _list_files(inner)]


def _list_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _list_files(folder: Path) -> list[Path]:
    named = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    return sorted(path for path in named if path.is_file())


def _common_shape(paths: list[str]) -> tuple[int, int, int] | None:
    """The shape of all images, or `None` if they differ; reads no further than the first that differs."""
    first = tuple(_decode(paths[0]).shape)
    return first if all(tuple(_decode(path).shape) == first for path in paths[1:]) else None


def _decode(path: tf.Tensor | str) -> tf.Tensor:
    # The pipeline calls this eagerly too, so that an error names the file, which the decoder does not know.
    try:
        return tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
    except tf.errors.InvalidArgumentError as error:
        name = path if isinstance(path, str) else path.numpy().decode()
        raise ValueError(f"{name} is not an image that can be decoded: {str(error)[:200]}") from error
