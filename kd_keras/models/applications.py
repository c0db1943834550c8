"""Every classifier of `keras.applications` by its name there, from pixels of 0 to 255 to logits."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kd_keras.errors import explain_mismatch, suggest
from kd_keras.networks.preprocessing import PixelMap, prepend, probe


def names() -> list[str]:
    """The classifiers that `keras.applications` has, as it spells them.

    >>> "ResNet50" in names()
    True
    """
    members = inspect.getmembers(keras.applications, inspect.isfunction)
    return [name for name, function in members if "classifier_activation" in inspect.signature(function).parameters]


def application(
    name: str, input_shape: tuple[int, int, int], classes: int, *, weights: str | None = None, **options: Any
) -> keras.Model:
    """`keras.applications.<name>` from pixel values `(B, H, W, C)` from 0 to 255 to `(B, classes)` logits.

    Networks that contain their preprocessing (EfficientNet, MobileNetV3, ConvNeXt, ...) are not changed. Every other
    network starts with a layer that does what `preprocess_input` of its module does, because its published weights
    expect it. If C is not 3, all channels have the same scale and offset, the mean of those of the three channels.

    Args:
        name: as `keras.applications` spells it, in upper or lower case: `"ResNet50"` or `"resnet50"`.
        input_shape: `(H, W, C)`; most networks need at least 32 pixels, and `weights="imagenet"` needs three channels.
        classes: number of classes K.
        weights: `None`, `"imagenet"` (downloaded by Keras; if K is not 1000, only the backbone is loaded and the
            classifier is new) or a file of weights for the whole model.
        options: further arguments of that constructor (`alpha`, ...).

    Raises:
        ValueError: if the name is unknown, if `include_preprocessing` is False, or if Keras rejects another argument.
    """
    spelled = {known.lower(): known for known in names()}.get(name.lower())
    if spelled is None:
        raise ValueError(explain_mismatch("a classifier of keras.applications", repr(name), suggest(name, names())))
    if not options.get("include_preprocessing", True):
        raise ValueError(
            f"Model 'applications/{spelled}' must contain its preprocessing, because it reads pixels from 0 to 255, "
            "but received include_preprocessing=False. Leave out that option. For another preprocessing, build the "
            "network with keras.applications behind the layers that do it, and pass that model."
        )
    constructor = getattr(keras.applications, spelled)
    if weights == "imagenet" and classes != 1000:
        backbone = constructor(include_top=False, weights=weights, input_shape=input_shape, pooling="avg", **options)
        logits = keras.layers.Dense(classes, name="logits")(backbone.output)
        network = keras.Model(backbone.input, logits, name=backbone.name)
    else:
        options = {"weights": weights, "input_shape": input_shape, "classes": classes} | options
        network = constructor(classifier_activation=None, **options)
    pixel_map = expected_pixels(spelled).for_channels(input_shape[-1])
    return network if pixel_map.is_identity else prepend(network, pixel_map)


@functools.cache
def expected_pixels(name: str) -> PixelMap:
    """The preprocessing with which a network must start: the identity if the network contains it.

    >>> expected_pixels("MobileNet").offset, expected_pixels("EfficientNetB0").is_identity
    ((-1.0, -1.0, -1.0), True)
    """
    return probe(functools.partial(preprocess_input(name), data_format="channels_last"))


def preprocess_input(name: str) -> Callable[..., np.ndarray]:
    """The function `preprocess_input` of the module of `keras.applications` that a network comes from."""
    # Some of these modules do not offer their constructors, but all have the name of the file that defines them.
    module = getattr(keras.applications, name).__module__.rpartition(".")[2]
    return dict(inspect.getmembers(keras.applications, inspect.ismodule))[module].preprocess_input
