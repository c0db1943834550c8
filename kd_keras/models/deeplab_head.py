"""The DeepLabV3+ head: atrous separable convolutions at several rates, and a decoder with an early stage.

Chen et al. 2018, *Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation*, 1802.02611,
sections 3.1 and 3.2, with BatchNorm and ReLU after the depthwise and after the pointwise convolution, as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from kd_keras.contracts import Tensor
from kd_keras.errors import check_integers, explain_mismatch
from kd_keras.models.base import conv_bn, depthwise_bn
from kd_keras.primitives import resize_bilinear

RATES = (6, 12, 18)  # published for maps of 33 x 33, the stride 16 of crops of 513 pixels
PUBLISHED_SIDE = 33
FINE_SHARE = 48 / 256  # of the width: the channels to which the decoder reduces the fine map


def deeplab_features(
    fine: Tensor, coarse: Tensor, width: int, rates: Sequence[int] | None = None, dropout: float = 0.0
) -> Tensor:
    """The features before the logits at the size of the fine map, the output of the layer "segmentation_features".

    The coarse map passes a 1x1 convolution, a separable 3x3 convolution for each rate, and a mean over its positions;
    their concatenation, reduced by a 1x1 convolution, is the layer "aspp". Enlarged and concatenated with the reduced
    fine map it passes two separable 3x3 convolutions.

    Args:
        fine: `(B, h, w, C)`.
        coarse: `(B, h', w', C')`.
        width: the number of channels.
        rates: the atrous rates, `fitting_rates` of the coarse map by default.
        dropout: the share of the layer "aspp" that training drops.

    Returns:
        `(B, h, w, width)`.

    Raises:
        ValueError: if a rate is below 1 or not below the longer side of the coarse map.
    """
    height, length = coarse.shape[1:3]
    rates = fitting_rates(height, length) if rates is None else _check_rates(rates, height, length)
    branches = [_conv_bn_relu(coarse, width, "aspp_point")]
    branches += [_separable(coarse, width, f"aspp_rate{rate}", rate) for rate in rates]
    pooled = layers.GlobalAveragePooling2D(keepdims=True, name="aspp_pool")(coarse)
    pooled = _conv_bn_relu(pooled, width, "aspp_image")
    branches.append(layers.UpSampling2D((height, length), name="aspp_image_everywhere")(pooled))
    x = _conv_bn_relu(layers.Concatenate(name="aspp_branches")(branches), width, "aspp")
    x = layers.Dropout(dropout, name="aspp_dropout")(x) if dropout else x
    size = fine.shape[1:3]
    if tuple(size) != (height, length):
        x = ResizedMap(size, name="aspp_resized")(x)
    detail = _conv_bn_relu(fine, max(1, round(width * FINE_SHARE)), "decoder_fine")
    x = layers.Concatenate(name="decoder_concat")([x, detail])
    x = _separable(x, width, "decoder1")
    return layers.Identity(name="segmentation_features")(_separable(x, width, "decoder2"))


@keras.saving.register_keras_serializable("kd_keras")
class ResizedMap(layers.Layer):
    """A map `(B, H, W, C)` in another size, bilinear with half-pixel centers.

    Keras's `Resizing` is no alternative inside a network: it has `training=True` by default, which all layers after it
    inherit if the network is called without `training`, so that BatchNorm would then use the statistics of the batch.

    Args:
        size: `(H, W)`.
    """

    def __init__(self, size: Sequence[int], **options: Any):
        super().__init__(**options)
        self.size = (int(size[0]), int(size[1]))

    def call(self, x: Tensor) -> Tensor:
        return resize_bilinear(x, self.size)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": list(self.size)}


def fitting_rates(height: int, width: int) -> list[int]:
    """The published rates 6, 12 and 18, times the shorter side / 33; never larger than published, without duplicates.

    Rates that are not below the longer side are left out: the outer weights of a 3x3 kernel would read only padding.

    >>> fitting_rates(33, 33), fitting_rates(64, 128), fitting_rates(12, 16), fitting_rates(4, 6), fitting_rates(1, 1)
    ([6, 12, 18], [6, 12, 18], [2, 4, 7], [1, 2], [])
    """
    proportion = min(height, width) / PUBLISHED_SIDE
    rates = {min(rate, max(1, round(rate * proportion))) for rate in RATES}
    return sorted(rate for rate in rates if rate < max(height, width))


def _check_rates(rates: Sequence[int], height: int, width: int) -> list[int]:
    rates = check_integers("segmenter", "rates", rates)
    if len(set(rates)) != len(rates) or not all(1 <= rate < max(height, width) for rate in rates):
        expected = f"different atrous rates from 1 to {max(height, width) - 1} for a coarse map of {height} x {width}"
        advice = f"leave rates out for {fitting_rates(height, width)}"
        raise ValueError(explain_mismatch(expected, f"rates={tuple(rates)}", advice))
    return rates


def _conv_bn_relu(x: Tensor, width: int, name: str) -> Tensor:
    return layers.ReLU(name=name)(conv_bn(x, width, name, kernel_size=1))


def _separable(x: Tensor, width: int, name: str, rate: int = 1) -> Tensor:
    x = layers.ReLU(name=f"{name}_depthwise_relu")(depthwise_bn(x, f"{name}_depthwise", dilation_rate=rate))
    return _conv_bn_relu(x, width, name)
