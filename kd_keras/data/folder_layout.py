"""Finds the images of a folder, their splits and classes, and the files that are not read."""

from __future__ import annotations

import itertools
import logging
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kd_keras.data.image_files import SUFFIXES
from kd_keras.errors import explain_mismatch, suggest

# What operating systems and archive programs leave behind; names that begin with a dot are ignored too.
IGNORED = ("Thumbs.db", "desktop.ini", "__MACOSX", "@eaDir", "lost+found")
SPLITS = {"train", "val", "valid", "validation", "test"}  # folders of these names are no classes
DEEPEST = 4  # folders below the one that is read; anything deeper is not a layout
NAMED = 10  # the number of files that a message lists
logger = logging.getLogger("kd_keras")


@dataclass(frozen=True)
class FolderLayout:
    """The images of a folder.

    Attributes:
        folder: the folder.
        splits: by split, the path and the class of each image in the order of the paths; `{"train": ...}` if there are
            no split folders. Classes are `None` if there are no class folders.
        left_out: files that are not read, because of their name or their place.
    """

    folder: Path
    splits: dict[str, list[tuple[Path, str | None]]]
    left_out: list[Path]

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes of all splits together, in the order of their names; `None` if there are no class folders."""
        names = {name for images in self.splits.values() for _, name in images if name is not None}
        return tuple(sorted(names)) or None

    def select(self, split: str) -> list[tuple[Path, str | None]]:
        """The images of a split, or of all splits for "all".

        Raises:
            FileNotFoundError: if there are none.
            ValueError: if the split is unknown.
        """
        choices = [*self.splits, "all"]
        if split not in choices:
            raise ValueError(explain_mismatch(f"a split of {self.folder}", repr(split), suggest(split, choices)))
        images = [image for name in sorted(self.splits) if split in (name, "all") for image in self.splits[name]]
        if not images:
            raise FileNotFoundError(
                f"Split {split!r} of {self.folder} has no images ({' '.join(SUFFIXES)}){_summary(self.left_out)}."
                f"{_places(self.left_out)}"
            )
        return images

    def log(self, split: str, colors: str) -> None:
        """Logs the number of images in a split by their suffix, and the number of classes."""
        paths = [path for path, _ in self.select(split)]
        classes = f"of {len(self.class_names)} classes" if self.class_names else "without labels"
        logger.info(
            "%s: split %s has %d images (%s) %s, %s.", self.folder, split, len(paths), _count(paths), classes, colors
        )

    def warn(self, split: str) -> None:
        """Warns about files that are not read, and about classes that have no images in a split."""
        if self.left_out:
            count = len(self.left_out)
            warnings.warn(
                f"{self.folder}: {count} file{'s are' if count > 1 else ' is'} left out{_summary(self.left_out)}. "
                f"Images end in {' '.join(SUFFIXES)}; convert other files, or move them away."
                f"{_places(self.left_out)}",
                stacklevel=4,
            )
        present = {name for _, name in self.select(split)}
        absent = [name for name in self.class_names or () if name not in present]
        if absent:
            warnings.warn(
                f"{self.folder}: split {split!r} has no images of {len(absent)} of the {len(self.class_names or ())} "
                f"classes, which other splits have: {_list(absent)}.",
                stacklevel=4,
            )


def find_images(folder: Path) -> FolderLayout:
    """Finds the images of a folder in one of the three layouts that `folders.read` describes.

    Raises:
        ValueError: if the layouts are mixed, split folders have no class folders, a class folder has no images, or the
            names of class folders differ between splits only in letter case.
    """
    folders, files = _walk(folder)
    images: dict[int, list[Path]] = {depth: [] for depth in range(DEEPEST + 1)}
    for path in files:
        if path.suffix.lower() in SUFFIXES:
            images[len(path.relative_to(folder).parts) - 1].append(path)
    loose, classes, splits = images[0], images[1], images[2]
    if sum(map(bool, (loose, classes, splits))) > 1:
        raise ValueError(
            f"{folder} must have either images, class folders, or split folders of class folders, but it has a "
            f"mixture: {len(loose)} images, class folders {sorted({path.parent.name for path in classes})}, split "
            f"folders {sorted({path.parent.parent.name for path in splits})}. Keep only one kind."
        )
    names = {path.parent.name for path in classes}
    if names and names <= SPLITS:
        received = f"images in {', '.join(f'{name}/' for name in sorted(names))} themselves"
        advice = "put them into <split>/<class>/; for images without labels pass one of these folders"
        raise ValueError(explain_mismatch(f"class folders in the split folders of {folder}", received, advice))
    images_of: dict[str, list[tuple[Path, str | None]]] = {}
    for path in sorted(loose or classes or splits):
        split = path.parent.parent.name if splits else "train"
        images_of.setdefault(split, []).append((path, None if loose else path.parent.name))
    read = {path for path, _ in itertools.chain(*images_of.values())}
    layout = FolderLayout(folder, images_of or {"train": []}, sorted(path for path in files if path not in read))
    _check_classes(layout, folders, 2 if splits else 1 if classes else 0)
    return layout


def _walk(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files under a folder, without those of the system."""
    folders, files = [], []
    for parent, names, inner in os.walk(folder, followlinks=True):
        path = Path(parent)
        depth = len(path.relative_to(folder).parts)
        names[:] = [name for name in names if depth < DEEPEST and not _is_ignored(name)]
        folders += [path / name for name in names]
        files += [path / name for name in inner if not _is_ignored(name)]
    return folders, files


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name in IGNORED


def _check_classes(layout: FolderLayout, folders: list[Path], depth: int) -> None:
    """Rejects class folders without images, and class folders of several splits that differ only in letter case."""
    at_depth = [path for path in folders if depth and len(path.relative_to(layout.folder).parts) == depth]
    in_splits = [path for path in at_depth if depth == 1 or path.parent.name in layout.splits]
    empty = sorted({path.name for path in in_splits} - set(layout.class_names or ()))
    if empty:
        files = [path for path in layout.left_out if path.parent.name in empty]
        raise ValueError(
            f"Each class folder of {layout.folder} must have images, but {_list(empty)} "
            f"{'have' if len(empty) > 1 else 'has'} none{_summary(files)}. Add images that end in "
            f"{' '.join(SUFFIXES)}, or move the folder away."
        )
    by_folded_name: dict[str, set[str]] = {}
    for name in layout.class_names or ():
        by_folded_name.setdefault(unicodedata.normalize("NFC", name).casefold(), set()).add(name)
    present = [{name for _, name in images} for images in layout.splits.values()]
    for names in by_folded_name.values():
        if len(names) > 1 and not any(len(names & split) > 1 for split in present):
            raise ValueError(
                f"Class folders of {layout.folder} must have the same name in all splits, but received {_list(names)}. "
                "Rename them."
            )


def _list(names: Iterable[str]) -> str:
    """Some names as a text, with the number of the others.

    >>> _list(["b", "a"])
    "'a' and 'b'"
    """
    texts = [repr(name) for name in sorted(names)]
    others = len(texts) - NAMED
    texts = [*texts[:NAMED], f"{others} more"] if others > 0 else texts
    return " and ".join([", ".join(texts[:-1])] * (len(texts) > 1) + texts[-1:])


def _summary(files: list[Path]) -> str:
    """The numbers of files by suffix, and the paths of the first of them, as an addition to a sentence."""
    if not files:
        return ""
    more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
    return f" ({_count(files)}: {', '.join(map(str, files[:NAMED]))}{more})"


def _places(left_out: list[Path]) -> str:
    """A sentence on where images must be, if some are not read because of their place."""
    if not any(path.suffix.lower() in SUFFIXES for path in left_out):
        return ""
    return " Images are read in <class>/ or in <split>/<class>/ only; move those of deeper folders there."


def _count(files: list[Path]) -> str:
    by_suffix = Counter(path.suffix.lower() or "without a suffix" for path in files)
    return ", ".join(f"{count} {suffix}" for suffix, count in sorted(by_suffix.items()))
