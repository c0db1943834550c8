"""The parts of the families: the normalized input, convolutions, BatchNorm, the shuffle, the classifier, the mean."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import layers, ops

from kd_keras.contracts import Tensor
from kd_keras.networks.preprocessing import PixelStatistics, normalized


def image_input(input_shape: tuple[int, ...], normalization: PixelStatistics | None) -> tuple[Tensor, Tensor]:
    """The input "image", pixel values `(B, H, W, C)` from 0 to 255, and the image normalized by its statistics."""
    inputs = keras.Input(input_shape, name="image")
    return inputs, normalized(inputs, normalization)


def convolution(x: Tensor, width: int, name: str, **options: Any) -> Tensor:
    """A convolution, by default 3x3 and without bias, with He-normal initial values by the number of outputs."""
    defaults: dict[str, Any] = {"kernel_size": 3, "padding": "same", "use_bias": False}
    options = defaults | options
    kind = GroupedConv2D if options.get("groups", 1) > 1 else layers.Conv2D
    return kind(width, kernel_initializer=fan_out(), name=name, **options)(x)


@keras.saving.register_keras_serializable("kd_keras")
class GroupedConv2D(layers.Conv2D):
    """A convolution in groups, computed as one convolution for each group.

    TensorFlow's CPU kernels do not support groups, and XLA's, which Keras calls instead, took six times as long in
    training.
    """

    is_plain_convolution = True  # only computed in another way: it can be folded and quantized

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        parts = zip(ops.split(inputs, self.groups, axis=-1), ops.split(kernel, self.groups, axis=-1), strict=True)
        return ops.concatenate([super(GroupedConv2D, self).convolution_op(*part) for part in parts], axis=-1)


def conv_bn(x: Tensor, width: int, name: str, **options: Any) -> Tensor:
    """A convolution and BatchNorm: the layers `<name>_conv` and `<name>_bn`."""
    return batch_norm(convolution(x, width, f"{name}_conv", **options), f"{name}_bn")


def depthwise_bn(x: Tensor, name: str, *, kernel_size: int = 3, **options: Any) -> Tensor:
    """A convolution of each channel separately, and BatchNorm: the layers `<name>` and `<name>_bn`."""
    options = {"padding": "same", "use_bias": False, "depthwise_initializer": fan_out(), **options}
    x = layers.DepthwiseConv2D(kernel_size, name=name, **options)(x)
    return batch_norm(x, f"{name}_bn")


def batch_norm(x: Tensor, name: str) -> Tensor:
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def fan_out() -> keras.initializers.Initializer:
    """A new initializer for each layer, because a shared one gives layers of the same shape the same values."""
    return keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="untruncated_normal")


def channel_shuffle(x: Tensor, groups: int, name: str) -> Tensor:
    """Distributes the channels of each group over all groups: Zhang et al. 2018, 1707.01083, section 3.1.

    Channels `0 1 2 | 3 4 5` in two groups become `0 3 1 4 2 5`. It is a reshape, a transpose and the reshape back, on
    tensors of four dimensions, which LiteRT's delegates and ONNX accept.
    """
    height, width, channels = x.shape[1:]
    x = layers.Reshape((height * width, groups, channels // groups), name=f"{name}_groups")(x)
    x = layers.Permute((1, 3, 2), name=f"{name}_transpose")(x)
    return layers.Reshape((height, width, channels), name=name)(x)


def classified(inputs: Tensor, x: Tensor, classes: int, name: str) -> keras.Model:
    """The model from the inputs to logits `(B, classes)`, a dense layer of the mean of the last maps."""
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name=name)


@keras.saving.register_keras_serializable("kd_keras")
class MeanOfPredictions(layers.Layer):
    """From the logits of N networks or exits to those of their mean prediction: log((1/N) sum_i softmax(z_i)), float32.

    >>> logits = [ops.convert_to_tensor([[0.0, math.log(3.0)]]), ops.convert_to_tensor([[0.0, 0.0]])]
    >>> ops.exp(MeanOfPredictions()(logits)).numpy().round(3).tolist()
    [[0.375, 0.625]]
    """

    def __init__(self, **options: Any):
        super().__init__(dtype="float32", **{key: value for key, value in options.items() if key != "dtype"})

    def call(self, logits: list[Tensor]) -> Tensor:
        log_probabilities = ops.stack([ops.log_softmax(ops.cast(z, "float32"), axis=-1) for z in logits])
        return ops.logsumexp(log_probabilities, axis=0) - math.log(len(logits))
