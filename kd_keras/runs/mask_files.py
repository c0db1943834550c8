"""The PNG files of predicted masks: their places in a folder, and their pixels, the numbers of classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np

from kd_keras.errors import explain_mismatch
from kd_keras.files import write_atomically
from kd_keras.runs.image_folder import ImageFolder
from kd_keras.tasks.segmentation.figures import class_colors

SOFTWARE = "kd_keras.predict"  # which a mask names in its metadata, so that nothing else is overwritten
NAMED = 3  # the number of files that a message lists


def find_mask_files(folder: ImageFolder, masks: Path) -> dict[str, str]:
    """The mask of each image: the same path with the suffix `.png`, as a folder of training images has them.

    Args:
        folder: the images.
        masks: the folder of the masks, which need not exist.

    Returns:
        For the path of each image in its folder, that of its mask in `masks`.

    Raises:
        ValueError: if `masks` is a file or inside of the folder of the images, if two images have one mask, or if a
            file is in the way that is not a mask of an earlier prediction.
    """
    own = masks.resolve()
    is_inside = own == folder.root.resolve() if folder.is_single else own.is_relative_to(folder.root.resolve())
    if is_inside:
        advice = "name another folder, because these masks would be images of the next prediction"
        raise ValueError(explain_mismatch(f"a folder for the masks outside of {folder.root}", str(masks), advice))
    names = [folder.name(path) for path in folder.paths]
    files = {name: PurePosixPath(name).with_suffix(".png").as_posix() for name in names}
    # Some file systems do not distinguish upper and lower case.
    counts = Counter(file.casefold() for file in files.values())
    repeated = next((file for file, count in counts.items() if count > 1), None)
    if repeated is not None:
        images = [name for name in names if files[name].casefold() == repeated]
        expected = f"one image for each mask in {folder.root}"
        received = f"{' and '.join(images)}, which have the same mask"
        raise ValueError(explain_mismatch(expected, received, "give them different names"))
    for parent in {ancestor for file in files.values() for ancestor in (masks / file).parents}:
        if parent.exists() and not parent.is_dir():
            raise ValueError(explain_mismatch("a folder for the masks", f"{parent}, which is a file"))
    others = [str(masks / file) for file in files.values() if not _may_write(masks / file)][:NAMED]
    if others:
        expected = "no files at the places of the masks except masks of an earlier prediction"
        raise ValueError(explain_mismatch(expected, ", ".join(others), "name another folder for the masks"))
    return files


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Writes a mask `(H, W)` of integers from 0 as a PNG: with a palette, or 16-bit gray if a number is above 255.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "mask.png"
    >>> write_mask(path, np.array([[0, 300]]))
    >>> read_mask(path).tolist()
    [[0, 300]]
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    information = PngInfo()
    information.add_text("Software", SOFTWARE)
    if mask.max() > 255:
        picture = Image.fromarray(mask.astype("uint16"))
    else:
        picture = Image.fromarray(mask.astype("uint8"))
        picture.putpalette(class_colors(256).tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda name: picture.save(name, "PNG", pnginfo=information))


def read_mask(path: Path) -> np.ndarray:
    """The numbers of the classes `(H, W)` int32 of a mask that `write_mask` wrote."""
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture).astype("int32")


def _may_write(path: Path) -> bool:
    """Whether there is no file at a path, or a mask of an earlier prediction."""
    from PIL import Image

    if not path.exists():
        return True
    try:
        with Image.open(path) as picture:
            return picture.info.get("Software") == SOFTWARE
    except Exception:  # of several types: no image, or a folder
        return False
