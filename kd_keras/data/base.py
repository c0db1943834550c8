"""A source of examples, and the protocols of what the pipeline uses: augmentations and recorded outputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Protocol

import tensorflow as tf

from kd_keras.data.image_files import LUMINANCE
from kd_keras.errors import explain_mismatch

TYPES = {"image": "uint8", "index": "int64", "label": "int64"}
BOX_TYPES = {"boxes": "float32", "classes": "int64"}  # of a label with boxes
MASK_TYPE = "int32"  # of a label that is a mask
CLASS, BOXES, MASKS = "class", "boxes", "masks"  # the kinds of labels


@dataclass(frozen=True, eq=False)
class Source:
    """One split of a dataset: single examples, always in the same order.

    Attributes:
        examples: dictionaries of `image` `(H, W, C)` uint8, `index` () int64 and, if there are labels, `label` ()
            int64. `index` counts from 0 in reading order, which is the same in each epoch and each run. It identifies
            an example as long as the dataset is unchanged. A label with boxes is a dictionary of `boxes` `(N, 4)`
            float32 and `classes` `(N,)` int64, a mask is `(H, W)` int32, as `labels.py` describes.
        name: the dataset's name, or its folder.
        size: the number of examples.
        classes: K, the number of classes, or `None` if there are no labels.
        class_names: K names in the order of the labels, or `None`.
        image_shape: `(H, W, C)`, or `None` if images differ in size.
        version: identifies the examples together with the name: a version and a split, or a digest of the files.
        files: the number of files that contain the examples.
        read_range: a function of `begin` and `end` that returns the examples from `begin` to `end - 1` in the same form
            and with the same indices, and opens only the files that contain them; `None` if there is none.
        ranges: where the examples are, (name, begin, end) with a name such as a split of a version of a dataset,
            or the path of an image; empty if this is not known.
        content: identifies the examples in any order, for a dataset that is shuffled once in each process; by default
            the version does.
        has_one_order: whether each pass gives the same examples in the same order, as it should. If not, `index` does
            not identify an example, and recordings refuse the source.

    Raises:
        ValueError: if `examples` is not a dataset of such dictionaries, if it has no examples, or if the class names do
            not fit the number of classes or are not different.

    >>> examples = tf.data.Dataset.from_tensor_slices({"image": tf.zeros((2, 4, 4, 1), tf.uint8), "index": [0, 1]})
    >>> examples = examples.map(lambda example: {**example, "index": tf.cast(example["index"], tf.int64)})
    >>> Source(examples, name="black", size=2, image_shape=(4, 4, 1)).has_labels
    False
    """

    examples: tf.data.Dataset
    name: str
    size: int
    classes: int | None = None
    class_names: tuple[str, ...] | None = None
    image_shape: tuple[int, int, int] | None = None
    version: str = ""
    files: int = 1
    read_range: Callable[[int, int], tf.data.Dataset] | None = None
    ranges: tuple[tuple[str, int, int], ...] = ()
    content: str = ""
    has_one_order: bool = True

    def __post_init__(self) -> None:
        spec = self.examples.element_spec
        types = tf.nest.map_structure(lambda value: value.dtype.name, spec) if isinstance(spec, dict) else spec
        unlabeled = {key: TYPES[key] for key in ("image", "index")}
        allowed = (unlabeled, TYPES, {**TYPES, "label": BOX_TYPES}, {**TYPES, "label": MASK_TYPE})
        if types not in allowed:
            expected = f"examples of the form {TYPES} in source {self.name!r}, with or without the label"
            raise ValueError(explain_mismatch(expected, str(types)))
        shape, declared = spec["image"].shape, self.image_shape
        if shape.rank != 3 or shape[-1] is None:
            received = f"images of shape {shape}"
            advice = "give one image per example, with a known number of channels, by tf.ensure_shape"
            raise ValueError(explain_mismatch(f"images (H, W, C) in source {self.name!r}", received, advice))
        if declared is not None and not shape.is_compatible_with(declared):
            raise ValueError(explain_mismatch(f"images of image_shape={declared}", f"a dataset of images {shape}"))
        if self.has_boxes:
            _check_box_shapes(spec["label"], self.name)
        if self.has_masks and not (spec["label"].shape.rank == 2 and spec["label"].shape.is_compatible_with(shape[:2])):
            expected = f"masks (H, W) of the size of their images {shape[:2]} in source {self.name!r}"
            raise ValueError(explain_mismatch(expected, f"masks of shape {spec['label'].shape}"))
        self._check_classes()

    def _check_classes(self) -> None:
        if self.size < 1:
            raise ValueError(explain_mismatch(f"at least one example in source {self.name!r}", f"size={self.size!r}"))
        names = self.class_names
        if self.classes is not None and self.classes < 1:
            raise ValueError(explain_mismatch(f"at least one class in {self.name!r}", f"classes={self.classes}"))
        if names is not None and len(names) != self.classes:
            received = f"{len(names)} names for classes={self.classes}"
            raise ValueError(explain_mismatch(f"one name for each class of {self.name!r}", received))
        repeated = sorted({name for name in names or () if (names or ()).count(name) > 1})
        if repeated:
            raise ValueError(explain_mismatch(f"different class names in {self.name!r}", f"{repeated} several times"))

    @property
    def has_labels(self) -> bool:
        """Whether the examples have labels."""
        return "label" in self.examples.element_spec

    @property
    def has_boxes(self) -> bool:
        """Whether the labels are boxes with classes."""
        return self.has_labels and isinstance(self.examples.element_spec["label"], dict)

    @property
    def has_masks(self) -> bool:
        """Whether the labels are masks, a class for each pixel."""
        return self.has_labels and not self.has_boxes and self.examples.element_spec["label"].dtype.name == MASK_TYPE

    @property
    def label_kind(self) -> str | None:
        """The kind of the labels, `CLASS`, `BOXES` or `MASKS`; `None` if there are none."""
        if not self.has_labels:
            return None
        return BOXES if self.has_boxes else MASKS if self.has_masks else CLASS

    def shards(self, count: int) -> list[Source]:
        """Splits the source into `count` consecutive shards, whose sizes differ by at most one example.

        Raises:
            ValueError: if the source cannot be read by ranges, or has fewer examples than shards.
        """
        if self.read_range is None or not 1 <= count <= self.size:
            by_ranges = "can" if self.read_range else "cannot"
            raise ValueError(
                f"Source {self.name!r} cannot be split into {count} shards: it has {self.size} examples in "
                f"{self.files} files and {by_ranges} be read by ranges."
            )
        sizes = [self.size // count + (number < self.size % count) for number in range(count)]
        ends = list(itertools.accumulate(sizes))
        return [
            replace(self, examples=self.read_range(end - size, end), size=size, read_range=None, ranges=())
            for size, end in zip(sizes, ends, strict=True)
        ]

    def with_channels(self, channels: int) -> Source:
        """Converts all images to gray or to colors; gray is the luminance (ITU-R 601) of the colors.

        Args:
            channels: 1 or 3.

        Raises:
            ValueError: if the images have neither 1 nor 3 channels.

        >>> examples = tf.data.Dataset.range(6).map(lambda i: {"image": tf.zeros((4, 4, 1), tf.uint8), "index": i})
        >>> Source(examples, name="black", size=6, image_shape=(4, 4, 1)).with_channels(3).image_shape
        (4, 4, 3)
        """
        current = self.examples.element_spec["image"].shape[-1]
        if current == channels:
            return self
        if {current, channels} != {1, 3}:
            expected = f"images of 1 or 3 channels in {self.name!r}, to convert them to {channels}"
            raise ValueError(explain_mismatch(expected, f"images of {current} channels"))

        def convert(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            image = example["image"]
            if channels == 3:
                return {**example, "image": tf.image.grayscale_to_rgb(image)}
            gray = tf.tensordot(tf.cast(image, tf.float32), tf.constant(LUMINANCE)[:, None], 1)
            return {**example, "image": tf.cast(tf.round(gray), tf.uint8)}

        def map_all(examples: tf.data.Dataset) -> tf.data.Dataset:
            return examples.map(convert, tf.data.AUTOTUNE, deterministic=True)

        read_range = self.read_range
        return replace(
            self,
            examples=map_all(self.examples),
            image_shape=None if self.image_shape is None else (*self.image_shape[:2], channels),
            version=f"{self.version or self.name} with {channels} channels",
            content="",
            read_range=None if read_range is None else lambda begin, end: map_all(read_range(begin, end)),
        )

    def without(self, classes: Collection[int]) -> Source:
        """Leaves out the examples of some classes and renumbers the remaining examples; K and the names do not change.

        A student that is distilled on such a transfer set never sees those classes (Hinton, Vinyals and Dean 2015,
        1503.02531, section 3). This call reads all labels once.

        Args:
            classes: numbers from 0 to K - 1.

        Raises:
            ValueError: if the source has no labels, or boxes or masks, a class does not exist, or no example remains.

        >>> examples = tf.data.Dataset.range(6).map(
        ...     lambda i: {"image": tf.zeros((4, 4, 1), tf.uint8), "label": i % 3, "index": i})
        >>> Source(examples, name="black", size=6, classes=3, image_shape=(4, 4, 1)).without([1]).size
        4
        """
        if not self.has_labels:
            raise ValueError(f"Classes {sorted(classes)} cannot be left out of {self.name!r}, which has no labels.")
        if self.label_kind != CLASS:
            raise ValueError(
                f"Classes {sorted(classes)} cannot be left out of {self.name!r}, whose labels are {self.label_kind}."
            )
        unknown = [number for number in classes if not 0 <= number < (self.classes or number + 1)]
        if unknown:
            raise ValueError(
                f"The classes of {self.name!r} are 0 to {(self.classes or 0) - 1}, but received {unknown}."
            )
        excluded = tf.constant(sorted(classes), tf.int64)
        remaining = self.examples.filter(lambda example: not tf.reduce_any(example["label"] == excluded))
        size = int(remaining.reduce(tf.constant(0, tf.int64), lambda count, _: count + 1))
        if not size:
            raise ValueError(f"No example of {self.name!r} remains without the classes {sorted(classes)}.")
        numbered = remaining.enumerate().map(lambda number, example: {**example, "index": number})
        version = f"{self.version or self.name} without {sorted(classes)}"
        return replace(
            self, examples=numbered, size=size, version=version, content="", files=1, read_range=None, ranges=()
        )


def _check_box_shapes(spec: dict[str, tf.TensorSpec], name: str) -> None:
    rows = spec["boxes"].shape[0] if spec["boxes"].shape.rank else None
    if rows is None or tuple(spec["boxes"].shape) != (rows, 4) or tuple(spec["classes"].shape) != (rows,):
        expected = f"boxes (N, 4) and classes (N,) with one N for all examples of source {name!r}"
        received = f"boxes {spec['boxes'].shape} and classes {spec['classes'].shape}"
        raise ValueError(explain_mismatch(expected, received, "pad with the class -1 and boxes of zeros"))


class ImageAugmentation(Protocol):
    """What the pipeline needs of an augmentation, such as `kd_keras.data.Augmentation` or a class of the user.

    Both functions must return the same result for the same arguments, so that a view can be repeated.
    """

    @property
    def changes_images(self) -> bool:
        """Whether `view` changes images at all."""

    @property
    def mixes(self) -> bool:
        """Whether `mix` changes batches at all: labels that are classes are then one-hot."""

    def view(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """The view of an image `(H, W, C)` uint8 for a seed `(2,)` integer, with the same shape and type."""

    def mix(self, images: tf.Tensor, labels: Any, seed: tf.Tensor) -> tuple[tf.Tensor, Any]:
        """Mixes a batch `(B, H, W, C)` float32, 0..255, and its labels: `(B, K)` float32, boxes or `None`."""


class RecordedOutputs(Protocol):
    """What the pipeline needs of a teacher's outputs on disk, such as `kd_keras.recording.reader.Recording`."""

    views: int  # the number of views of each example

    def check(self, section: str, current: dict[str, Any]) -> None:
        """Raises ValueError if the recorded views were made with other settings."""

    def __call__(self, view: tf.Tensor, index: tf.Tensor) -> dict[str, Any]:
        """The teacher's taps by name, for a view's number () and example numbers `(B,)` int64."""
