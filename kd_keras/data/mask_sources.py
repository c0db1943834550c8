"""Opens segmentation datasets of TensorFlow Datasets (TFDS) as sources, whatever their features are called."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from kd_keras.data.base import Source
from kd_keras.data.downloads import prepare
from kd_keras.data.mask_values import MaskValues, Value, make_mask_values
from kd_keras.data.python_calls import call_python
from kd_keras.data.sources import is_image, source_of_split
from kd_keras.errors import explain_mismatch

MASK_WORDS = ("mask", "segmentation", "label", "annotation")  # in the name of a feature


def read_masks(
    name: str,
    split: str,
    data_dir: str | os.PathLike | None = None,
    class_names: Sequence[str] | Mapping[str, Value] | None = None,
    ignored: Value | Sequence[Value] = (),
    download_timeout: float = 60.0,
) -> Source:
    """Opens one split of a TFDS dataset with an image and a mask.

    The mask is a `LabeledImage`, or an image of one channel, or of three channels with a color for each class, whose
    name says so, such as "segmentation_mask".

    Args:
        name: a name that TFDS understands.
        split: a split or a slice of one.
        data_dir: the directory of TFDS datasets, or `None` for the default one.
        class_names: K names, whose values are 0 to K - 1, or the value of each class by its name; by default those of
            a `LabeledImage`.
        ignored: values of pixels that belong to no class.
        download_timeout: the seconds without progress after which a download is given up.

    Raises:
        ValueError: if the dataset or split is unknown, has no image with a mask, or its classes are unknown.
        FileNotFoundError: if the dataset is neither prepared nor can be downloaded.
    """
    builder = prepare(name, data_dir, download_timeout)
    image_key, mask_key = find_mask_keys(builder)
    values = _find_values(builder, mask_key, class_names, ignored)
    size = builder.info.features[image_key].shape[:2]

    def to_classes(mask: np.ndarray, image_size: np.ndarray, number: np.ndarray) -> np.ndarray:
        place = f"example {int(number)} of {name} {split}"
        if mask.shape[:2] != tuple(image_size):
            expected = f"a mask of the size {image_size.tolist()} of its image"
            raise ValueError(explain_mismatch(expected, f"{list(mask.shape[:2])} at {place}"))
        return values.to_classes(mask, place)

    def convert(index: tf.Tensor, example: dict) -> dict:
        image = example[image_key]
        classes = call_python(to_classes, [example[mask_key], tf.shape(image)[:2], index], tf.int32)
        return {"image": image, "label": tf.ensure_shape(classes, size), "index": index}

    source = source_of_split(
        builder,
        split,
        convert,
        name=name,
        image=image_key,
        masks=(mask_key,),
        classes=len(values.names),
        class_names=values.names,
    )
    return replace(source, version=f"{source.version} {values.values} {values.ignored}")


def names_classes(name: str, data_dir: str | os.PathLike | None = None, download_timeout: float = 60.0) -> bool:
    """Whether a TFDS dataset of `read_masks` names the classes of its masks."""
    builder = prepare(name, data_dir, download_timeout)
    return isinstance(builder.info.features[find_mask_keys(builder)[1]], tfds.features.LabeledImage)


def _find_values(
    builder: tfds.core.DatasetBuilder,
    key: str,
    class_names: Sequence[str] | Mapping[str, Value] | None,
    ignored: Value | Sequence[Value],
) -> MaskValues:
    feature = builder.info.features[key]
    if class_names is None and isinstance(feature, tfds.features.LabeledImage):
        listed = (ignored,) if isinstance(ignored, int) else tuple(ignored)
        class_names = {name: number for number, name in enumerate(feature.names) if number not in listed}
    if class_names is None:
        expected = f"the names of the classes of {builder.name}, whose feature {key!r} does not name them"
        raise ValueError(explain_mismatch(expected, "none", 'pass class_names=("first", "second", ...)'))
    return make_mask_values(class_names, ignored)


def find_mask_keys(builder: tfds.core.DatasetBuilder) -> tuple[str, str]:
    """The keys of the image and of its mask.

    Raises:
        ValueError: if the dataset has no 8-bit image with a mask.
    """
    features = builder.info.features
    top = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
    masks = [key for key, feature in top.items() if isinstance(feature, tfds.features.LabeledImage)]
    masks += [
        key
        for word in MASK_WORDS
        for key, feature in top.items()
        if is_image(feature) and feature.shape[-1] in (1, 3) and word in key.lower()
    ]
    images = [key for key, feature in top.items() if is_image(feature) and key not in masks]
    if not masks or not images:
        types = {key: type(feature).__name__ for key, feature in top.items()}
        expected = f"a dataset with an 8-bit image and a mask ({' or '.join(MASK_WORDS)} in its name)"
        raise ValueError(explain_mismatch(expected, f"{builder.name}: {types}"))
    return images[0], masks[0]
