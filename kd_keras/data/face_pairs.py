"""Pairs of images for verification: all pairs of a test set, or those of a file in the format of LFW."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kd_keras.data.folder_layout import find_images
from kd_keras.errors import check_whole_number, explain_mismatch

FOLDS = 10


class Pairs(NamedTuple):
    """Pairs of images, by their numbers in reading order.

    Attributes:
        first: `(P,)` int64.
        second: `(P,)` int64.
        same: `(P,)` booleans, whether both show one identity: a genuine pair, else an impostor pair.
        fold: `(P,)` int64, the part of the cross-validation that a pair belongs to, from 0.
    """

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    fold: np.ndarray


def all_pairs(labels: np.ndarray, *, folds: int = FOLDS, seed: int = 0) -> Pairs:
    """Every pair of two images, with folds that have equally many genuine and equally many impostor pairs.

    Args:
        labels: `(N,)` integers, the identity of each image.
        folds: the number of folds, at least 2.
        seed: of the random folds.

    Raises:
        ValueError: if there are fewer genuine or impostor pairs than folds.

    >>> pairs = all_pairs(np.array([0, 0, 1, 1]), folds=2)
    >>> len(pairs.same), int(pairs.same.sum()), np.bincount(pairs.fold[~pairs.same]).tolist()
    (6, 2, [2, 2])
    """
    check_whole_number("all_pairs", "folds", folds, least=2)
    labels = np.asarray(labels)
    first, second = np.triu_indices(len(labels), 1)
    same = labels[first] == labels[second]
    if min(same.sum(), (~same).sum()) < folds:
        received = f"{same.sum()} genuine and {(~same).sum()} impostor pairs of {len(labels)} images"
        advice = "use images of several identities with two or more images each, or fewer folds"
        raise ValueError(explain_mismatch(f"at least {folds} pairs of both kinds", received, advice))
    fold, random = np.zeros(len(same), "int64"), np.random.default_rng(seed)
    for kind in (same, ~same):
        fold[random.permutation(np.flatnonzero(kind))] = np.arange(kind.sum()) % folds
    return Pairs(first.astype("int64"), second.astype("int64"), same, fold)


def read_pairs(file: str | os.PathLike, folder: str | os.PathLike, split: str = "all") -> Pairs:
    """Reads a file of pairs in the format of LFW (`pairs.txt`).

    The first line has the number of folds and of genuine pairs in each, or only the latter for a single fold. Each fold
    has as many lines `name <tab> 1 <tab> 4` of genuine pairs, and then as many `name <tab> 4 <tab> other <tab> 1` of
    impostor pairs. Image 4 of "Ann_Lee" is the file `Ann_Lee_0004` or `0004` or `4` with any suffix in the folder of
    that name.

    Args:
        file: the path.
        folder: the images, one folder for each identity, as `data.load` opens it with the same split.
        split: of the folder.

    Returns:
        The pairs in the order of the file; numbers are those of `data.load(folder, split)`.

    Raises:
        ValueError: if a line has another form, an image is missing, or the number of lines is wrong; the message names
            the line.

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("Ann/Ann_0001.png", "Ann/Ann_0002.png", "Bob/Bob_0001.png"):
    ...     (folder / name).parent.mkdir(exist_ok=True)
    ...     Image.new("L", (4, 4)).save(folder / name)
    >>> (folder.parent / "pairs.txt").write_text("1\\nAnn\\t1\\t2\\nAnn\\t2\\tBob\\t1\\n") > 0
    True
    >>> pairs = read_pairs(folder.parent / "pairs.txt", folder)
    >>> pairs.first.tolist(), pairs.second.tolist(), pairs.same.tolist()
    ([0, 1], [1, 2], [True, False])
    """
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    folds, count = _read_header(file, lines)
    if len(lines) - 1 != 2 * folds * count:
        received = f"{len(lines) - 1} lines"
        raise ValueError(explain_mismatch(f"{2 * folds * count} lines after the first one of {file}", received))
    numbers = _number_images(Path(folder), split)
    rows = [_read_line(f"line {number} of {file}", line, numbers) for number, line in enumerate(lines[1:], start=2)]
    pairs = np.array([row[:2] for row in rows], "int64")
    same, fold = np.array([row[2] for row in rows]), np.arange(len(rows)) // (2 * count)
    expected = np.arange(len(rows)) % (2 * count) < count
    if (same != expected).any():
        number = int(np.flatnonzero(same != expected)[0]) + 2
        kinds = ("a genuine pair", "an impostor pair")
        wanted, received = kinds if expected[number - 2] else kinds[::-1]
        raise ValueError(explain_mismatch(f"{wanted} in line {number} of {file}", received))
    return Pairs(pairs[:, 0], pairs[:, 1], same, fold)


def _read_header(file: str | os.PathLike, lines: list[str]) -> tuple[int, int]:
    """The number of folds, and of genuine pairs in each."""
    words = lines[0].split() if lines else []
    if len(words) not in (1, 2) or not all(word.isdigit() and int(word) > 0 for word in words):
        expected = f"the number of folds and of genuine pairs in each in the first line of {file}, such as '10 300'"
        raise ValueError(explain_mismatch(expected, repr(lines[0][:100]) if lines else "an empty file"))
    return (1, int(words[0])) if len(words) == 1 else (int(words[0]), int(words[1]))


def _number_images(folder: Path, split: str) -> dict[tuple[str, int], int]:
    """The number of each image in reading order, by its identity and the number in its file name."""
    numbers: dict[tuple[str, int], int] = {}
    for index, (path, name) in enumerate(find_images(folder).select(split)):
        if name is None:
            advice = "sort the images into one folder for each identity"
            raise ValueError(explain_mismatch(f"folders of identities in {folder}", "images without labels", advice))
        text = path.stem.removeprefix(f"{name}_")
        if text.isdigit():
            if (str(name), int(text)) in numbers:
                raise ValueError(f"Image {int(text)} of {str(name)!r} is in {folder} twice, the second time as {path}.")
            numbers[str(name), int(text)] = index
    return numbers


def _read_line(where: str, line: str, numbers: dict[tuple[str, int], int]) -> tuple[int, int, bool]:
    """The numbers of both images of a line, and whether they show one identity."""
    words = line.split("\t") if "\t" in line else line.split()
    if len(words) == 3:
        words = [words[0], words[1], words[0], words[2]]
    if len(words) != 4 or not (words[1].strip().isdigit() and words[3].strip().isdigit()):
        expected = f"a name and two numbers, or a name and a number twice, in {where}"
        raise ValueError(explain_mismatch(expected, repr(line[:100])))
    keys = [(words[0], int(words[1])), (words[2], int(words[3]))]
    if keys[0] == keys[1]:
        expected = f"a pair of two images in {where}"
        raise ValueError(explain_mismatch(expected, f"image {keys[0][1]} of {keys[0][0]!r} twice", "remove the line"))
    missing = [key for key in keys if key not in numbers]
    if missing:
        name, number = missing[0]
        raise ValueError(f"Image {number} of {name!r}, in {where}, is not among the images of the folder.")
    return numbers[keys[0]], numbers[keys[1]], keys[0][0] == keys[1][0]
