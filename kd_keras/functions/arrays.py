"""Predictions that were computed elsewhere, for example by PyTorch, as a teacher: one row for each example."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kd_keras.errors import explain_mismatch
from kd_keras.functions.digests import describe_file, file_digest
from kd_keras.functions.teacher import FunctionTeacher, Origin
from kd_keras.networks.file_checks import check_archive

COLUMNS = ("logits", "probabilities", "embedding")
NAMED = 3  # the number of examples that a message lists


def arrays_teacher(
    file: str | os.PathLike, *, names: Sequence[str] | None = None, class_order: Sequence[int] | None = None
) -> FunctionTeacher:
    """An `.npz` file of predictions as a teacher; `numpy.savez` writes one.

    It has predictions for the images of a dataset and not for views of them, so it is recorded without augmentation.

    Args:
        file: the path of an `.npz` file with one of the arrays "logits" `(N, ..., K)`, "probabilities" `(N, ..., K)` or
            "embedding" `(N, D)`, and optionally "index" `(N,)`, the number of each row's example in its dataset, or
            "files" `(N,)`, the path of its image in the folder. Without both, row n belongs to example n, and
            there must be as many rows as examples. An array "class_names" `(K,)` names the classes in the order of the
            outputs.
        names: the paths of the images in the order of the examples, which "files" needs; `kd_keras.data.file_names`
            lists those of a folder.
        class_order: as for `Teacher`.

    Raises:
        ValueError: if the file does not exist, is damaged, has none or several of these arrays, arrays of different
            lengths or an example twice, or if it has "files" and there are no `names`.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/predictions.npz"
    >>> np.savez(path, logits=np.eye(3), index=[2, 0, 1])
    >>> arrays_teacher(path)._ask(None, np.array([0, 2])).tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    path = Path(file)
    name = describe_file(path, ".npz", "NumPy")
    arrays = _read(path)
    present = [column for column in COLUMNS if column in arrays]
    if len(present) != 1:
        received = f"{path.name} with {', '.join(arrays) or 'none'}"
        raise ValueError(explain_mismatch(f"one array out of {', '.join(COLUMNS)}", received))
    values = arrays[present[0]]
    rows = _rows_by_example(arrays, len(values), name, names)

    def ask(images: np.ndarray, index: np.ndarray) -> np.ndarray:
        missing = [number for number in index.tolist() if number not in rows]
        if missing:
            received = f"{name}, which lacks {len(missing)} of a batch, such as {missing[:NAMED]}"
            raise ValueError(explain_mismatch("a prediction for each example, by its number", received))
        return values[[rows[number] for number in index.tolist()]]

    class_names = [str(entry) for entry in arrays["class_names"]] if "class_names" in arrays else None
    count = None if "index" in arrays or "files" in arrays else len(values)
    origin = Origin(name, {"arrays": file_digest(path)}, class_names, has_only_originals=True, rows=count)
    is_embedding = present[0] == "embedding"
    return FunctionTeacher(
        ask,
        origin,
        tap="embedding" if is_embedding else "logits",
        probabilities=present[0] == "probabilities",
        class_order=class_order,
    )


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(path, archive)
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # NumPy and zipfile raise several types for a damaged file
        raise ValueError(f"{path} is not an .npz file that can be read: {str(error).splitlines()[0]}.") from error


def _rows_by_example(
    arrays: dict[str, np.ndarray], count: int, name: str, names: Sequence[str] | None
) -> dict[int, int]:
    """The row of each example by its number."""
    column = next((key for key in ("index", "files") if key in arrays), None)
    keys = list(range(count)) if column is None else arrays[column].tolist()
    if column == "index" and arrays[column].dtype.kind not in "iu":
        raise ValueError(explain_mismatch(f"whole numbers in 'index' of {name}", f"{arrays[column].dtype} values"))
    if len(keys) != count:
        raise ValueError(explain_mismatch(f"{count} entries of {column!r} in {name}, one for each row", str(len(keys))))
    if len(set(keys)) != count:
        repeated = sorted(key for key, times in Counter(keys).items() if times > 1)[:NAMED]
        raise ValueError(explain_mismatch(f"each example once in {column!r} of {name}", f"{repeated} several times"))
    if column != "files":
        return {int(key): row for row, key in enumerate(keys)}
    if names is None:
        advice = "pass names=kd_keras.data.file_names(folder, split)"
        raise ValueError(explain_mismatch(f"the names of the images in their order for {name}", "none", advice))
    rows = {key: row for row, key in enumerate(keys)}
    missing = [entry for entry in names if entry not in rows]
    if missing:
        received = f"{name}, whose 'files' lack {len(missing)} of {len(names)}, such as {missing[:NAMED]}"
        raise ValueError(explain_mismatch("a prediction for each image, by its path in the folder", received))
    return {number: rows[entry] for number, entry in enumerate(names)}
