"""What the parts of this folder share: a source of examples, and what the pipeline asks of an augmentation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Protocol

import tensorflow as tf

from kd_keras.errors import explain_mismatch


@dataclass(frozen=True, eq=False)
class Source:
    """One split of a dataset, one example at a time, always in the same order.

    Attributes:
        examples: dictionaries of `image` `(H, W, C)` uint8, `index` () int64 and, where there are labels, `label` ()
            int64. `index` counts from 0 in reading order, which is the same in each epoch and each run: it names an
            example for as long as the dataset is unchanged.
        name: the dataset's name, or its folder.
        size: how many examples there are.
        classes: K, or `None` where there are no labels.
        class_names: K names in the order of the labels, or `None`.
        image_shape: `(H, W, C)`, or `None` where images differ in size.
        version: what else says which examples these are: a version and a split, or a digest of the files.
        files: how many files the examples lie in.
        between: from `begin` and `end` to those of the examples, in the same form and with the same indices, without
            opening a file that holds none of them; `None` where that cannot be done.

    Raises:
        ValueError: where `examples` is not a dataset of such dictionaries.

    >>> examples = tf.data.Dataset.from_tensor_slices({"image": tf.zeros((2, 4, 4, 1), tf.uint8), "index": [0, 1]})
    >>> examples = examples.map(lambda one: {**one, "index": tf.cast(one["index"], tf.int64)})
    >>> Source(examples, name="black", size=2, image_shape=(4, 4, 1)).labelled
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
    between: Callable[[int, int], tf.data.Dataset] | None = None

    def __post_init__(self):
        spec = self.examples.element_spec
        types = {key: value.dtype.name for key, value in spec.items()} if isinstance(spec, dict) else spec
        needed = {"image": "uint8", "index": "int64", "label": "int64"}
        required = {"image": "uint8", "index": "int64"}
        if not isinstance(types, dict) or not required.items() <= types.items() <= needed.items():
            raise ValueError(explain_mismatch(f"examples {needed}, label only where there are labels", str(types)))

    @property
    def labelled(self) -> bool:
        """Whether the examples have labels."""
        return "label" in self.examples.element_spec

    def lanes(self, count: int) -> list[Source]:
        """So many consecutive parts of the source, the first ones longer by one example where it does not divide.

        Raises:
            ValueError: where the source cannot be read in parts.
        """
        if self.between is None or not 1 <= count <= self.size:
            came = f"{self.name}, {self.size} examples in {self.files} files, in {count} parts"
            raise ValueError(explain_mismatch("a source that can be read in parts", came))
        sizes = [self.size // count + (number < self.size % count) for number in range(count)]
        ends = list(itertools.accumulate(sizes))
        parts = [(self.between(end - size, end), size) for size, end in zip(sizes, ends)]
        return [replace(self, examples=examples, size=size, between=None) for examples, size in parts]

    def without(self, classes: Collection[int]) -> Source:
        """The examples that are of none of these classes, counted anew; K and the names stay.

        A student that learns from a teacher on such a transfer set has never seen those classes (Hinton, Vinyals and
        Dean 2015, 1503.02531, section 3). The labels are read once, here.

        Args:
            classes: numbers from 0 to K - 1.

        Raises:
            ValueError: where there are no labels, for a class that there is not, and where nothing is left.

        >>> examples = tf.data.Dataset.range(6).map(
        ...     lambda i: {"image": tf.zeros((4, 4, 1), tf.uint8), "label": i % 3, "index": i})
        >>> Source(examples, name="black", size=6, classes=3, image_shape=(4, 4, 1)).without([1]).size
        4
        """
        if not self.labelled:
            raise ValueError(explain_mismatch("labels, to leave out classes", f"{self.name}, which has none"))
        beyond = [number for number in classes if not 0 <= number < (self.classes or number + 1)]
        if beyond:
            raise ValueError(explain_mismatch(f"classes from 0 to {self.classes - 1} of {self.name}", str(beyond)))
        out = tf.constant(sorted(classes), tf.int64)
        kept = self.examples.filter(lambda one: not tf.reduce_any(one["label"] == out))
        size = int(kept.reduce(tf.constant(0, tf.int64), lambda count, _: count + 1))
        if not size:
            raise ValueError(explain_mismatch(f"a class of {self.name} that is kept", f"all {self.classes} left out"))
        numbered = kept.enumerate().map(lambda number, one: {**one, "index": number}, deterministic=True)
        version = f"{self.version} without {sorted(classes)}"
        return replace(self, examples=numbered, size=size, version=version, files=1, between=None)


class Views(Protocol):
    """What the pipeline asks of an augmentation; `kd_keras.data.Augmentation` is one, a user's own may be another.

    Both functions must give the same result for the same arguments, so that a view can be made again.
    """

    changes_images: bool  # whether `view` does anything at all
    mixes: bool  # whether `mix` does: labels are then one-hot

    def view(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """From one image `(H, W, C)` uint8 and a seed `(2,)` integer to its view, of the same shape and type."""

    def mix(
        self, images: tf.Tensor, labels: tf.Tensor | None, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """From a batch `(B, H, W, C)` float32 with labels `(B, K)` float32 or `None` to the mixed ones."""


class Recorded(Protocol):
    """What the pipeline asks of a teacher's outputs on disk; `kd_keras.recording.reader.Recording` is one."""

    views: int  # how many of every example

    def check(self, section: str, now: dict[str, Any]) -> None:
        """Raises ValueError where the recorded views do not follow from the same values."""

    def __call__(self, view: tf.Tensor, index: tf.Tensor) -> dict[str, Any]:
        """From a view's number () and examples `(B,)` int64 to the teacher's taps by name."""
