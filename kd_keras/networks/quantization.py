"""Makes a trainable copy of a classifier that computes in floats what its LiteRT int8 file will compute in int8."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops, tree

from kd_keras.contracts import Tensor
from kd_keras.errors import check_choice, explain_mismatch
from kd_keras.networks.fake_quantization import STEPS, FakeQuantize
from kd_keras.networks.freezing import check_walkable
from kd_keras.networks.graph import Graph
from kd_keras.networks.quantization_rules import kind_of
from kd_keras.networks.quantized_copy import QuantizedCopy
from kd_keras.networks.quantized_layers import QUANTIZED, is_quantization_aware, unquantized
from kd_keras.private_api import sub_layers

RANGES = ("average", "gradient")


def quantization_aware(
    network: keras.Model,
    images: np.ndarray,
    *,
    keep_float: Sequence[str] = (),
    ranges: str = "average",
    kernel_bits: int = 8,
) -> keras.Model:
    """A trainable copy of a trained classifier that rounds kernels and activations as its LiteRT int8 file will.

    A BatchNorm is folded into the convolution or dense layer before it, with its statistics at this time; another one
    becomes a scale and an offset for each channel. Kernels are rounded for each output channel, activations in a range
    for each tensor that starts from the images and follows the training batches. The input is rounded to whole pixel
    values from 0 to 255. What `quantization_rules` has no rule for stays in float, such as separable and transposed
    convolutions, sums of three tensors, and GELU (`float_layers` lists it); a final softmax or sigmoid is computed from
    the rounded logits. Train the copy with a small learning rate, for example by `kd_keras.Distiller` with the float
    network as teacher; `kd_keras.export` writes its int8 file.

    Args:
        network: a built Functional or Sequential classifier, nested or not, of one image input that reads pixel values
            from 0 to 255; it is not changed. Mixed precision becomes float32.
        images: `(N, H, W, C)` uint8 images from which the ranges start: a hundred or more training images.
        keep_float: names or paths of convolutions and dense layers that stay in float.
        ranges: how training changes the ranges of activations: "average" (default), a moving average of their smallest
            and largest values; or "gradient", by the gradient to their step, as LSQ, with the zero points of the start.
            The ranges of kernels always follow their largest values.
        kernel_bits: 8 (default), or 4 for kernels of 15 values, which LiteRT stores in half the space and unpacks to
            int8. Activations have 8 bits.

    Returns:
        A Functional model of the same input, outputs and names of layers, with nested models unfolded. Layers into
        which a BatchNorm was folded are called `<name>_folded`, and those without their fused activation
        `<name>_linear`.

    Raises:
        ValueError: if the network is not such a classifier or quantized already, if the images do not fit it, if it
            has no layer of a name in `keep_float`, if `ranges` or `kernel_bits` is unknown, or if the copy without
            rounding predicts something else than the network.

    References: Jacob et al. 2018, 1712.05877; Krishnamoorthi 2018, 1806.08342; Esser et al. 2020 (LSQ), 1902.08153.

    >>> from keras import layers
    >>> network = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(2)])
    >>> pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3)).astype("uint8")
    >>> [type(layer).__name__ for layer in quantization_aware(network, pixels).layers][:4]
    ['InputLayer', 'FakeQuantize', 'QuantizedConv2D', 'FakeQuantize']
    """
    check_choice("quantization_aware", "ranges", ranges, RANGES)
    if kernel_bits not in STEPS:
        raise ValueError(explain_mismatch("kernel_bits= 8 or 4", repr(kernel_bits)))
    check_walkable(network, "quantize")
    if is_quantization_aware(network):
        received = f"{network.name!r}, which is quantization-aware already"
        raise ValueError(explain_mismatch("a float network to quantize", received, "train it as it is"))
    builder = QuantizedCopy(network, keep_float, ranges == "gradient", kernel_bits)
    _check_images(builder.graph, images)
    model = builder.build()
    _start_ranges(model, builder.observed, images)
    _check_copy(network, model, images)
    return model


def float_layers(model: keras.Model) -> list[str]:
    """The layers of a quantization-aware model that its int8 file computes in float, by path.

    >>> from keras import layers
    >>> gelu = layers.Activation("gelu", name="gelu")
    >>> network = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), gelu, layers.Flatten()])
    >>> float_layers(quantization_aware(network, np.zeros((1, 8, 8, 3), "uint8")))
    ['gelu']
    """
    calls = Graph(model).calls
    kinds = {edge.path: kind_of(edge) for edge in calls if not isinstance(edge.original, QUANTIZED)}
    return [path for path, kind in kinds.items() if kind in ("float", "kernel")]


def _check_images(graph: Graph, images: np.ndarray) -> None:
    inputs = tree.flatten(graph.inputs)
    if len(inputs) != 1:
        raise ValueError(explain_mismatch(f"one input of {graph.model.name!r}", f"{len(inputs)} inputs"))
    shape, images = inputs[0].shape[1:], np.asarray(images)
    fits = images.ndim == 4 and all(
        wanted in (None, size) for wanted, size in zip(shape, images.shape[1:], strict=True)
    )
    if images.dtype != np.uint8 or not fits or not len(images):
        expected = f"images= uint8 images (N, {', '.join(map(str, shape))})"
        raise ValueError(explain_mismatch(expected, f"{images.dtype} of shape {images.shape}"))


def _check_copy(network: keras.Model, model: keras.Model, images: np.ndarray) -> None:
    """Compares the predictions of the copy without rounding with those of the network on a few images.

    A user's layer may compute something that its configuration does not describe; its copy would silently differ.
    """
    few = np.asarray(images[:4], "float32")
    is_exact = all(layer.compute_dtype in (None, "float32") for layer in sub_layers(network))
    tolerance = 1e-3 if is_exact else 5e-2
    with unquantized(model):
        copied = tree.flatten(model(few, training=False))
    outputs = tree.flatten(network(few, training=False))
    for output, other in zip(outputs, copied, strict=True):
        output, other = (np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32"))) for tensor in (output, other))
        difference, largest = float(np.abs(output - other).max()), float(np.abs(output).max())
        if not difference <= tolerance * max(largest, 1e-3):
            received = f"a difference of {difference:.3g} of outputs up to {largest:.3g}"
            expected = f"a copy of {network.name!r} that predicts the same as long as nothing is rounded"
            advice = "replace layers whose class or configuration Keras does not know"
            raise ValueError(explain_mismatch(expected, received, advice))


def _start_ranges(model: keras.Model, observed: list[tuple[FakeQuantize, Tensor]], images: np.ndarray) -> None:
    """Sets every learned range to the smallest and the largest value of the unquantized network on the images."""
    if not observed:
        return
    tensors = [tensor for _, tensor in observed]
    axes = [tuple(range(1, len(tensor.shape))) for tensor in tensors]
    lows = [ops.min(tensor, axis=axis) for tensor, axis in zip(tensors, axes, strict=True)]
    highs = [ops.max(tensor, axis=axis) for tensor, axis in zip(tensors, axes, strict=True)]
    ranges = keras.Model(model.inputs, [lows, highs])
    with unquantized(model):
        lows, highs = ranges.predict(np.asarray(images, "float32"), batch_size=32, verbose=0)
    for (quantizer, _), low, high in zip(observed, lows, highs, strict=True):
        if not np.isfinite(low).all() or not np.isfinite(high).all():
            expected = f"finite activations of {model.name!r} on the images"
            raise ValueError(explain_mismatch(expected, f"others before {quantizer.name!r}", "train it again"))
        quantizer.set_range(float(low.min()), float(high.max()))
