"""Opens object-detection datasets of TensorFlow Datasets (TFDS) as sources, whatever their features are called."""

from __future__ import annotations

import logging
import os
from typing import NamedTuple

import tensorflow as tf
import tensorflow_datasets as tfds

from kd_keras.data.base import Source
from kd_keras.data.downloads import prepare
from kd_keras.data.sources import count_examples, is_image, read_raw, source_of_split
from kd_keras.detection.boxes import NO_OBJECT, box_area
from kd_keras.errors import check_integer, explain_mismatch

CROWD = "is_crowd"  # a feature of COCO's objects
logger = logging.getLogger("kd_keras")


class _Keys(NamedTuple):
    image: str
    objects: str
    box: str
    number: str
    crowd: str | None


def read_boxes(
    name: str,
    split: str,
    data_dir: str | os.PathLike | None = None,
    max_boxes: int | None = None,
    download_timeout: float = 60.0,
) -> Source:
    """Opens one split of a TFDS dataset whose objects have a `BBoxFeature` and a `ClassLabel`.

    Crowds (`is_crowd`), which are not single objects, and boxes without an area are left out; the log says how many
    objects there are. All annotations of the split are read once, without decoding images.

    Args:
        name: a name that TFDS understands, such as `"voc/2007"` or `"coco/2017"`.
        split: a split or a slice of one.
        data_dir: the directory of TFDS datasets, or `None` for the default one.
        max_boxes: N, the number of rows of each label; by default the largest number of objects in an image.
        download_timeout: the seconds without progress after which a download is given up.

    Raises:
        ValueError: if the dataset or split is unknown, the dataset has no 8-bit image with such objects, or an image
            has more than `max_boxes` objects.
        FileNotFoundError: if the dataset is neither prepared nor can be downloaded.
    """
    builder = prepare(name, data_dir, download_timeout)
    keys, size = find_box_keys(builder), count_examples(builder, split)
    annotations = read_raw(builder, split, 0, size, decoded=())
    rows = _choose_rows(_count_objects(annotations, keys, name), max_boxes, name)
    numbers = builder.info.features[keys.objects][keys.number]

    def convert(index: tf.Tensor, example: dict) -> dict:
        label = _padded(*_objects(example[keys.objects], keys), rows)
        return {"image": example[keys.image], "label": label, "index": index}

    return source_of_split(
        builder, split, convert, name=name, image=keys.image, classes=numbers.num_classes, class_names=numbers.names
    )


def _objects(objects: dict[str, tf.Tensor], keys: _Keys) -> tuple[tf.Tensor, tf.Tensor]:
    """The boxes `(n, 4)` and the classes `(n,)` of an image, without crowds and boxes without an area."""
    boxes = objects[keys.box]
    stays = box_area(boxes) > 0
    if keys.crowd is not None:
        stays &= ~tf.cast(objects[keys.crowd], tf.bool)
    return tf.boolean_mask(boxes, stays), tf.boolean_mask(tf.cast(objects[keys.number], tf.int64), stays)


def _padded(boxes: tf.Tensor, classes: tf.Tensor, rows: int) -> dict[str, tf.Tensor]:
    """A label of `rows` rows."""
    missing = rows - tf.shape(classes)[0]
    return {
        "boxes": tf.ensure_shape(tf.pad(boxes, [[0, missing], [0, 0]]), (rows, 4)),
        "classes": tf.ensure_shape(tf.pad(classes, [[0, missing]], constant_values=NO_OBJECT), (rows,)),
    }


def _choose_rows(most: int, max_boxes: int | None, name: str) -> int:
    """The number of rows of each label, for at most `most` objects in an image."""
    if max_boxes is None:
        return most
    rows = check_integer("load_boxes", "max_boxes", max_boxes, least=1)
    if rows < most:
        expected = f"at most max_boxes={rows} objects in an image of {name}"
        raise ValueError(explain_mismatch(expected, str(most), f"pass max_boxes={most} or leave it out"))
    return rows


def _count_objects(annotations: tf.data.Dataset, keys: _Keys, name: str) -> int:
    """The largest number of objects in an image, at least 1."""

    def count(example: dict) -> tf.Tensor:
        objects = example[keys.objects]
        return tf.stack([tf.shape(_objects(objects, keys)[1])[0], tf.shape(objects[keys.number])[0]])

    def add(total: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
        return tf.stack([tf.maximum(total[0], counts[0]), total[1] + counts[0], total[2] + counts[1]])

    totals = annotations.map(count, tf.data.AUTOTUNE).reduce(tf.zeros(3, tf.int32), add).numpy()
    logger.info(
        "%s: %d objects; %d crowds or boxes without an area are left out.", name, totals[1], totals[2] - totals[1]
    )
    return max(1, int(totals[0]))


def find_box_keys(builder: tfds.core.DatasetBuilder) -> _Keys:
    """The keys of the image and of its objects: the first of each type.

    Raises:
        ValueError: if the dataset has no 8-bit image or no objects with a box and a class.
    """
    features = builder.info.features
    top = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
    images = [key for key, feature in top.items() if is_image(feature)]
    for key, feature in top.items():
        parts = getattr(feature, "feature", None)
        if not isinstance(parts, tfds.features.FeaturesDict):
            continue
        boxes = [part for part, inner in parts.items() if isinstance(inner, tfds.features.BBoxFeature)]
        numbers = [part for part, inner in parts.items() if isinstance(inner, tfds.features.ClassLabel)]
        # The class is called "label"; VOC's objects also have a ClassLabel called "pose".
        numbers.sort(key=lambda part: part != "label")
        if images and boxes and numbers:
            return _Keys(images[0], key, boxes[0], numbers[0], CROWD if CROWD in parts else None)
    types = {key: type(feature).__name__ for key, feature in top.items()}
    expected = "a dataset with an 8-bit image and a sequence of objects with a BBoxFeature and a ClassLabel"
    raise ValueError(explain_mismatch(expected, f"{builder.name}: {types}"))
