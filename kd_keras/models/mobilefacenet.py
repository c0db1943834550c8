"""MobileFaceNet: Chen et al. 2018, *MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile
Devices*, 1804.07573, table 1."""

from __future__ import annotations

import keras
from keras import layers

from kd_keras.contracts import Tensor
from kd_keras.errors import check_number, check_whole_number, explain_mismatch
from kd_keras.models.base import batch_norm, conv_bn, depthwise_bn, fan_out, image_input
from kd_keras.networks.preprocessing import PixelStatistics

# channels of the expansion, channels, stride of the first block, blocks; a line for each row of table 1
ROWS = ((128, 64, 2, 1), (128, 64, 1, 4), (256, 128, 2, 1), (256, 128, 1, 6), (512, 128, 2, 1), (256, 128, 1, 2))
LAST = (2, 4, 6)  # the last rows of each size


def mobilefacenet(
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    normalization: PixelStatistics | None = None,
    dimension: int = 128,
    width: float = 1.0,
    name: str = "mobilefacenet",
) -> keras.Model:
    """MobileFaceNet whose output is `(B, classes)` logits, and whose layer "embedding" is the face's embedding.

    Every convolution has BatchNorm, no bias, and a PReLU unless it is linear. The last map is reduced by a depthwise
    convolution of its own size instead of a mean, because the pixels of a face differ in importance. Without the
    classifier it has 1,003,136 trainable parameters at `(112, 112, 3)`. `build("embedder/mobilefacenet", ...)` gives it
    a margin softmax; a Dense layer is the classifier here, so that it is a network like all others.

    Args:
        input_shape: `(H, W, C)` of an image; published for `(112, 112, 3)`.
        classes: number of identities K.
        normalization: mean and standard deviation of the pixels in training; by default 127.5 and 63.75. Published
            networks have 127.5 and 127.5.
        dimension: D, the length of the embedding; 128 in the paper, 512 in most later networks.
        width: the factor of the channels of every layer but the embedding.
        name: the model's name.

    Raises:
        ValueError: if `width` leaves a layer without a channel.

    >>> mobilefacenet((32, 32, 3), 10, width=0.25).get_layer("embedding").output.shape
    (None, 128)
    """
    check_whole_number("mobilefacenet", "dimension", dimension)
    check_number("mobilefacenet", "width", width, above=0)
    if int(64 * width) < 1:
        raise ValueError(explain_mismatch("a width of at least 1/64", repr(width)))
    inputs, x = image_input(input_shape, normalization)
    x = _prelu(conv_bn(x, int(64 * width), "stem", strides=2), "stem_prelu")
    x = _prelu(depthwise_bn(x, "stem_depthwise"), "stem_out")
    for row, (expansion, channels, first_strides, blocks) in enumerate(ROWS, start=1):
        for block in range(1, blocks + 1):
            strides = first_strides if block == 1 else 1
            x = _bottleneck(x, int(expansion * width), int(channels * width), strides, f"bottleneck{row}_{block}")
        if row in LAST:
            x = layers.Identity(name=f"stage{LAST.index(row) + 1}_out")(x)
    x = _prelu(conv_bn(x, int(512 * width), "head", kernel_size=1), "head_prelu")
    x = layers.DepthwiseConv2D(x.shape[1:3], use_bias=False, depthwise_initializer=fan_out(), name="global_depthwise")(
        x
    )
    x = layers.Flatten(name="flatten")(batch_norm(x, "global_depthwise_bn"))
    x = layers.Dense(dimension, use_bias=False, name="embedding_dense")(x)
    x = batch_norm(x, "embedding")
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name=name)


def _bottleneck(x: Tensor, expansion: int, width: int, strides: int, name: str) -> Tensor:
    """A linear bottleneck; with stride 1 its input is added, without an activation after the sum."""
    shortcut = x
    x = _prelu(conv_bn(x, expansion, f"{name}_expand", kernel_size=1), f"{name}_expand_prelu")
    x = _prelu(depthwise_bn(x, f"{name}_depthwise", strides=strides), f"{name}_depthwise_prelu")
    x = conv_bn(x, width, f"{name}_project", kernel_size=1)
    if strides == 1 and shortcut.shape[-1] == width:
        x = layers.Add(name=f"{name}_sum")([x, shortcut])
    return x


def _prelu(x: Tensor, name: str) -> Tensor:
    """A PReLU with one slope for each channel, 0.25 at the start as in PyTorch and MXNet."""
    initial = keras.initializers.Constant(0.25)
    return layers.PReLU(initial, shared_axes=[1, 2], name=name)(x)
