"""What identifies a teacher, a file and the software, and the differences between two descriptions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import keras
import numpy as np

from kd_keras.contracts import Outputs
from kd_keras.functions.pixel_range import range_identity
from kd_keras.functions.teacher import FunctionTeacher
from kd_keras.networks.foreign import ForeignFunction
from kd_keras.networks.specs import Specs
from kd_keras.private_api import sub_layers

PACKAGES = ("tensorflow", "keras", "kd_keras")


class LiveTeacher(Protocol):
    """What this room needs of a live `Teacher`."""

    combine: str
    specs: Specs

    @property
    def preprocess(self) -> Sequence[Callable | None]:
        """For each network the function that maps the student's images to its own, or `None`."""

    @property
    def networks(self) -> Sequence[keras.Model]:
        """The networks, one or several."""

    @property
    def weights(self) -> Sequence[float] | Sequence[Sequence[float]] | str:
        """The weight of each network, those of the classes for each network, or a text if they depend on labels."""

    @property
    def class_order(self) -> Sequence[int] | None:
        """For each class of the student its position among the teacher's classes; `None` if they are the same."""

    def tapped(self, wanted: Iterable[str]) -> LiveTeacher:
        """The same teacher, which then returns the wanted taps."""

    def __call__(self, inputs: Any, /) -> Outputs:
        """The taps for images `(B, H, W, C)` float32, 0..255."""


def software_versions() -> dict[str, str]:
    """The versions of the software, which a recording stores.

    >>> sorted(software_versions())
    ['kd_keras', 'keras', 'tensorflow']
    """
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def teacher_identity(teacher: LiveTeacher | FunctionTeacher) -> dict[str, Any]:
    """What identifies a `Teacher`: the weights of its networks and how they are combined.

    A user's `preprocess` function is not part of the identity. If a live teacher is passed together with its
    recording, `Recording.compare` detects a changed function on a batch of images. If a recording is resumed, a changed
    function is not detected.

    Raises:
        ValueError: if the weights of its networks depend on the labels, which a recording does not know.
    """
    if isinstance(teacher, FunctionTeacher):
        return teacher.identity
    if isinstance(teacher.weights, str):
        raise ValueError(
            "A recording needs a teacher whose outputs depend on the images alone, but received "
            f"Teacher(weights={teacher.weights!r}). Use this teacher live, or give each network a weight."
        )
    ranges = [range_identity(preprocess) for preprocess in teacher.preprocess]
    has_several = len(teacher.networks) > 1
    return {
        "weights": [weights_digest(network) for network in teacher.networks],
        "combine": [teacher.combine, list(teacher.weights)] if has_several else "one network",
        "class_order": teacher.class_order,
        "range": ranges if any(ranges) else None,
    }


def weights_digest(network: keras.Model) -> str:
    """SHA-256 of a network's weights, with their shapes and dtypes, in order.

    >>> network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    >>> len(weights_digest(network))
    64
    """
    digest = hashlib.sha256()
    for variable in network.weights:
        array = np.asarray(variable)
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    for layer in sub_layers(network):
        if isinstance(layer, ForeignFunction):
            digest.update(layer.digest.encode())
    return digest.hexdigest()


def describe_changes(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """The differences between two dictionaries of plain values as a text, which is empty if there are none.

    >>> describe_changes({"seed": 0, "augmentation": "none"}, {"seed": 1, "augmentation": "none"})
    'seed: recorded 0, now 1'
    """
    current = json.loads(json.dumps(current))  # tuples become lists, as in the file
    names = [name for name in {**recorded, **current} if recorded.get(name) != current.get(name)]
    return "; ".join(f"{name}: recorded {recorded.get(name)}, now {current.get(name)}" for name in names)
