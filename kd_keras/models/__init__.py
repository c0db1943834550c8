"""The zoo: one architecture family a file, each a function `name(input_shape, classes) -> keras.Model`.

Every network reads float32 pixel values from 0 to 255 and returns logits; its first layers are its preprocessing.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from kd_keras.errors import check_whole_number, explain_mismatch, suggest
from kd_keras.models import applications
from kd_keras.models.cohort import cohort
from kd_keras.models.detector import Detector, detector
from kd_keras.models.embedder import Recognizer, embedder, recognizer
from kd_keras.models.hub import hub
from kd_keras.models.hub_detector import hub_detector
from kd_keras.models.mlp import mlp
from kd_keras.models.mobilefacenet import mobilefacenet
from kd_keras.models.mobilenet_v1 import mobilenet_v1
from kd_keras.models.mobilenet_v2 import mobilenet_v2
from kd_keras.models.mobilenet_v3 import mobilenet_v3_small
from kd_keras.models.multi_exit import EarlyExit, exit_count, multi_exit, single_exit
from kd_keras.models.resized import resized
from kd_keras.models.resnet import (
    resnet8,
    resnet8x4,
    resnet14,
    resnet18,
    resnet18_imagenet,
    resnet20,
    resnet32,
    resnet32x4,
    resnet34,
    resnet34_imagenet,
    resnet44,
    resnet50,
    resnet50_imagenet,
    resnet56,
    resnet110,
)
from kd_keras.models.segmenter import segmenter
from kd_keras.models.shufflenet_v1 import shufflenet_v1, shufflenet_v1_imagenet
from kd_keras.models.shufflenet_v2 import shufflenet_v2, shufflenet_v2_imagenet
from kd_keras.models.vgg import vgg8, vgg11, vgg13, vgg16, vgg19
from kd_keras.models.vit import deit_small, deit_tiny, vit_lite
from kd_keras.models.wide_resnet import wrn_16_1, wrn_16_2, wrn_40_1, wrn_40_2
from kd_keras.networks.preprocessing import PixelStatistics

__all__ = (
    "Detector",
    "EarlyExit",
    "Recognizer",
    "build",
    "cohort",
    "deit_small",
    "deit_tiny",
    "detector",
    "embedder",
    "exit_count",
    "hub_detector",
    "mlp",
    "mobilefacenet",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "multi_exit",
    "names",
    "recognizer",
    "resnet8",
    "resnet8x4",
    "resnet14",
    "resnet18",
    "resnet18_imagenet",
    "resnet20",
    "resnet32",
    "resnet32x4",
    "resnet34",
    "resnet34_imagenet",
    "resnet44",
    "resnet50",
    "resnet50_imagenet",
    "resnet56",
    "resnet110",
    "resized",
    "segmenter",
    "shufflenet_v1",
    "shufflenet_v1_imagenet",
    "shufflenet_v2",
    "shufflenet_v2_imagenet",
    "single_exit",
    "takes_normalization",
    "vgg8",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "vit_lite",
    "wrn_16_1",
    "wrn_16_2",
    "wrn_40_1",
    "wrn_40_2",
)
NO_MODEL = (
    "Detector", "EarlyExit", "Recognizer", "build", "cohort", "detector", "embedder", "exit_count", "hub_detector",
    "multi_exit", "names", "recognizer", "resized", "segmenter", "single_exit", "takes_normalization",
)  # fmt: skip
ZOO = tuple(name for name in __all__ if name not in NO_MODEL)
# What is built on a network of the zoo by a name such as "detector/resnet20".
HEADS: dict[str, tuple[Callable[..., keras.Model], ...]] = {
    "detector": (detector,),
    "segmenter": (segmenter,),
    "embedder": (embedder, recognizer),
}
FAMILIES = ("multi_exit", *HEADS)  # before the name of a network: multi_exit/resnet20


def names() -> list[str]:
    """Every name that `build` knows without KerasHub: the zoo's names and `applications/<name>`."""
    return [*ZOO, *(f"applications/{name}" for name in applications.names())]


def takes_normalization(name: str) -> bool:
    """Whether `build` takes pixel statistics for a name.

    It does for networks of the zoo, also as `multi_exit/<name>`, `detector/<name>`, `segmenter/<name>` or
    `embedder/<name>`, because their normalization is fitted to the training data. It does not for `applications/<name>`
    and `hub/<name>`, because their weights expect a certain preprocessing.

    >>> takes_normalization("resnet20"), takes_normalization("applications/ResNet50")
    (True, False)
    """
    family, _, member = name.rpartition("/")
    return member in ZOO and family in ("", *FAMILIES)


def build(
    name: str,
    input_shape: tuple[int, ...],
    classes: int,
    normalization: PixelStatistics | None = None,
    **options: Any,
) -> keras.Model:
    """Builds a model of the zoo by name; its first layers are its preprocessing.

    Args:
        name: one of `names()`, for example `"resnet20"` or `"applications/ResNet50"`; if KerasHub is installed, also
            `"hub/<preset or class>"`; `"multi_exit/<any of these>"` builds it with a classifier at each stage,
            `"detector/<any of these>"` a detector and `"segmenter/<any of these>"` a segmentation network on its
            stages, and `"embedder/<any of these>"` a `recognizer` of identities.
        input_shape: `(H, W, C)` of an image.
        classes: number of classes K, at least 2; of a detector or a recognizer at least 1.
        normalization: the mean and the standard deviation of the training images' pixels, only for names for which
            `takes_normalization` is true; by default a mean of 127.5 and a standard deviation of 63.75.
        options: further arguments of that architecture: `width=` for the mobile networks, `hidden=` for mlp,
            `weights=` for applications and presets. Every classifier takes `resolution=`, height and width in pixels to
            which it first resizes its images. Those of a detector are `head=`, `pyramid=`, `width=`, `depth=`,
            `anchor_scale=`, `anchors=` and `box_loss=` of `detector`; those of a segmentation network are `head=`,
            `levels=`, `width=`, `rates=` and `dropout=` of `segmenter`; those of a recognizer are `dimension=`,
            `dropout=` and `pooling=` of `embedder`, and `head=`, `scale=` and `margin=` of `recognizer`. All of these
            take `backbone=`, a dictionary of the options of the network.

    Returns:
        A Functional model from images `(B, H, W, C)`, float32 pixel values from 0 to 255, to logits `(B, K)`; a
        segmentation network to logits `(B, H, W, K)`; a detector or a recognizer has the outputs that `detector` or
        `recognizer` describes.

    Raises:
        ValueError: if the name is unknown (the message suggests the closest ones), the shape is not three positive
            numbers, there are fewer than two classes, or there is a normalization for a network with a certain
            preprocessing.
        TypeError: if the architecture does not take an option.
        ImportError: if the name is of KerasHub and KerasHub is not installed.

    >>> build("mlp", (8, 8, 1), 10, hidden=(16,)).output_shape
    (None, 10)
    """
    if len(input_shape) != 3 or not all(isinstance(size, int) and size > 0 for size in input_shape):
        expected = "an input_shape (height, width, channels) of positive integers"
        raise ValueError(explain_mismatch(expected, repr(input_shape), "pass for example (32, 32, 3)"))
    family, _, member = name.partition("/")
    if member and family in HEADS:
        _check_head_options(name, [option for part in HEADS[family] for option in _options_of(part)], options)
    if family == "detector" and member:
        backbone = build(member, input_shape, max(classes, 2), normalization, **options.pop("backbone", {}))
        return detector(backbone, classes, **options)
    if family == "segmenter" and member:
        backbone = build(member, input_shape, max(classes, 2), normalization, **options.pop("backbone", {}))
        return segmenter(backbone, classes, **options)
    if family == "embedder" and member:
        network = build(member, input_shape, max(classes, 2), normalization, **options.pop("backbone", {}))
        own = {key: options.pop(key) for key in ("dimension", "dropout", "pooling") if key in options}
        return recognizer(embedder(network, **own), classes, **options)
    if classes < 2:
        raise ValueError(explain_mismatch("at least two classes", str(classes), "give a binary model two logits"))
    if "resolution" in options:
        size = check_whole_number("build", "resolution", options.pop("resolution"))
        network = build(name, (size, size, input_shape[-1]), classes, normalization, **options)
        return resized(network, input_shape)
    if family == "multi_exit" and member:
        return multi_exit(build(member, input_shape, classes, normalization, **options))
    if family in ("applications", "hub") and member:
        if normalization is not None:
            raise ValueError(
                f"Model {name!r} starts with the preprocessing that its weights expect, but received "
                f"normalization={normalization}. Leave normalization out."
            )
        kind = applications.application if family == "applications" else hub
        return kind(member, input_shape, classes, **options)
    if name not in ZOO:
        raise ValueError(explain_mismatch("a model of the zoo", repr(name), suggest(name, names())))
    return getattr(sys.modules[__name__], name)(input_shape, classes, normalization=normalization, **options)


def _options_of(head: Callable[..., keras.Model]) -> list[str]:
    """The names of the options of a function that builds on a network, without the name of the result."""
    parameters = inspect.signature(head).parameters.values()
    options = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    return [option for option in options if option != "name"]


def _check_head_options(name: str, accepted: Sequence[str], options: Mapping[str, Any]) -> None:
    """Rejects options that the head does not take, before its network is built."""
    unknown = [option for option in options if option not in (*accepted, "backbone")]
    if unknown:
        raise TypeError(
            f"{name!r} takes the options {', '.join(accepted)}, but received {', '.join(unknown)}. "
            "Options of the network belong in backbone={...}."
        )
