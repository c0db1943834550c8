"""A network of another resolution than its images: its first layer resizes them."""

from __future__ import annotations

import keras

from kd_keras.errors import explain_mismatch
from kd_keras.networks.preprocessing import continue_from


def resized(network: keras.Model, input_shape: tuple[int, ...]) -> keras.Model:
    """A model of the same layers that first resizes its images, bilinearly. Do not use `network` afterwards.

    A lower resolution makes a network faster, but not smaller: Howard et al. 2017, 1704.04861, section 3.4.

    Args:
        network: a Functional model of images `(B, h, w, C)`.
        input_shape: `(H, W, C)` of the images that the new model reads.

    Raises:
        ValueError: if the numbers of channels differ.

    >>> from kd_keras.models import mlp
    >>> model = resized(mlp((4, 4, 1), 10), (8, 8, 1))
    >>> model.input_shape, model.output_shape
    ((None, 8, 8, 1), (None, 10))
    """
    height, width, channels = network.input_shape[1:]
    if channels != input_shape[-1]:
        advice = "build the network for images with as many channels"
        raise ValueError(explain_mismatch(f"{channels} channels", str(input_shape[-1]), advice))
    image = keras.Input(input_shape, name="image")
    resize = keras.layers.Resizing(height, width, interpolation="bilinear", dtype="float32", name="resize")
    # Its default training=True would put the BatchNorm layers after it into training mode whenever the model is called.
    x = resize(image, training=False)
    return continue_from(x, image, network)
