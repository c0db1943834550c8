"""A teacher that is any function from images to outputs, such as a file of another runtime or a server.

It is no part of a TensorFlow graph, so a student cannot be trained from it directly. It is recorded first, and the
recording is the teacher: a slow or paid function is asked once for each view of an image.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from kd_keras.contracts import Outputs, TapSpec
from kd_keras.errors import check_choice, check_integers, explain_mismatch, shorten
from kd_keras.functions.outputs import check_outputs
from kd_keras.functions.pixel_range import range_identity
from kd_keras.networks.heads import logits_of, recognize_probabilities
from kd_keras.networks.specs import Specs

TAPS = ("logits", "embedding")
TOLERANCE = 1e-2  # of the sum of probabilities

Ask: TypeAlias = Callable[[np.ndarray, np.ndarray], Any]  # images (B, H, W, C) float32 and example numbers (B,)


@dataclass(frozen=True)
class Origin:
    """Where the outputs of a function come from.

    Attributes:
        name: the function in the words of a message.
        identity: plain values that differ if the function is another one; a recording is compared with them.
        class_names: the names of its classes in the order of its outputs, or `None` if they are not known.
        has_only_originals: whether it has outputs for the images of a dataset, but not for views of them.
        rows: the number of its outputs if output n belongs to example n, else `None`; a recording must then have as
            many examples.
    """

    name: str
    identity: Mapping[str, Any]
    class_names: Sequence[str] | None = None
    has_only_originals: bool = False
    rows: int | None = None


class FunctionTeacher:
    """A function as a teacher, for `kd_keras.record`; `Teacher.onnx`, `Teacher.served` and others make one.

    Args:
        ask: from images `(B, H, W, C)` float32, 0..255, after `preprocess`, and example numbers `(B,)` to outputs
            `(B, ...)`.
        origin: where the outputs come from.
        tap: what the outputs are: "logits" `(B, ..., K)` or "embedding" `(B, D)`.
        probabilities: whether the function returns probabilities of K classes instead of logits; their logarithm is
            recorded.
        preprocess: a function from NumPy images `(B, H, W, C)` float32, 0..255, to what the function reads.
        class_order: as for `Teacher`: for each class of the student its position among the function's classes.

    Raises:
        TypeError: if `preprocess` is no function.
        ValueError: if the tap is unknown, `probabilities` or `class_order` is passed with an embedding, or a position
            is negative or repeated.

    >>> teacher = python_teacher(lambda images: images.mean((1, 2)))
    >>> ready = teacher.tapped(["logits"]).probed(np.ones((2, 4, 4, 3), "float32"), np.arange(2), classes=3)
    >>> ready.specs["logits"].shape
    (None, 3)
    """

    def __init__(
        self,
        ask: Ask,
        origin: Origin,
        *,
        tap: str = "logits",
        probabilities: bool = False,
        preprocess: Callable[[np.ndarray], np.ndarray] | None = None,
        class_order: Sequence[int] | None = None,
    ):
        if preprocess is not None and not callable(preprocess):
            raise TypeError(f"Teacher(preprocess=...) must be a function, but received {shorten(preprocess)}.")
        self.tap = check_choice("Teacher", "tap", tap, TAPS)
        self.origin, self._ask, self._preprocess, self._probabilities = origin, ask, preprocess, bool(probabilities)
        self.class_order: list[int] | None = None
        self.specs = Specs({})
        self._first: tuple[np.ndarray, np.ndarray] | None = None  # the images and the outputs of `probed`
        if tap != "logits" and (probabilities or class_order is not None):
            raise ValueError("probabilities= and class_order= describe logits, but received tap='embedding'.")
        if class_order is not None:
            self._set_class_order(check_integers("Teacher", "class_order", class_order))

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies the teacher in the plan of a recording; a `preprocess` of the user's is not part of it."""
        given = {"tap": self.tap, "probabilities": self._probabilities, "class_order": self.class_order}
        return {**self.origin.identity, **given, "range": range_identity(self._preprocess)}

    def ordered(self, class_order: Sequence[int] | None) -> FunctionTeacher:
        """The same teacher with the classes of the images, unless it was made with a `class_order` of its own."""
        if class_order is None or self.class_order is not None or self.tap != "logits":
            return self
        teacher = copy.copy(self)
        teacher._set_class_order(list(class_order))
        return teacher

    def _set_class_order(self, order: list[int]) -> None:
        if min(order, default=-1) < 0 or len(set(order)) < len(order):
            raise ValueError(
                "Teacher(class_order=...) must be different positions of classes, counted from 0, but received "
                f"{shorten(order)}."
            )
        self.class_order = order

    def tapped(self, wanted: Iterable[str]) -> FunctionTeacher:
        """The same teacher, if the wanted taps are what it delivers.

        Raises:
            ValueError: if another tap is wanted.
        """
        missing = [tap for tap in wanted if tap != self.tap]
        if missing:
            advice = "choose methods that read it, record a Keras model, or pass tap= if its outputs are something else"
            received = f"{self.origin.name}, which has only {self.tap!r}"
            raise ValueError(explain_mismatch(f"a teacher with the taps {', '.join(missing)}", received, advice))
        return self

    def probed(self, images: np.ndarray, index: np.ndarray, classes: int | None) -> FunctionTeacher:
        """Asks for one batch and checks the outputs, which the next call for the same images returns.

        Args:
            images: `(B, H, W, C)` float32, 0..255.
            index: `(B,)` example numbers.
            classes: K, the number of classes of the images, or `None` if they have no labels.

        Returns:
            The same teacher with its `specs`.

        Raises:
            ValueError: if the outputs have another shape or type, are not finite, or are probabilities where logits are
                expected or the reverse.
        """
        outputs = self._outputs(images, index)
        teacher = self.with_specs(Specs({self.tap: self._spec(outputs.shape)}), classes)
        teacher._first = (images, outputs)
        return teacher

    def with_specs(self, specs: Specs, classes: int | None) -> FunctionTeacher:
        """The same teacher with specifications that are known, for example from its recording.

        Raises:
            ValueError: if it has another number of classes than the images.
        """
        shape = specs[self.tap].shape
        if self.tap == "logits" and classes is not None and shape[-1] != classes:
            received = f"{shape[-1]} classes in outputs of shape {shape}"
            advice = "pass class_order= with the position of each class of the images, or another teacher"
            raise ValueError(
                explain_mismatch(f"{classes} classes, those of the images, of {self.origin.name}", received, advice)
            )
        teacher = copy.copy(self)
        teacher.specs = specs
        return teacher

    def __call__(self, images: np.ndarray, index: np.ndarray) -> Outputs:
        """The outputs `(B, ...)` float32 by tap for one batch.

        Raises:
            ValueError: if they have another shape than those of the first batch, or are not finite.
        """
        first, self._first = self._first, None
        outputs = first[1] if first and np.array_equal(first[0], images) else self._outputs(images, index)
        expected = self.specs[self.tap].shape
        if outputs.shape[1:] != tuple(expected[1:]):
            received = f"outputs of shape {outputs.shape}"
            raise ValueError(
                explain_mismatch(f"outputs of shape {expected} as before from {self.origin.name}", received)
            )
        return Outputs({self.tap: outputs})

    def _spec(self, shape: tuple[int, ...]) -> TapSpec:
        activation = "" if self.tap != "logits" else "softmax" if self._probabilities else "linear"
        return TapSpec(self.origin.name, (None, *shape[1:]), activation)

    def _outputs(self, images: np.ndarray, index: np.ndarray) -> np.ndarray:
        ready = images if self._preprocess is None else np.asarray(self._preprocess(images))
        outputs = check_outputs(self._ask(ready, index), len(index), self.origin.name)
        if self.tap != "logits":
            return outputs
        looks_like = recognize_probabilities(outputs)
        if self._probabilities:
            if looks_like != "softmax" or np.abs(outputs.sum(-1) - 1).max() > TOLERANCE:
                low, high = outputs.sum(-1).min(), outputs.sum(-1).max()
                received = f"values from {outputs.min():.4g} to {outputs.max():.4g} with sums from {low:.4g} to"
                received += f" {high:.4g}"
                advice = "leave out probabilities=True if they are logits"
                expected = f"probabilities that sum to 1 from {self.origin.name}"
                raise ValueError(explain_mismatch(expected, received, advice))
            outputs = logits_of(outputs, "softmax")
        elif looks_like == "softmax":
            received = "rows without negative values that all have the same sum, as probabilities"
            advice = "pass probabilities=True, or output= with the name of the logits"
            raise ValueError(explain_mismatch(f"logits from {self.origin.name}", received, advice))
        return self._reordered(outputs)

    def _reordered(self, logits: np.ndarray) -> np.ndarray:
        if self.class_order is None:
            return logits
        if max(self.class_order) >= logits.shape[-1]:
            raise ValueError(
                f"Teacher(class_order=...) must be positions below {logits.shape[-1]}, the class count of "
                f"{self.origin.name}, but received {max(self.class_order)}."
            )
        return logits[..., self.class_order]


def python_teacher(
    function: Callable[[np.ndarray], Any], *, name: str | None = None, **options: Any
) -> FunctionTeacher:
    """A Python function as a teacher.

    Args:
        function: from images `(B, H, W, C)` float32, 0..255, as NumPy array, to outputs `(B, ...)`: an array, a tensor
            on the CPU, or nested lists.
        name: identifies the function in a recording, because its code and weights cannot be compared; by default its
            qualified name.
        **options: `tap`, `probabilities`, `preprocess` and `class_order` of `FunctionTeacher`.

    >>> python_teacher(lambda images: images.mean((1, 2)), name="mean").origin.name
    "the function 'mean'"
    """
    name = name or getattr(function, "__qualname__", type(function).__qualname__)
    origin = Origin(f"the function {name!r}", {"function": name})
    return FunctionTeacher(lambda images, index: function(images), origin, **options)


def refuse_live(teacher: Any) -> None:
    """Raises a ValueError if a teacher must be recorded before a student can be trained from it."""
    if isinstance(teacher, FunctionTeacher):
        raise must_be_recorded(teacher.origin.name)


def must_be_recorded(name: str) -> ValueError:
    """The error for a function, in the words of a message, from which a student is to be trained directly."""
    return ValueError(
        f"A student cannot be trained directly from {name}, which is no TensorFlow graph. Record it first with "
        "kd_keras.record (in the shell experiments.record), and pass recording= instead of teacher=."
    )
