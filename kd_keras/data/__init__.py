"""Images for student and teacher: sources of examples, and the pipeline that turns them into batches."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from kd_keras.data.alignment import align_face, align_folder
from kd_keras.data.augment import Augmentation
from kd_keras.data.base import ImageAugmentation, Source
from kd_keras.data.face_pairs import Pairs, all_pairs, read_pairs
from kd_keras.data.file_names import file_names
from kd_keras.data.identities import read_labels, select_identities, split_identities
from kd_keras.data.image_files import read_image
from kd_keras.data.label_kinds import find_label_kind
from kd_keras.data.pipeline import evaluation, steps_per_epoch, training
from kd_keras.data.shards import SHARDING
from kd_keras.data.statistics import measure
from kd_keras.errors import check_number, explain_mismatch

__all__ = (
    "SHARDING",
    "Augmentation",
    "ImageAugmentation",
    "Pairs",
    "Source",
    "align_face",
    "align_folder",
    "all_pairs",
    "evaluation",
    "file_names",
    "find_label_kind",
    "load",
    "load_boxes",
    "load_masks",
    "measure",
    "names_mask_classes",
    "read_image",
    "read_labels",
    "read_pairs",
    "select_identities",
    "split_identities",
    "steps_per_epoch",
    "training",
)


def load(
    name: str | os.PathLike,
    split: str,
    data_dir: str | os.PathLike | None = None,
    *,
    image_channels: int | None = None,
    image_bits: int | None = None,
    download_timeout: float = 60.0,
) -> Source:
    """Opens one split of a dataset, in an order that is the same in each epoch and each run.

    Args:
        name: `"digits"` (embedded, nothing to download), any TFDS image-classification dataset such as `"cifar10"`, or
            an existing folder of images: `FOLDER/<class>/*.jpg`, `FOLDER/<split>/<class>/*.jpg`, or `FOLDER/*.jpg`
            for images without labels, in the formats that `read_image` reads.
        split: for example `"train"`; for TFDS datasets also a slice such as `"train[:1000]"`.
        data_dir: the directory of TFDS datasets, or `None` for the default one. Not used for a folder.
        image_channels: 1 for gray images, 3 for colors; by default what the dataset has. A folder is gray if all its
            images are.
        image_bits: of images in a folder with 16 bits per channel, the number of low bits that their values use, 8 to
            16: 12 for values from 0 to 4095. Required if they use fewer than 16.
        download_timeout: of a dataset that is not prepared, the seconds without any progress after which its download
            is given up.

    Raises:
        ValueError: if the dataset or split is unknown (with similar names), its examples are not images with one class
            each, or a class folder has no images.
        FileNotFoundError: if a dataset is neither prepared nor can be downloaded, or a folder has no images.
        OSError: if the digits can be neither read nor written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     digits = load("digits", "test", data_dir=directory)
    >>> digits.size, digits.classes, digits.image_shape
    (797, 10, (8, 8, 1))
    """
    if image_channels not in (None, 1, 3):
        raise ValueError(explain_mismatch("image_channels=1 for gray images or 3 for colors", repr(image_channels)))
    if image_bits not in (None, *range(8, 17)):
        raise ValueError(explain_mismatch("image_bits= from 8 to 16", repr(image_bits)))
    check_number("load", "download_timeout", download_timeout, above=0)
    # Imported here because TFDS takes seconds to import, and a folder of images does not need it.
    if os.path.isdir(name):
        from kd_keras.data import folders

        return folders.read(name, split, image_channels, image_bits)
    from kd_keras.data import digits, sources

    name = os.fspath(name)
    if name == "digits":
        digits.prepare(data_dir)
    source = sources.read(name, split, data_dir, download_timeout)
    return source if image_channels is None else source.with_channels(image_channels)


def load_boxes(
    name: str | os.PathLike,
    split: str,
    data_dir: str | os.PathLike | None = None,
    *,
    class_names: Sequence[str] | None = None,
    max_boxes: int | None = None,
    image_channels: int | None = None,
    download_timeout: float = 60.0,
) -> Source:
    """Opens one split of a dataset of images with boxes; its labels are padded boxes with classes, see `labels.py`.

    Args:
        name: a TFDS dataset whose objects have boxes and classes, such as `"voc/2007"`, or an existing folder in the
            format of COCO, Pascal VOC or YOLO, as `box_folders.py` describes.
        split: for example `"train"`; for TFDS datasets also a slice such as `"train[:1000]"`.
        data_dir: the directory of TFDS datasets, or `None` for the default one. Not used for a folder.
        class_names: of a folder in the format of VOC or YOLO, the names in the order of their numbers; by default those
            that the folder has.
        max_boxes: N, the number of rows of each label; by default the largest number of objects in an image of the
            split.
        image_channels: 1 for gray images, 3 for colors; by default what the dataset has.
        download_timeout: of a dataset that is not prepared, the seconds without any progress after which its download
            is given up.

    Raises:
        ValueError: if the dataset or split is unknown, has no boxes, or an annotation is wrong; the message names the
            file and the line.
        FileNotFoundError: if there are no images, an annotated image is missing, or a dataset is neither prepared nor
            can be downloaded.

    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (40, 20)).save(folder / "black.png")
    >>> _ = (folder / "black.txt").write_text("1 0.5 0.5 0.5 1.0")
    >>> source = load_boxes(folder, "train", class_names=("cat", "dog"))
    >>> [example["label"]["boxes"].numpy().tolist() for example in source.examples]
    [[[0.0, 0.25, 1.0, 0.75]]]
    """
    if image_channels not in (None, 1, 3):
        raise ValueError(explain_mismatch("image_channels=1 for gray images or 3 for colors", repr(image_channels)))
    if os.path.isdir(name):
        from kd_keras.data.box_folders import read_box_folder

        return read_box_folder(name, split, class_names, max_boxes, image_channels)
    if class_names is not None:
        raise ValueError(f"class_names= belongs to a folder, but {os.fspath(name)!r} is not a folder. Leave it out.")
    from kd_keras.data.box_sources import read_boxes

    source = read_boxes(os.fspath(name), split, data_dir, max_boxes, download_timeout)
    return source if image_channels is None else source.with_channels(image_channels)


def names_mask_classes(
    name: str | os.PathLike, data_dir: str | os.PathLike | None = None, download_timeout: float = 60.0
) -> bool:
    """Whether the dataset or the folder of `load_masks` names its classes, so that `class_names` may be left out.

    Args:
        name, data_dir, download_timeout: as for `load_masks`.

    Raises:
        ValueError: if the dataset is unknown or has no masks.
        FileNotFoundError: if it is neither prepared nor can be downloaded.
    """
    if os.path.isdir(name):
        from kd_keras.data.mask_folders import names_classes

        return names_classes(name)
    from kd_keras.data import mask_sources

    return mask_sources.names_classes(os.fspath(name), data_dir, download_timeout)


def load_masks(
    name: str | os.PathLike,
    split: str,
    data_dir: str | os.PathLike | None = None,
    *,
    class_names: Sequence[str] | Mapping[str, int | tuple[int, int, int]] | None = None,
    ignored: int | Sequence[int | tuple[int, int, int]] = (),
    image_channels: int | None = None,
    download_timeout: float = 60.0,
) -> Source:
    """Opens one split of a dataset of images with masks; its labels are `(H, W)` int32, -1 for an ignored pixel.

    Args:
        name: a TFDS dataset with a mask, such as `"camvid"`, or an existing folder of images and masks with equal
            names, as `mask_folders.py` describes.
        split: for example `"train"`; for TFDS datasets also a slice such as `"train[:100]"`.
        data_dir: the directory of TFDS datasets, or `None` for the default one. Not used for a folder.
        class_names: K names, whose values in the masks are 0 to K - 1; or the value of each class by its name, a number
            or a color (red, green, blue). By default those that the dataset or the folder has.
        ignored: values of pixels that belong to no class, such as 255. No value is ignored by default; a value that is
            neither ignored nor of a class is an error when it is read.
        image_channels: 1 for gray images, 3 for colors; by default what the dataset has.
        download_timeout: of a dataset that is not prepared, the seconds without any progress after which its download
            is given up.

    Raises:
        ValueError: if the dataset or split is unknown, has no masks, the classes are unknown, or a mask has another
            size than its image; the message names the file.
        FileNotFoundError: if an image or a mask is missing, or a dataset is neither prepared nor can be downloaded.

    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for kind, mode in (("images", "RGB"), ("masks", "L")):
    ...     (folder / kind).mkdir()
    ...     Image.new(mode, (3, 2)).save(folder / kind / "black.png")
    >>> source = load_masks(folder, "train", class_names=("night", "day"))
    >>> [example["label"].numpy().tolist() for example in source.examples]
    [[[0, 0, 0], [0, 0, 0]]]
    """
    if image_channels not in (None, 1, 3):
        raise ValueError(explain_mismatch("image_channels=1 for gray images or 3 for colors", repr(image_channels)))
    if os.path.isdir(name):
        from kd_keras.data.mask_folders import read_mask_folder

        return read_mask_folder(name, split, class_names, ignored, image_channels)
    from kd_keras.data.mask_sources import read_masks

    source = read_masks(os.fspath(name), split, data_dir, class_names, ignored, download_timeout)
    return source if image_channels is None else source.with_channels(image_channels)
