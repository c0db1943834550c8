"""Layers that compute in floats what LiteRT computes in int8, so that a network can be trained for its int8 file.

An activation is rounded to one of 256 values `scale * (q - zero)`, one of which is 0 (Jacob et al. 2018, 1712.05877,
section 3; Krishnamoorthi 2018, 1806.08342). A kernel is rounded to 255 values from -m to m, where m is the largest
absolute value of its output channel. The gradient of the rounding is 1 within the range and 0 outside
("straight-through", Bengio et al. 2013, 1308.3432). The range of an activation follows its values, or is learned by its
gradient (LSQ, Esser et al. 2020, 1902.08153).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from kd_keras.contracts import Tensor

STEPS = {8: 127, 4: 7}  # the largest integer of a kernel, by its number of bits
MOMENTUM = 0.99  # of the ranges' moving averages
NARROWEST = 1e-6  # the smallest upper end of an activation's range, and range of a kernel's channel
SMALLEST = 1 / 16  # the smallest learned step, as a fraction of its start
# The bias of LiteRT is an int32 multiple of the scales of input and kernel, so that a kernel whose values are tiny
# compared with its bias needs a larger range than its own.
BIAS_FRACTION = 1e-3


def fake_quantized(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Rounds values to the 256 that int8 represents from `low` to `high`, and clips them to that range.

    The range is moved by less than half a step, so that 0 is one of the 256.

    Args:
        values: float32 of any shape.
        low: a number, at most 0.
        high: a number, at least 0 and above `low`.

    >>> import numpy as np
    >>> fake_quantized(np.array([-1.0, 0.3, 99.6, 300.0], "float32"), 0.0, 255.0).numpy().tolist()
    [0.0, 0.0, 100.0, 255.0]
    """
    return keras.quantizers.fake_quant_with_min_max_vars(values, low, high, num_bits=8)


def kernel_bound(kernel: Tensor, bias: Tensor | None, axes: tuple[int, ...]) -> Tensor:
    """The range m of each output channel of a kernel, with axes of length 1 in place of the others.

    Args:
        kernel: the kernel.
        bias: of the output channels, in a shape that broadcasts to the result, or `None`.
        axes: the axes of the kernel that are not output channels.
    """
    bound = ops.maximum(ops.max(ops.abs(kernel), axis=axes, keepdims=True), NARROWEST)
    return bound if bias is None else ops.maximum(bound, BIAS_FRACTION * ops.abs(bias))


def fake_quantized_kernel(
    kernel: Tensor, bias: Tensor | None = None, axes: tuple[int, ...] = (0, 1, 2), bits: int = 8
) -> Tensor:
    """Rounds a kernel for each output channel, to `m / 127 * round(127 * kernel / m)`; the gradient is 1.

    Args:
        kernel, bias, axes: as `kernel_bound` takes them.
        bits: 8 for 255 values, or 4 for 15 values with 7 in place of 127.

    >>> import numpy as np
    >>> kernel = np.array([[127.0, -1.27], [2.6, 0.014]], "float32")
    >>> fake_quantized_kernel(kernel, axes=(0,)).numpy().round(2)[1].astype(str).tolist()
    ['3.0', '0.01']
    """
    step = kernel_bound(kernel, bias, axes) / STEPS[bits]
    return kernel + ops.stop_gradient(step * ops.round(kernel / step) - kernel)


def learned_step_quantized(values: Tensor, step: Tensor, zero: Tensor) -> Tensor:
    """Rounds values to the 256 multiples `step * (q - zero)`, with the gradient of LSQ to the step.

    With `v = values / step`, `low = -zero` and `high = 255 - zero`, the result is `step * round(clip(v, low, high))`.
    Its gradient to the values is 1 within the range and 0 outside; that to the step is `round(v) - v` within, `low`
    below and `high` above, times `1 / sqrt(N high)`, where N is the number of values of an example (equations 1 to 3
    and section 2.2).

    Args:
        values: float32 `(B, ...)`.
        step: a number above 0.
        zero: a whole number from 0 to 254.

    References: Esser et al. 2020, 1902.08153, which has `zero` 0 or 128.

    >>> import numpy as np
    >>> learned_step_quantized(np.array([[-1.0, 0.3, 1.3, 300.0]], "float32"), 0.5, 1.0).numpy().tolist()
    [[-0.5, 0.5, 1.5, 127.0]]
    """
    low, high = -zero, 255.0 - zero
    count = ops.cast(ops.size(values), "float32") / ops.cast(ops.shape(values)[0], "float32")
    share = ops.rsqrt(count * high)
    step = step * share + ops.stop_gradient(step * (1 - share))
    scaled = ops.clip(values / step, low, high)
    return step * (scaled + ops.stop_gradient(ops.round(scaled) - scaled))


@keras.saving.register_keras_serializable("kd_keras")
class FakeQuantize(layers.Layer):
    """Rounds an activation as int8 does, in a range that it learns in training.

    The range is a moving average over the batches, or, with `by_gradient`, its step is a trainable weight, at least a
    sixteenth of the step at the start, and its zero point stays; `trainable = False` stops both, as it does for a
    BatchNorm.

    Args:
        low, high: a fixed range; by default it is learned.
        by_gradient: whether the step is learned by its gradient (`learned_step_quantized`).
        **options: as every layer takes them.

    Attributes:
        is_enabled: whether it rounds; if not, it is the identity.
        reduce_range: takes the range of a replica's batch, `(low, high)`, to that of the global batch.
    """

    is_enabled = True
    constants: tuple[float, float] | None = None  # the range while the network is exported
    reduce_range: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

    def __init__(
        self, low: float | None = None, high: float | None = None, *, by_gradient: bool = False, **options: Any
    ):
        super().__init__(**options)
        self.fixed = None if low is None or high is None else (float(low), float(high))
        self.by_gradient = by_gradient
        self.supports_masking = True
        self.reduce_range = lambda low, high: (low, high)

    def build(self, input_shape: tuple) -> None:
        if self.fixed is not None:
            return
        make: dict[str, Any] = {"shape": (), "dtype": "float32", "aggregation": "mean"}
        if self.by_gradient:
            self.step = self.add_weight(name="step", initializer=keras.initializers.Constant(2 / 255), **make)
            zero = keras.initializers.Constant(128.0)
            self.zero = self.add_weight(name="zero", initializer=zero, trainable=False, **make)
            least = keras.initializers.Constant(SMALLEST * 2 / 255)
            self.least = self.add_weight(name="least", initializer=least, trainable=False, **make)
        else:
            make["trainable"] = False
            self.low = self.add_weight(name="low", initializer=keras.initializers.Constant(-1.0), **make)
            self.high = self.add_weight(name="high", initializer=keras.initializers.Constant(1.0), **make)

    def call(self, inputs: Tensor, training: bool | None = None, learn: bool = True) -> Tensor:
        """Rounds a tensor; with `learn=False` it does not change the range, as LiteRT's pooling needs it."""
        if not self.is_enabled:
            return inputs
        if training and learn and self.trainable and self.fixed is None:
            if self.by_gradient:
                return learned_step_quantized(inputs, self._positive_step(), self.zero)
            self._follow(inputs)
        low, high = self.constants or self.fixed or self._ends()
        return fake_quantized(inputs, low, high)

    def _ends(self) -> tuple[Tensor, Tensor]:
        if not self.by_gradient:
            return self.low, self.high
        step = ops.stop_gradient(self._positive_step())
        return -step * self.zero, step * (255.0 - self.zero)

    def _positive_step(self) -> Tensor:
        """The step, and its smallest value if a large update has moved it below; its gradient is that of the step."""
        return self.step + ops.stop_gradient(ops.maximum(self.step, self.least) - self.step)

    def _follow(self, inputs: Tensor) -> None:
        inputs = ops.stop_gradient(inputs)
        low, high = self.reduce_range(ops.min(inputs), ops.max(inputs))
        for variable, value in ((self.low, ops.minimum(low, 0.0)), (self.high, ops.maximum(high, NARROWEST))):
            average = MOMENTUM * variable + (1 - MOMENTUM) * value
            variable.assign(ops.where(ops.isfinite(average), average, variable))

    def set_range(self, low: float, high: float) -> None:
        """Sets the range, widened so that it contains 0 and is not empty."""
        low, high = min(low, 0.0), max(high, NARROWEST)
        if self.by_gradient:
            self.step.assign((high - low) / 255)
            self.least.assign(SMALLEST * (high - low) / 255)
            self.zero.assign(min(round(-255 * low / (high - low)), 254))
        else:
            self.low.assign(low)
            self.high.assign(high)

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        if self.fixed:
            return self.fixed
        low, high = (float(ops.convert_to_numpy(end)) for end in self._ends())
        return low, high

    def begin_export(self) -> None:
        self.constants = self.range

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        low, high = self.fixed or (None, None)
        return {**super().get_config(), "low": low, "high": high, "by_gradient": self.by_gradient}
