"""Aligned faces: five landmarks of a face are moved to where every face has them.

A detector of faces finds the landmarks; this file reads them from a table. The template is that of InsightFace for
112 x 112 images, after Wang et al. 2018, *CosFace*, 1801.09414, section 4.1, and Deng et al. 2019, *ArcFace*,
1801.07698, section 3.1.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kd_keras.data.folder_layout import find_images
from kd_keras.data.image_files import check_full_range, read_image
from kd_keras.errors import check_whole_number, explain_mismatch

# x and y of the left eye, the right eye, the nose, the left and the right corner of the mouth; left as seen in the
# image; in pixels of a 112 x 112 image
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
TEMPLATE_SIZE = 112


def similarity_transform(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The similarity `(2, 3)`, a rotation, a scale and a shift, that moves points to targets with the least squares.

    In the complex plane it is `w = a z + b`, whose closed form is a regression: with centered z and w,
    `a = sum conj(z) w / sum |z|^2`. It is Umeyama's solution (1991) without reflections.

    Args:
        points: `(N, 2)` x and y, at least two.
        targets: `(N, 2)`.

    Returns:
        The matrix M for which M (x, y, 1) is near each target, float64.

    Raises:
        ValueError: if the shapes differ, a number is not finite, or all points coincide.

    >>> similarity_transform(np.array([[0, 0], [1, 0]]), np.array([[2, 1], [2, 3]])).round(6).tolist()
    [[0.0, -2.0, 2.0], [2.0, 0.0, 1.0]]
    """
    points, targets = np.asarray(points, "float64"), np.asarray(targets, "float64")
    if points.shape != targets.shape or points.ndim != 2 or points.shape[-1] != 2 or len(points) < 2:
        expected = "two or more points (N, 2) and as many targets"
        raise ValueError(explain_mismatch(expected, f"shapes {points.shape} and {targets.shape}"))
    if not (np.isfinite(points).all() and np.isfinite(targets).all()):
        raise ValueError(explain_mismatch("finite points", f"{points.tolist()} and {targets.tolist()}"))
    z, w = points @ [1, 1j], targets @ [1, 1j]
    spread = float((np.abs(z - z.mean()) ** 2).sum())
    if spread < 1e-12:
        raise ValueError(explain_mismatch("points that differ", str(points.tolist()), "correct the landmarks"))
    a = complex((np.conj(z - z.mean()) * (w - w.mean())).sum() / spread)
    b = complex(w.mean() - a * z.mean())
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def align_face(image: np.ndarray, landmarks: np.ndarray, size: int = TEMPLATE_SIZE) -> np.ndarray:
    """A face at the place of the template, by bilinear interpolation; what is outside the image is black.

    Args:
        image: `(H, W, C)` uint8.
        landmarks: `(5, 2)` x and y in pixels: left eye, right eye, nose, left and right corner of the mouth, as seen
            in the image.
        size: of the square result; the template is scaled with it.

    Returns:
        `(size, size, C)` uint8.

    Raises:
        ValueError: if an argument has another form.

    >>> image = np.arange(112 * 112, dtype="uint32").reshape(112, 112, 1) % 251
    >>> bool((align_face(image.astype("uint8"), TEMPLATE) == image).all())
    True
    """
    from scipy.ndimage import map_coordinates

    check_whole_number("align_face", "size", size)
    if np.shape(landmarks) != TEMPLATE.shape:
        raise ValueError(explain_mismatch("five landmarks (5, 2)", f"the shape {np.shape(landmarks)}"))
    if image.ndim != 3 or image.dtype != np.uint8:
        raise ValueError(explain_mismatch("an image (H, W, C) uint8", f"{image.dtype} of shape {image.shape}"))
    to_template = similarity_transform(landmarks, TEMPLATE * (size / TEMPLATE_SIZE))
    to_image = np.linalg.inv(np.vstack([to_template, [0, 0, 1]]))[:2]
    y, x = np.mgrid[:size, :size]
    columns, rows = np.einsum("ij,jhw->ihw", to_image, np.stack([x, y, np.ones_like(x)]).astype("float64"))
    rows, columns = rows.round(9), columns.round(9)  # a pixel at the edge is inside in spite of rounding
    planes = [
        map_coordinates(image[..., c].astype("float64"), [rows, columns], order=1, mode="constant")
        for c in range(image.shape[-1])
    ]
    return np.clip(np.rint(np.stack(planes, axis=-1)), 0, 255).astype("uint8")


def read_landmarks(file: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads landmarks from a CSV file: a header, then a path and ten numbers x, y, x, y, ... in each line.

    The order is left eye, right eye, nose, left and right corner of the mouth, as in the table of CelebA.

    Returns:
        `(5, 2)` float64 by the path as it is written.

    Raises:
        ValueError: if a line has another form, or a path comes twice; the message names the line.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "landmarks.csv"
    >>> _ = path.write_text("file,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5\\nann/1.png,30,50,70,50,50,70,35,90,65,90\\n")
    >>> read_landmarks(path)["ann/1.png"][2].tolist()
    [50.0, 70.0]
    """
    landmarks: dict[str, np.ndarray] = {}
    with open(file, newline="", encoding="utf-8") as lines:
        for line, row in enumerate(csv.reader(lines), start=1):
            if line == 1 or not row:
                continue
            try:
                points = np.array(row[1:], "float64").reshape(5, 2)
            except ValueError as error:
                expected = f"a path and ten numbers in line {line} of {file}"
                raise ValueError(explain_mismatch(expected, ",".join(row)[:200])) from error
            if row[0] in landmarks:
                expected = f"one line for each image in {file}"
                raise ValueError(explain_mismatch(expected, f"a second line of {row[0]!r}, line {line}"))
            if not np.isfinite(points).all():
                raise ValueError(explain_mismatch(f"finite landmarks in line {line} of {file}", ",".join(row)[:200]))
            landmarks[row[0]] = points
    return landmarks


def align_folder(
    folder: str | os.PathLike,
    landmarks: str | os.PathLike | Mapping[str, np.ndarray],
    output: str | os.PathLike,
    size: int = TEMPLATE_SIZE,
) -> Path:
    """Writes every image of a folder aligned, as PNG in the same folders; `data.load(output, ...)` opens the result.

    Args:
        folder: the images, in one of the layouts of `data.load`.
        landmarks: a CSV file as `read_landmarks` reads it, or its content, by paths relative to the folder.
        output: a folder that is new or empty.
        size: of the square images.

    Raises:
        ValueError: if images have no landmarks, images of 16 bits use fewer, or the output is not empty.

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (40, 50), (255, 0, 0)).save(folder / "ann.jpg")
    >>> output = align_folder(folder, {"ann.jpg": TEMPLATE / 3}, folder.parent / f"{folder.name}_aligned", size=56)
    >>> read_image(output / "ann.png").shape
    (56, 56, 3)
    """
    from PIL import Image

    table = landmarks if isinstance(landmarks, Mapping) else read_landmarks(landmarks)
    folder, output = Path(folder), Path(output)
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"The aligned images need a folder that is new or empty, but {output} has files.")
    paths = [path.relative_to(folder) for path, _ in find_images(folder).select("all")]
    missing = [path.as_posix() for path in paths if path.as_posix() not in table]
    if missing:
        received = f"none for {len(missing)} of {len(paths)} images, such as {missing[0]}"
        raise ValueError(explain_mismatch(f"landmarks of every image in {folder}", received, "add them, or move these"))
    check_full_range(str(folder), [folder / path for path in paths])
    for path in paths:
        aligned = align_face(read_image(folder / path), table[path.as_posix()], size)
        target = output / path.with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            raise ValueError(f"Two images of {path.parent} are called {path.stem}. Rename one of them.")
        Image.fromarray(aligned[..., 0] if aligned.shape[-1] == 1 else aligned).save(target)
    return output
