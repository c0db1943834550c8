"""The LiteRT int8 file of a quantization-aware network, which uses the ranges that the network learned."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf

from kd_keras.contracts import Tensor
from kd_keras.export.verification import Reference
from kd_keras.networks.fake_quantization import FakeQuantize, fake_quantized
from kd_keras.networks.quantization_rules import FIXED_RANGES, kind_of
from kd_keras.networks.quantized_layers import exporting
from kd_keras.networks.stages import StagedGraph


def learned_int8(reference: Reference) -> bytes:
    """The content of the LiteRT file of a quantization-aware student; errors of the converter are passed on.

    The input is uint8. So are the outputs, unless the logits stay in float.
    """
    graph = StagedGraph(reference.student)
    producer = graph.producer(graph.head().logits)
    while producer is not None and kind_of(producer) in ("select", "same"):
        producer = graph.producer(producer.sources[0])
    rounds_logits = producer is not None and isinstance(producer.original, FakeQuantize)

    def serve(images: Tensor) -> dict[str, Tensor]:
        outputs = reference.serve(images)
        if rounds_logits:
            outputs["probabilities"] = fake_quantized(
                outputs["probabilities"], *FIXED_RANGES["softmax"]
            )  # the sigmoid has the same
        return outputs

    with tempfile.TemporaryDirectory() as directory, exporting(reference.student):
        reference.write_saved_model(Path(directory), tf.float32, serve=serve)
        converter: Any = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=["serving_default"])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.inference_input_type = tf.uint8
        if rounds_logits:
            converter.inference_output_type = tf.uint8
        return converter.convert()
