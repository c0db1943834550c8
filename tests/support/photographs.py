"""Photographs in a folder, a network for each kind of preprocessing, and what its first convolution must read."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import applications, layers

from kd_keras import data
from kd_keras.private_api import sub_layers

SHAPE, CLASSES, COUNT = (32, 32, 3), 2, 8


class Kind(NamedTuple):
    """A network and how its preprocessing is written down elsewhere.

    Attributes:
        options: of the network.
        formula: what its first convolution reads, from pixels in float64.
        stock: the function of keras.applications that builds it, and its `preprocess_input`.
    """

    options: dict
    formula: Callable
    stock: tuple[Any, ...] = ()


MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
BGR = np.array([103.939, 116.779, 123.68])
KINDS = {
    "applications/VGG16": Kind({}, lambda x: x[..., ::-1] - BGR, (applications.VGG16, applications.vgg16)),
    "applications/ResNet50": Kind({}, lambda x: x[..., ::-1] - BGR, (applications.ResNet50, applications.resnet50)),
    "applications/MobileNet": Kind(
        {"alpha": 0.25}, lambda x: x / 127.5 - 1, (applications.MobileNet, applications.mobilenet)
    ),
    "applications/DenseNet121": Kind(
        {}, lambda x: (x / 255 - MEAN) / STD, (applications.DenseNet121, applications.densenet)
    ),
    "applications/MobileNetV3Small": Kind(
        {}, lambda x: x / 127.5 - 1, (applications.MobileNetV3Small, applications.mobilenet_v3)
    ),
    "applications/EfficientNetB0": Kind(
        {}, lambda x: x / 255, (applications.EfficientNetB0, applications.efficientnet)
    ),
    "resnet8": Kind({}, lambda x: (x - x.mean((0, 1, 2))) / x.std((0, 1, 2))),
}
SLOW = ("applications/ResNet50", "applications/DenseNet121", "applications/EfficientNetB0")


def photographs():
    """`(N, H, W, C)` uint8: gradients, an edge and noise, channels that differ, in another light in every one."""
    across, down = np.meshgrid(np.linspace(0, 1, SHAPE[1]), np.linspace(0, 1, SHAPE[0]))
    image = np.stack([255 * across, 200 * down**2 + 40, 255 * (across + down > 1)], axis=-1)
    light = np.random.default_rng(0).uniform(0.3, 1, (COUNT, 1, 1, 3))
    noise = np.random.default_rng(1).normal(scale=20, size=(COUNT, *SHAPE))
    return np.clip(light * image + noise, 0, 255).astype("uint8")


def write_photographs(folder):
    """Writes the photographs as PNG files of two classes and opens them as a user does."""
    for number, photograph in enumerate(photographs()):
        place = folder / ("far" if number < COUNT // 2 else "near") / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(tf.io.encode_png(photograph).numpy())
    return data.load(str(folder), "train")


def marked(name):
    """A name as a parameter of a test; slow if its network is large."""
    return pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())


def front_of(network):
    """A network whose logits are what the first convolution reads, before padding."""
    makers = {id(layer.output): layer for layer in network.layers if not isinstance(layer, layers.InputLayer)}
    first = next(layer for layer in network.layers if any(isinstance(l, layers.Conv2D) for l in sub_layers(layer)))
    tensor = first.input
    while isinstance(makers.get(id(tensor)), layers.ZeroPadding2D):
        tensor = makers[id(tensor)].input
    return keras.Model(network.input, layers.Flatten(name="values")(tensor))
