"""The layers with weights of a quantization-aware network, and the contexts in which it is unquantized or exported."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from kd_keras.contracts import Tensor
from kd_keras.networks.fake_quantization import (
    BIAS_FRACTION,
    NARROWEST,
    FakeQuantize,
    fake_quantized_kernel,
    kernel_bound,
)
from kd_keras.private_api import sub_layers


class QuantizedKernel(layers.Layer):
    """A layer whose kernel of 8 or 4 `bits` is rounded for each output channel.

    `float_path` is that of the layer in the float network, which `keep_float=` takes.
    """

    is_enabled = True

    def __init__(self, *args: Any, bits: int = 8, float_path: str = "", **options: Any):
        super().__init__(*args, **options)
        self.bits, self.float_path = bits, float_path

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bits": self.bits, "float_path": self.float_path}


@keras.saving.register_keras_serializable("kd_keras")
class QuantizedConv2D(QuantizedKernel, layers.Conv2D):
    """A convolution, also in groups, whose kernel is rounded for each output channel."""

    constants: list[tuple[np.ndarray, np.ndarray]] | None = None

    def call(self, inputs: Tensor) -> Tensor:
        groups = self.groups
        parts = ops.split(inputs, groups, axis=-1) if groups > 1 else [inputs]  # the CPU has no kernel for groups
        outputs = [self.convolution_op(part, kernel) for part, kernel in zip(parts, self._kernels(), strict=True)]
        if self.bias is not None:
            biases = ops.split(self.bias, groups) if groups > 1 else [self.bias]
            outputs = [ops.add(output, bias) for output, bias in zip(outputs, biases, strict=True)]
        return ops.concatenate(outputs, axis=-1) if groups > 1 else outputs[0]

    def _kernels(self) -> list[Tensor]:
        """The rounded kernel of each group."""
        if self.constants is not None:
            return [_constant_kernel(*constants, self.bits) for constants in self.constants]
        kernel = fake_quantized_kernel(self.kernel, self.bias, bits=self.bits) if self.is_enabled else self.kernel
        return ops.split(kernel, self.groups, axis=-1) if self.groups > 1 else [kernel]

    def begin_export(self) -> None:
        kernel, bound = _arrays(self.kernel, kernel_bound(self.kernel, self.bias, (0, 1, 2)))
        parts = (np.split(array, self.groups, -1) for array in (kernel, bound))
        self.constants = list(zip(*parts, strict=True))


@keras.saving.register_keras_serializable("kd_keras")
class QuantizedDepthwiseConv2D(QuantizedKernel, layers.DepthwiseConv2D):
    """A depthwise convolution whose kernel is rounded for each output channel."""

    constants: tuple[np.ndarray, np.ndarray] | None = None

    def call(self, inputs: Tensor) -> Tensor:
        if self.constants is not None:
            kernel = ops.reshape(_constant_kernel(*self.constants, self.bits), self.kernel.shape)
        else:
            kernel = self.kernel
            if self.is_enabled:
                kernel = fake_quantized_kernel(kernel, self._bias(), (0, 1), self.bits)
        options = {"strides": self.strides, "padding": self.padding, "dilation_rate": self.dilation_rate}
        outputs = ops.depthwise_conv(inputs, kernel, data_format=self.data_format, **options)
        return outputs if self.bias is None else ops.add(outputs, self.bias)

    def _bias(self) -> Tensor | None:
        return None if self.bias is None else ops.reshape(self.bias, self.kernel.shape[-2:])

    def begin_export(self) -> None:
        kernel, bound = _arrays(self.kernel, kernel_bound(self.kernel, self._bias(), (0, 1)))
        height, width = kernel.shape[:2]
        self.constants = kernel.reshape(height, width, 1, -1), bound.reshape(-1)


@keras.saving.register_keras_serializable("kd_keras")
class QuantizedDense(QuantizedKernel, layers.Dense):
    """A dense layer of vectors `(B, D)` or of maps `(B, 1, 1, D)` whose kernel is rounded for each output."""

    constants: tuple[np.ndarray, np.ndarray] | None = None

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        if self.constants is not None:  # LiteRT's converter refuses a dense layer with a range for each output
            kernel = _constant_kernel(*self.constants, self.bits)
            maps = ops.conv(ops.reshape(inputs, (-1, 1, 1, inputs.shape[-1])), kernel, padding="valid")
            maps = maps if self.bias is None else ops.add(maps, self.bias)
            return maps if len(inputs.shape) == 4 else ops.reshape(maps, (-1, self.units))
        kernel = self.kernel
        if self.is_enabled:
            kernel = fake_quantized_kernel(kernel, self.bias, (0,), self.bits)
        outputs = ops.matmul(inputs, kernel)
        return outputs if self.bias is None else ops.add(outputs, self.bias)

    def begin_export(self) -> None:
        kernel, bound = _arrays(self.kernel, kernel_bound(self.kernel, self.bias, (0,)))
        self.constants = kernel[None, None], bound


@keras.saving.register_keras_serializable("kd_keras")
class ChannelScale(layers.Layer):
    """`scale * x + offset` for each channel, which LiteRT computes as a depthwise convolution.

    Args:
        **options: as every layer takes them.
    """

    constants: tuple[np.ndarray, ...] | None = None

    def build(self, input_shape: tuple) -> None:
        self.scale = self.add_weight(name="scale", shape=input_shape[-1:], initializer="ones")
        self.offset = self.add_weight(name="offset", shape=input_shape[-1:], initializer="zeros")

    def call(self, inputs: Tensor) -> Tensor:
        if self.constants is None:
            return ops.add(ops.multiply(inputs, self.scale), self.offset)
        return _scaled_by_convolution(inputs, *self.constants)

    def begin_export(self) -> None:
        self.constants = _arrays(self.scale, self.offset)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape


@keras.saving.register_keras_serializable("kd_keras")
class HardSigmoid(layers.Layer):
    """`clip(x / 6 + 1/2, 0, 1)`, which LiteRT computes as a depthwise convolution whose int8 output ends at 0 and 1."""

    constants: tuple[np.ndarray, ...] | None = None

    def call(self, inputs: Tensor) -> Tensor:
        if self.constants is None:
            return ops.hard_sigmoid(inputs)
        channels = inputs.shape[-1]
        return _scaled_by_convolution(inputs, np.full(channels, 1 / 6, "float32"), np.full(channels, 0.5, "float32"))

    def begin_export(self) -> None:
        self.constants = ()  # it has none, but computes the convolution

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape


@keras.saving.register_keras_serializable("kd_keras")
class Rescaled(layers.Layer):
    """The identity, which LiteRT computes as a depthwise convolution whose output has a scale of its own.

    LiteRT's converter gives all parts of a split tensor the scale of a concatenation that reads one of them.
    """

    constants: tuple[np.ndarray, ...] | None = None

    def call(self, inputs: Tensor) -> Tensor:
        if self.constants is None:
            return inputs
        ones = np.ones(inputs.shape[-1], "float32")
        return _scaled_by_convolution(inputs, ones, np.zeros_like(ones))

    def begin_export(self) -> None:
        self.constants = ()  # it has none, but computes the convolution

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape


QUANTIZED_KERNELS = (QuantizedConv2D, QuantizedDepthwiseConv2D, QuantizedDense)
QUANTIZED = (FakeQuantize, *QUANTIZED_KERNELS, ChannelScale, HardSigmoid, Rescaled)


def quantized_layers(model: keras.Model) -> list[Any]:
    """The layers of a model that `quantization_aware` made for int8."""
    return [layer for layer in sub_layers(model) if isinstance(layer, QUANTIZED)]


def is_quantization_aware(model: keras.layers.Layer) -> bool:
    """Whether a model computes what its int8 file will: whether `kd_keras.quantization_aware` made it."""
    return any(isinstance(layer, FakeQuantize) for layer in sub_layers(model))


@contextlib.contextmanager
def unquantized(model: keras.Model) -> Iterator[None]:
    """Within the context, a quantization-aware model computes in floats, without any rounding or clipping."""
    quantizers = [layer for layer in quantized_layers(model) if isinstance(layer, (FakeQuantize, *QUANTIZED_KERNELS))]
    model.predict_function = None  # Keras would reuse the function that it traced
    try:
        for layer in quantizers:
            layer.is_enabled = False
        yield
    finally:
        for layer in quantizers:
            layer.is_enabled = True
        model.predict_function = None


@contextlib.contextmanager
def exporting(model: keras.Model) -> Iterator[None]:
    """Within the context, traced functions of a quantization-aware model contain its ranges and kernels as constants.

    LiteRT's converter recognizes only ranges that are constants.
    """
    quantizers = quantized_layers(model)
    try:
        for layer in quantizers:
            layer.begin_export()
        yield
    finally:
        for layer in quantizers:
            layer.constants = None


def _arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    return tuple(np.array(ops.convert_to_numpy(tensor)) for tensor in tensors)


def _constant_kernel(kernel: np.ndarray, bound: np.ndarray, bits: int = 8) -> Tensor:
    """A constant kernel, rounded by the operation that LiteRT's converter recognizes."""
    bound = bound.reshape(-1)
    options = {"num_bits": bits, "narrow_range": True, "axis": -1}
    return keras.quantizers.fake_quant_with_min_max_vars(ops.convert_to_tensor(kernel), -bound, bound, **options)


def _scaled_by_convolution(inputs: Tensor, scale: np.ndarray, offset: np.ndarray) -> Tensor:
    bound = np.maximum(np.maximum(np.abs(scale), NARROWEST), BIAS_FRACTION * np.abs(offset))
    kernel = ops.reshape(_constant_kernel(scale.reshape(1, 1, 1, -1), bound), (1, 1, -1, 1))
    maps = inputs if len(inputs.shape) == 4 else ops.reshape(inputs, (-1, 1, 1, inputs.shape[-1]))
    maps = ops.add(ops.depthwise_conv(maps, kernel, padding="valid"), offset)
    return maps if len(inputs.shape) == 4 else ops.reshape(maps, (-1, *inputs.shape[1:]))
