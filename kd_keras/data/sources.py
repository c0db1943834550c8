"""Any image-classification dataset of TensorFlow Datasets as a source, whatever its features are called."""

from __future__ import annotations

import functools
import operator
import os
from pathlib import Path

import tensorflow as tf
import tensorflow_datasets as tfds

from kd_keras.data.base import Source
from kd_keras.errors import explain_mismatch, suggest


def read(name: str, split: str, data_dir: str | os.PathLike | None = None) -> Source:
    """Opens one split of a TFDS dataset; a prepared one is read without touching the network.

    Args:
        name: as TFDS takes it, e.g. `"cifar10"`, `"cifar10:3.0.2"` or `"svhn_cropped"`.
        split: a split or a slice of one, e.g. `"train"`, `"train[:1000]"`, `"train[90%:]"`, `"train+test"`.
        data_dir: where TFDS keeps its datasets; `None` for its usual place.

    Raises:
        ValueError: for an unknown dataset or split (with the nearest ones), an empty split, and a dataset without
            an 8-bit image and a class label.
        FileNotFoundError: where the dataset is neither prepared nor can be downloaded.
    """
    builder = _prepared(name, data_dir)
    image, label = _keys(builder)
    size = _size(builder, split)
    # One shard after the other and nothing shuffled: only then is the index the same in every run.
    in_order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    other = [key for key, feature in builder.info.features.items() if isinstance(feature, tfds.features.Image)]
    unread = {key: tfds.decode.SkipDecoding() for key in other if key != image}

    def example(index: tf.Tensor, features: dict) -> dict:
        return {"image": features[image], "label": tf.cast(features[label], tf.int64), "index": index}

    def between(begin: int, end: int) -> tf.data.Dataset:
        chosen = _range(builder, split, begin, end)
        raw = builder.as_dataset(split=chosen, shuffle_files=False, read_config=in_order, decoders=unread)
        return raw.enumerate(begin).map(example, tf.data.AUTOTUNE, deterministic=True)

    feature, shape = builder.info.features[label], builder.info.features[image].shape
    return Source(
        examples=between(0, size),
        name=name,
        size=size,
        classes=feature.num_classes,
        class_names=tuple(feature.names) if feature.names else None,
        image_shape=None if None in shape else tuple(shape),
        version=f"{builder.info.full_name} {split}",
        files=len(builder.info.splits[split].file_instructions),
        between=between,
    )


def _range(builder: tfds.core.DatasetBuilder, split: str, begin: int, end: int) -> tfds.core.ReadInstruction:
    """The examples `begin` to `end` of a split, which may be a slice or a sum of several."""
    pieces, offset = [], 0
    for each in tfds.core.ReadInstruction.from_spec(split).to_absolute(builder.info.splits):
        start = each.from_ or 0
        length = (builder.info.splits[each.splitname].num_examples if each.to is None else each.to) - start
        first, last = max(begin - offset, 0), min(end - offset, length)
        if first < last:
            pieces.append(tfds.core.ReadInstruction(each.splitname, start + first, start + last, unit="abs"))
        offset += length
    return functools.reduce(operator.add, pieces)


def _prepared(name: str, data_dir: str | os.PathLike | None) -> tfds.core.DatasetBuilder:
    present = _names_in(data_dir)
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        remedy = suggest(name, {*present, *tfds.list_builders(with_community_datasets=False)})
        if not remedy.startswith("did you mean"):  # TFDS knows hundreds: too many to list
            remedy = f"prepared under {_place(data_dir)}: {', '.join(present) or 'none'}"
        raise ValueError(explain_mismatch("a TFDS dataset or an existing folder of images", repr(name), remedy)) from error
    except Exception as error:  # a version or a configuration that the dataset has not, in several types
        came = f"{name!r}: {str(error).splitlines()[0]}"
        raise ValueError(explain_mismatch("a TFDS dataset or an existing folder of images", came)) from error
    if builder.is_prepared():
        return builder
    try:
        builder.download_and_prepare()
    except Exception as error:  # whatever the host, the proxy, the disk or TFDS itself came up with
        reason = str(error).splitlines()[0][:200] if str(error) else ""
        came = f"neither prepared under {_place(data_dir)} nor downloadable: {type(error).__name__}: {reason}"
        known = f"prepared there: {', '.join(present) or 'none'}"
        if present:
            known += f"; {suggest(name, present)}"
        raise FileNotFoundError(explain_mismatch(f"the dataset {name!r}", came, known)) from error
    return builder


def _names_in(data_dir: str | os.PathLike | None) -> list[str]:
    """The datasets prepared in a directory: `<name>/<version>/` or `<name>/<config>/<version>/`."""
    place = _place(data_dir)
    found = [path for depth in ("*/*", "*/*/*") for path in tf.io.gfile.glob(f"{place}/{depth}/dataset_info.json")]
    return sorted({path[len(place):].strip("/").split("/")[0] for path in found})


def _place(data_dir: str | os.PathLike | None) -> str:
    chosen = str(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))
    return str(Path(chosen).expanduser()) if "://" not in chosen else chosen


def _keys(builder: tfds.core.DatasetBuilder) -> tuple[str, str]:
    """The keys of the image and of its class: the supervised ones, else the first of each kind."""
    features = builder.info.features
    top = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
    preferred = [key for key in builder.info.supervised_keys or () if isinstance(key, str) and key in top]
    order = [*preferred, *top]
    images = [key for key in order if _is_image(top[key])]
    labels = [key for key in order if isinstance(top[key], tfds.features.ClassLabel)]
    if not images or not labels:
        found = {key: type(feature).__name__ for key, feature in top.items()}
        raise ValueError(explain_mismatch("a dataset with an 8-bit image and a class label", f"{builder.name}: {found}"))
    return images[0], labels[0]


def _is_image(feature: tfds.features.FeatureConnector) -> bool:
    # A mask is a kind of Image to TFDS; its values are classes.
    image = isinstance(feature, tfds.features.Image) and not isinstance(feature, tfds.features.LabeledImage)
    return image and feature.tf_dtype == tf.uint8


def _size(builder: tfds.core.DatasetBuilder, split: str) -> int:
    splits = list(builder.info.splits)
    try:
        size = builder.info.splits[split].num_examples
    except Exception as error:  # a KeyError, a ValueError or an AssertionError, by what is wrong with the text
        remedy = f"{suggest(split.partition('[')[0], splits)} (a slice is written {splits[0]}[:1000])"
        raise ValueError(explain_mismatch(f"a split of {builder.name} ({', '.join(splits)})", repr(split), remedy)) from error
    if not size:
        raise ValueError(explain_mismatch("a split with at least one example", f"{split!r} of {builder.name}"))
    return size
