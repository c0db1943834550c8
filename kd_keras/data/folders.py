"""Images in folders: one folder a class, or a heap of images without labels."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import tensorflow as tf

from kd_keras.data.base import Source
from kd_keras.errors import explain_mismatch, suggest

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")


def read(folder: str | os.PathLike, split: str = "train") -> Source:
    """Opens a folder of images as a source; images are decoded to three channels, animations to their first frame.

    Three layouts are told apart by what lies in the folder, hidden files and other suffixes aside:

    * `FOLDER/<class>/*.jpg`: the one split, called `"train"` or `"all"`;
    * `FOLDER/<split>/<class>/*.jpg`: `split` is one of those folders, or `"all"`. Classes are numbered over all
      splits together, so that a class missing in one leaves the others' numbers alone;
    * `FOLDER/*.jpg`: without labels, `"train"` or `"all"`.

    Examples are in the order of their paths, classes in the order of their names.

    Raises:
        FileNotFoundError: where there is no image.
        ValueError: for an unknown split, or where images lie beside class folders; and, here or when the example is
            read (then as `tf.errors.InvalidArgumentError`), for a file that is not an image, with its name.
    """
    folder = Path(folder)
    files = _images(folder, split)
    if not files:
        came = f"{folder}, split {split!r}, without any"
        raise FileNotFoundError(explain_mismatch(f"images ({' '.join(SUFFIXES)})", came))
    paths = [str(path) for path, _ in files]
    labelled = files[0][1] is not None
    columns = {"path": paths, "index": tf.range(len(paths), dtype=tf.int64)}
    names = tuple(sorted({name for _, name in _images(folder, "all")})) if labelled else None
    if labelled:
        columns["label"] = tf.constant([names.index(name) for _, name in files], tf.int64)
    shape = _shape(paths)

    def decode(example: dict) -> dict:
        image = tf.py_function(_decode, [example["path"]], tf.uint8)
        return {"image": tf.ensure_shape(image, shape or (None, None, 3)), **_without_path(example)}

    def between(begin: int, end: int) -> tf.data.Dataset:
        rows = tf.data.Dataset.from_tensor_slices({key: value[begin:end] for key, value in columns.items()})
        return rows.map(decode, tf.data.AUTOTUNE, deterministic=True)

    listed = [(str(path.relative_to(folder)), path.stat().st_size) for path, _ in files]
    version = f"{folder.name} {split} {hashlib.sha256(repr(listed).encode()).hexdigest()}"
    about = (str(folder), len(paths), len(names) if labelled else None, names, shape, version, len(paths), between)
    return Source(between(0, len(paths)), *about)


def _without_path(example: dict) -> dict:
    return {key: value for key, value in example.items() if key != "path"}


def _images(folder: Path, split: str) -> list[tuple[Path, str | None]]:
    """Every image of a split with its class, or with `None` where there are no class folders."""
    loose, folders = _files(folder), _folders(folder)
    splits = {each.name: _classes(each) for each in folders}
    splits = {name: images for name, images in splits.items() if images}
    classes = _classes(folder)
    if sum(map(bool, (loose, splits, classes))) > 1:
        names = sorted({name for _, name in classes})
        came = f"{folder} with {len(loose)} images, class folders {names}, split folders {sorted(splits)}"
        raise ValueError(explain_mismatch("images, or class folders, or split folders of class folders, not a mixture", came))
    if split not in (*splits, "all") and not (split == "train" and not splits):
        choices = [*splits, "all"] if splits else ["train", "all"]
        raise ValueError(explain_mismatch(f"a split of {folder}", repr(split), suggest(split, choices)))
    if splits:
        return [image for name in sorted(splits) if split in (name, "all") for image in splits[name]]
    return classes or [(path, None) for path in loose]


def _classes(folder: Path) -> list[tuple[Path, str]]:
    return [(path, each.name) for each in _folders(folder) for path in _files(each)]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    named = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    return sorted(path for path in named if path.is_file())


def _shape(paths: list[str]) -> tuple[int, int, int] | None:
    """The images' common shape, or `None`; stops at the first that differs, which spares big folders a full pass."""
    first = tuple(_decode(paths[0]).shape)
    return first if all(tuple(_decode(path).shape) == first for path in paths[1:]) else None


def _decode(path: tf.Tensor | str) -> tf.Tensor:
    # Run eagerly, also inside the pipeline: a decoder's own error does not say which file it was.
    try:
        return tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
    except tf.errors.InvalidArgumentError as error:
        name = path if isinstance(path, str) else path.numpy().decode()
        raise ValueError(explain_mismatch("an image that can be decoded", f"{name}: {str(error)[:200]}")) from error
