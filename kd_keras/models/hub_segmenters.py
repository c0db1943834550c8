"""KerasHub's segmentation networks SegFormer and DeepLabV3+, for images of any size.

SegFormer: Xie et al. 2021, 2105.15203. DeepLabV3+: Chen et al. 2018, 1802.02611.

The blocks of KerasHub's SegFormer take the square root of the number of tokens for both sides of the map. Built for an
image that is not square, it has an output of the right shape, but fails at its first batch ("Cannot reshape a tensor").
Both networks also need sides that are multiples of `STRIDE`. They are therefore built for a larger image, in which
zeros are added below and on the right after the preprocessing, and the logits of these zeros are cut off.

In Python, call a SegFormer with `training=False` for predictions: the layer `Resizing` inside has `training=True` by
default, which later layers inherit if the call does not say. `fit`, `predict`, a Distiller and exports do say it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras
from keras import layers

from kd_keras.errors import explain_mismatch
from kd_keras.networks.preprocessing import PixelMap

STRIDE = 32
ENCODERS = {"SegFormerImageSegmenter": "MiTBackbone", "DeepLabV3ImageSegmenter": "ResNetBackbone"}


def padded_size(name: str, height: int, width: int) -> tuple[int, int]:
    """The size for which a network is built: multiples of `STRIDE`, and for SegFormer a square.

    >>> padded_size("SegFormerImageSegmenter", 64, 96), padded_size("DeepLabV3ImageSegmenter", 60, 96)
    ((96, 96), (64, 96))
    """
    sides = [-(-side // STRIDE) * STRIDE for side in (height, width)]
    return (max(sides), max(sides)) if name == "SegFormerImageSegmenter" else (sides[0], sides[1])


def new_segmenter(
    models: Any, name: str, input_shape: tuple[int, int, int], classes: int, options: Mapping[str, Any]
) -> keras.Model:
    """A network of a class of `ENCODERS` with initial weights, for images of `padded_size`.

    Args:
        models: the module `keras_hub.models`.
        name: of the class.
        input_shape: `(H, W, C)` of an image.
        classes: K.
        options: `encoder=`, a dictionary of the arguments of its encoder, and those of its backbone.

    Raises:
        TypeError: if the encoder or the backbone needs other arguments; the message lists those that it takes.
    """
    options = dict(options)
    image_shape = (*padded_size(name, *input_shape[:2]), input_shape[2])
    encoder = _build(getattr(models, ENCODERS[name]), {"image_shape": image_shape, **options.pop("encoder", {})})
    kind = getattr(models, name)
    shape = {"image_shape": image_shape} if "image_shape" in _arguments(kind.backbone_cls) else {}
    backbone = _build(kind.backbone_cls, {"image_encoder": encoder, **shape, **options})
    return kind(backbone=backbone, num_classes=classes)


def resized_segmenter(network: keras.Model, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """A network of a preset for images of `padded_size`, with its weights and, for other classes, a new last layer.

    Raises:
        ValueError: if it is neither SegFormer nor DeepLabV3+.
    """
    name = type(network).__name__
    if name not in ENCODERS:
        expected = f"a preset of {' or '.join(ENCODERS)}"
        raise ValueError(
            explain_mismatch(expected, f"one of {name}, whose logits are not those of classes", "choose another preset")
        )
    image_shape = (*padded_size(name, *input_shape[:2]), input_shape[2])
    config = _with_image_shape(network.get_config(), image_shape) | {"num_classes": classes}
    config |= {"activation": None} if "activation" in config else {}
    config.pop("preprocessor", None)
    copy = type(network).from_config(config)
    for weight, original in zip(copy.weights, network.weights, strict=True):
        if weight.shape == original.shape:
            weight.assign(original)
    return copy


def on_images(network: keras.Model, pixel_map: PixelMap, input_shape: tuple[int, int, int]) -> keras.Model:
    """The network from pixel values `(B, H, W, C)` from 0 to 255 to logits `(B, H, W, K)`, with the padding inside."""
    image = keras.Input(input_shape, name="image")
    height, width = network.input_shape[1:3]
    below, right = height - input_shape[0], width - input_shape[1]
    x = pixel_map.apply(image)
    if not below and not right:
        return keras.Model(image, network(x), name=network.name)
    x = layers.ZeroPadding2D(((0, below), (0, right)), data_format="channels_last", name="padded")(x)
    x = layers.Cropping2D(((0, below), (0, right)), data_format="channels_last", name="cropped")(network(x))
    return keras.Model(image, x, name=network.name)


def _build(kind: Any, options: Mapping[str, Any]) -> Any:
    try:
        return kind(**options)
    except TypeError as error:
        expected = f"the arguments of {kind.__name__}: {', '.join(_arguments(kind))}"
        raise TypeError(explain_mismatch(expected, f"other arguments ({error})")) from error


def _arguments(kind: Any) -> list[str]:
    return list(inspect.signature(kind.__init__).parameters)[1:]


def _with_image_shape(config: Any, image_shape: tuple[int, int, int]) -> Any:
    """A configuration whose networks have another input size."""
    if not isinstance(config, dict):
        return config
    return {
        key: image_shape if key == "image_shape" else _with_image_shape(value, image_shape)
        for key, value in config.items()
    }
