"""LiteRT files in int8 whose last part, such as the decoding of boxes, stays in float."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf


def convert_to_partial_int8(
    saved_model: str | Path,
    calibration: Callable[[], Iterator[dict[str, Any]]],
    float_scope: str,
    outputs: Sequence[str],
) -> bytes:
    """The content of a LiteRT file in int8, except for the operations of a name scope.

    Eight bits store a coordinate from 0 to 300 pixels in steps of more than one pixel. Products of quantized offsets
    and sizes are less exact, and a quantized area, by which IoU divides, may be 0. Everything after the network is
    therefore computed in float. So is the concatenation of the outputs of several levels, which would give all levels
    one scale. The converter still rounds a sigmoid to multiples of 1/256. It rounds values that are only selected and
    reshaped to 255 steps if their range differs between these operations, which can happen with few calibration images.

    Args:
        saved_model: the directory of a SavedModel with the signature "serving_default".
        calibration: makes inputs of that signature, one after the other, from which the ranges are taken.
        float_scope: the name scope of the operations that stay in float.
        outputs: the names of layers that also stay in float.
    """
    names = _operation_names(_converter(saved_model).convert())
    layers = re.compile(rf"/({'|'.join(map(re.escape, outputs))})(_\d+)?/")
    scopes = (f"{float_scope}/", "StatefulPartitionedCall:")  # the latter are the operations that make the outputs
    floats = [name for name in names if name.startswith(scopes) or layers.search(name)]
    converter = _converter(saved_model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = calibration
    # The converter knows an operation of several outputs by another name.
    options = tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=floats, denylisted_ops=["TOPK_V2"])
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter, debug_dataset=calibration, debug_options=options
    )
    return debugger.get_nondebug_quantized_model()


def _converter(saved_model: str | Path) -> Any:
    return tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=["serving_default"])


def _operation_names(content: bytes) -> Iterator[str]:
    """The name of every operation: that of its output, or of several outputs all of them."""
    from tensorflow.lite.tools import flatbuffer_utils

    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "float.tflite"
        file.write_bytes(content)
        model = flatbuffer_utils.read_model(str(file))
    for graph in model.subgraphs:
        for operator in graph.operators:
            yield ";".join(graph.tensors[index].name.decode() for index in operator.outputs)
