"""Checks of a model file before its content is read: its sizes, and whether it refers to other files.

A small archive can unpack to many gigabytes, a small HDF5 file can declare an array of any size, and an HDF5 file can
name another file of the machine as the place of its values.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py

LIMIT = 1 << 28  # bytes; smaller contents are read whatever the size of the file
EXPANSION = 20  # weights hardly shrink when they are compressed


def check_archive(path: Path, archive: zipfile.ZipFile) -> None:
    """Checks that an archive does not unpack to far more than its own size.

    Raises:
        ValueError: if it does.
    """
    _check_size(path, sum(member.file_size for member in archive.infolist()), "unpack to")


def check_hdf5(path: Path, file: h5py.File) -> None:
    """Checks that an HDF5 file contains its values itself, and declares no far larger arrays than its own size.

    Args:
        path: the file on the disk, which may be an archive that contains `file`.
        file: the opened file.

    Raises:
        ValueError: if it refers to other files, contains itself, or declares far more than it stores.
    """
    _check_size(path, sum(_walk_sizes(path, file, set())), "declare arrays of")


def _walk_sizes(path: Path, group: h5py.Group, visited: set[int]) -> Iterator[int]:
    """Yields the declared bytes of every dataset; follows no link to another file."""
    address = h5py.h5o.get_info(group.id).addr
    if address in visited:
        raise ValueError(_refusal(path, f"the group {group.name!r} twice, as a part of itself or of another group"))
    visited.add(address)
    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            target = f" to {link.filename}" if isinstance(link, h5py.ExternalLink) else ""
            raise ValueError(_refusal(path, f"a link{target} at '{group.name.rstrip('/')}/{name}'"))
        value = group[name]
        if isinstance(value, h5py.Group):
            yield from _walk_sizes(path, value, visited)
        elif isinstance(value, h5py.Dataset):
            if value.external or value.is_virtual:
                files = [entry[0] for entry in value.external or ()]
                files += [source.file_name for source in value.virtual_sources()] if value.is_virtual else []
                raise ValueError(_refusal(path, f"the array {value.name!r}, whose values are in other files: {files}"))
            yield value.nbytes


def _refusal(path: Path, content: str) -> str:
    return (
        f"Expected a model file that contains all its values, but {path} contains {content}. Do not use this file "
        "unless you trust its origin; Keras does not write such files."
    )


def _check_size(path: Path, size: int, verb: str) -> None:
    stored = os.stat(path).st_size
    if size > max(LIMIT, EXPANSION * stored):
        raise ValueError(
            f"Expected a model file that contains about as much as its own size, but {path} has {stored:,} bytes and "
            f"would {verb} {size:,} bytes. Do not use this file unless you trust its origin."
        )
