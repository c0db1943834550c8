"""Refuses networks of KerasHub that can be built for images of a shape for which they cannot be computed."""

from __future__ import annotations

import keras

from kd_keras.errors import explain_mismatch
from kd_keras.private_api import sub_layers

ENCODER = "MiTBackbone"  # of SegFormer; its blocks take the square root of the number of tokens for both sides


def check_square_input(network: keras.Model) -> None:
    """Checks that a network with KerasHub's encoder MiT was built for square images.

    Raises:
        ValueError: if it was not; it would fail in its first batch.
    """
    for layer in sub_layers(network):
        shape = getattr(layer, "image_shape", None) if type(layer).__name__ == ENCODER else None
        if shape is not None and shape[0] != shape[1]:
            expected = (
                f"{network.name!r} to be built for square images, because KerasHub's {ENCODER} computes no others"
            )
            advice = "build it by models.build('hub/SegFormerImageSegmenter', ...), which pads images of any size"
            raise ValueError(explain_mismatch(expected, f"one for {shape[0]} x {shape[1]}", advice))
