"""Opens image-classification datasets of TensorFlow Datasets (TFDS) as sources, whatever their features are called."""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Callable, Collection, Iterator, Sequence

import tensorflow as tf
import tensorflow_datasets as tfds

from kd_keras.data.base import Source
from kd_keras.data.downloads import prepare
from kd_keras.errors import explain_mismatch, suggest


def read(name: str, split: str, data_dir: str | os.PathLike | None = None, download_timeout: float = 60.0) -> Source:
    """Opens one split of a TFDS dataset; a prepared dataset is read without access to the network.

    Args:
        name: a name that TFDS understands, such as `"cifar10"`, `"cifar10:3.0.2"` or `"svhn_cropped"`.
        split: a split or a slice of one, such as `"train"`, `"train[:1000]"`, `"train[90%:]"`, `"train+test"`.
        data_dir: the directory of TFDS datasets, or `None` for the default one.
        download_timeout: the seconds without progress after which a download is given up.

    Raises:
        ValueError: if the dataset or split is unknown (with similar names), the split is empty, or the dataset has no
            8-bit image and class label.
        FileNotFoundError: if the dataset is neither prepared nor can be downloaded.
    """
    builder = prepare(name, data_dir, download_timeout)
    image, label = find_class_keys(builder)
    feature = builder.info.features[label]

    def convert(index: tf.Tensor, features: dict) -> dict:
        return {"image": features[image], "label": tf.cast(features[label], tf.int64), "index": index}

    return source_of_split(
        builder, split, convert, name=name, image=image, classes=feature.num_classes, class_names=feature.names
    )


def source_of_split(
    builder: tfds.core.DatasetBuilder,
    split: str,
    convert: Callable[[tf.Tensor, dict], dict],
    *,
    name: str,
    image: str,
    masks: Collection[str] = (),
    classes: int,
    class_names: Sequence[str] | None,
) -> Source:
    """A source of the examples of a split.

    Args:
        builder: of the dataset.
        split: a split or a slice of one.
        convert: a function from the index and the features of an example to an example of a source.
        name: of the source.
        image: the key of the image.
        masks: the keys of further images that `convert` needs; all others are not decoded.
        classes: K.
        class_names: K names, or none.

    Raises:
        ValueError: if the split is unknown or empty.
    """
    size, shape = count_examples(builder, split), builder.info.features[image].shape

    def read_range(begin: int, end: int) -> tf.data.Dataset:
        raw = read_raw(builder, split, begin, end, decoded=(image, *masks))
        return raw.enumerate(begin).map(convert, tf.data.AUTOTUNE, deterministic=True)

    return Source(
        examples=read_range(0, size),
        name=name,
        size=size,
        classes=classes,
        class_names=tuple(class_names) if class_names else None,
        image_shape=None if None in shape else tuple(shape),
        version=f"{builder.info.full_name} {split}",
        files=len(builder.info.splits[split].file_instructions),
        read_range=read_range,
        ranges=tuple((f"{builder.info.full_name} {name}", begin, end) for name, begin, end in _pieces(builder, split)),
    )


def _pieces(builder: tfds.core.DatasetBuilder, split: str) -> Iterator[tuple[str, int, int]]:
    """The parts of a split, which may be a slice or a sum of several splits: (name, begin, end)."""
    for piece in tfds.core.ReadInstruction.from_spec(split).to_absolute(builder.info.splits):
        end = builder.info.splits[piece.splitname].num_examples if piece.to is None else piece.to
        yield piece.splitname, piece.from_ or 0, end


def read_raw(
    builder: tfds.core.DatasetBuilder, split: str, begin: int, end: int, decoded: Collection[str]
) -> tf.data.Dataset:
    """The features of the examples from `begin` to `end - 1` in reading order, with the images `decoded` decoded."""
    # The index is the same in every run only if files are read one after the other, without shuffling.
    in_order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    images = [key for key, feature in builder.info.features.items() if isinstance(feature, tfds.features.Image)]
    skipped = {key: tfds.decode.SkipDecoding() for key in images if key not in decoded}
    instruction = select_range(builder, split, begin, end)
    return builder.as_dataset(split=instruction, shuffle_files=False, read_config=in_order, decoders=skipped)


def select_range(builder: tfds.core.DatasetBuilder, split: str, begin: int, end: int) -> tfds.core.ReadInstruction:
    """The examples from `begin` to `end - 1` of a split, which may be a slice or a sum of several splits."""
    pieces, offset = [], 0
    for name, start, stop in _pieces(builder, split):
        first, last = max(begin - offset, 0), min(end - offset, stop - start)
        if first < last:
            pieces.append(tfds.core.ReadInstruction(name, start + first, start + last, unit="abs"))
        offset += stop - start
    return functools.reduce(operator.add, pieces)


def find_class_keys(builder: tfds.core.DatasetBuilder) -> tuple[str, str]:
    """The keys of the image and of its class: the supervised keys if they fit, else the first of each type.

    Raises:
        ValueError: if the dataset has no 8-bit image or no class.
    """
    features = builder.info.features
    top = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
    preferred = [key for key in builder.info.supervised_keys or () if isinstance(key, str) and key in top]
    order = [*preferred, *top]
    images = [key for key in order if is_image(top[key])]
    labels = [key for key in order if isinstance(top[key], tfds.features.ClassLabel)]
    if not images or not labels:
        types = {key: type(feature).__name__ for key, feature in top.items()}
        raise ValueError(
            explain_mismatch("a dataset with an 8-bit image and a class label", f"{builder.name}: {types}")
        )
    return images[0], labels[0]


def is_image(feature: tfds.features.FeatureConnector) -> bool:
    """Whether a feature is an 8-bit image."""
    # TFDS derives masks from Image, but their values are classes.
    is_image = isinstance(feature, tfds.features.Image) and not isinstance(feature, tfds.features.LabeledImage)
    return is_image and feature.tf_dtype == tf.uint8


def count_examples(builder: tfds.core.DatasetBuilder, split: str) -> int:
    """The number of examples of a split.

    Raises:
        ValueError: if the split is unknown or empty.
    """
    splits = list(builder.info.splits)
    try:
        size = builder.info.splits[split].num_examples
    except Exception as error:  # a KeyError, a ValueError or an AssertionError, depending on what is wrong in the text
        expected = f"a split of {builder.name} ({', '.join(splits)})"
        advice = f"{suggest(split.partition('[')[0], splits)} (a slice is written {splits[0]}[:1000])"
        raise ValueError(explain_mismatch(expected, repr(split), advice)) from error
    if not size:
        raise ValueError(f"Split {split!r} of {builder.name} must have at least one example, but it is empty.")
    return size
