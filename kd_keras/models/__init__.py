"""The zoo: one architecture family a file, each a function `name(input_shape, classes) -> keras.Model` with logits."""

from __future__ import annotations

import sys

import keras

from kd_keras.errors import explain_mismatch, suggest
from kd_keras.models import applications
from kd_keras.models.hub import hub
from kd_keras.models.mlp import mlp
from kd_keras.models.mobilenet_v1 import mobilenet_v1
from kd_keras.models.mobilenet_v2 import mobilenet_v2
from kd_keras.models.mobilenet_v3 import mobilenet_v3_small
from kd_keras.models.multi_exit import EarlyExit, exit_count, multi_exit, single_exit
from kd_keras.models.resnet import (
    resnet8,
    resnet8x4,
    resnet14,
    resnet18,
    resnet20,
    resnet32,
    resnet32x4,
    resnet34,
    resnet44,
    resnet50,
    resnet56,
    resnet110,
)
from kd_keras.models.shufflenet_v1 import shufflenet_v1, shufflenet_v1_imagenet
from kd_keras.models.shufflenet_v2 import shufflenet_v2, shufflenet_v2_imagenet
from kd_keras.models.vgg import vgg8, vgg11, vgg13, vgg16, vgg19
from kd_keras.models.wide_resnet import wrn_16_1, wrn_16_2, wrn_40_1, wrn_40_2

__all__ = (
    "EarlyExit",
    "build",
    "exit_count",
    "mlp",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "multi_exit",
    "names",
    "resnet8",
    "resnet8x4",
    "resnet14",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet32x4",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet110",
    "shufflenet_v1",
    "shufflenet_v1_imagenet",
    "shufflenet_v2",
    "shufflenet_v2_imagenet",
    "single_exit",
    "vgg8",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "wrn_16_1",
    "wrn_16_2",
    "wrn_40_1",
    "wrn_40_2",
)
NO_MODEL = ("EarlyExit", "build", "exit_count", "multi_exit", "names", "single_exit")
ZOO = tuple(name for name in __all__ if name not in NO_MODEL)


def names() -> list[str]:
    """Every name that `build` knows by itself: the zoo's own and `applications/<name>`; `hub/<name>` comes on top."""
    return [*ZOO, *(f"applications/{name}" for name in applications.names())]


def build(name: str, input_shape: tuple[int, ...], classes: int, **options) -> keras.Model:
    """Builds a model of the zoo by name.

    Args:
        name: one of `names()`, e.g. `"resnet20"`, `"mobilenet_v2"` or `"applications/ResNet50"`; with KerasHub
            installed `"hub/<preset or class>"`; `"multi_exit/<any of these>"` for one with a classifier at each stage.
        input_shape: `(H, W, C)` of an image.
        classes: number of classes K.
        options: what that architecture takes beside: `width=` for the mobile networks, `hidden=` for mlp, `weights=`
            for applications and presets.

    Returns:
        A Functional model from `(B, H, W, C)` float images to `(B, K)` logits.

    Raises:
        ValueError: for an unknown name (with the nearest ones), a shape that is not three positive numbers, or
            fewer than two classes.
        TypeError: for an option that the architecture does not take.
        ImportError: for a model of KerasHub where that is not installed.

    >>> build("mlp", (8, 8, 1), 10, hidden=(16,)).output_shape
    (None, 10)
    """
    if len(input_shape) != 3 or not all(isinstance(size, int) and size > 0 for size in input_shape):
        raise ValueError(explain_mismatch("an image shape (height, width, channels), all positive", repr(input_shape)))
    if classes < 2:
        raise ValueError(explain_mismatch("at least two classes", str(classes)))
    family, _, member = name.partition("/")
    if family == "applications" and member:
        return applications.application(member, input_shape, classes, **options)
    if family == "hub" and member:
        return hub(member, input_shape, classes, **options)
    if family == "multi_exit" and member:
        return multi_exit(build(member, input_shape, classes, **options))
    if name not in ZOO:
        raise ValueError(explain_mismatch("a model of the zoo", repr(name), suggest(name, names())))
    return getattr(sys.modules[__name__], name)(input_shape, classes, **options)
