"""What an export delivers: the logits and the probabilities of a network, whatever its last layer is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kd_keras.contracts import Tensor
from kd_keras.errors import explain_mismatch
from kd_keras.networks.heads import SMALLEST, recognize_probabilities
from kd_keras.networks.precision import computing_in_float32
from kd_keras.networks.taps import Tapped


class ServedOutputs:
    """A student's logits and probabilities, in float32.

    The probabilities are the student's own output if it ends in a softmax or in sigmoids, even if these are hidden from
    a look at its layers and only recognized by their values. If the student returns logits, they are their softmax.
    Mixed precision is computed in float32.

    Args:
        student: any built Keras model of one image input.
        sample: `(N, H, W, C)` uint8 images, one or more.

    Attributes:
        units: the number K of outputs; a single one is a sigmoid, which has two classes.
        predicted: `(N, K)` float32, the probabilities that `student.predict` gives for the sample.

    Raises:
        ValueError: if the output is neither logits of two or more classes nor probabilities.
    """

    def __init__(self, student: keras.Model, sample: np.ndarray):
        self.student = student
        with computing_in_float32(student):
            self._tapped = Tapped(student, ["logits"])
            output = student.predict(sample.astype("float32"), batch_size=100, verbose=0)
        spec = self._tapped.specs["logits"]
        self.units = spec.shape[-1]
        output = np.asarray(_logits_output(output), "float32")
        output = output if output.ndim > 1 else output[:, None]
        hidden = "" if spec.activation else recognize_probabilities(output)
        self._activation, self._is_hidden = hidden or spec.activation, bool(hidden)
        is_rescaled = hidden == "softmax" and np.abs(output.sum(-1) - 1).max() > 1e-2
        if is_rescaled or (self.units == 1 and self._activation != "sigmoid"):
            received = "a softmax that is rescaled" if is_rescaled else "a single unit without a sigmoid"
            expected = f"probabilities, or logits of two or more classes, as the output of {student.name!r}"
            advice = "append keras.layers.Activation('sigmoid') if the unit is a logit" if self.units == 1 else ""
            raise ValueError(explain_mismatch(expected, f"{received}, {spec.layer!r}", advice))
        is_probability = self._activation in ("softmax", "sigmoid")
        self.predicted = output if is_probability else tf.nn.softmax(output).numpy()

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """`{"logits", "probabilities"}` `(B, K)` float32 of images `(B, H, W, C)` of any type, from 0 to 255."""
        with computing_in_float32(self.student):
            output, taps = self._tapped(tf.cast(images, tf.float32), training=False)
        logits = tf.cast(taps["logits"], tf.float32)
        if self._activation not in ("softmax", "sigmoid"):
            return {"logits": logits, "probabilities": tf.nn.softmax(logits)}
        probabilities = tf.cast(_logits_output(output), tf.float32)
        if probabilities.shape.rank < logits.shape.rank:  # a single unit without an axis of its own
            probabilities = probabilities[..., None]
        if self._is_hidden:
            logits = tf.math.log(tf.maximum(probabilities, SMALLEST))
            if self._activation == "sigmoid":
                logits -= tf.math.log(tf.maximum(1 - probabilities, SMALLEST))
        return {"logits": logits, "probabilities": probabilities}


def classes_of(probabilities: Any) -> np.ndarray:
    """The predicted classes `(N,)` int64 of probabilities `(N, K)`; those of a single sigmoid unit are 0 and 1.

    >>> classes_of(np.array([[0.2], [0.9]])).tolist(), classes_of(np.array([[0.2, 0.8]])).tolist()
    ([0, 1], [1])
    """
    values = np.asarray(_logits_output(probabilities))
    if values.ndim == 1 or values.shape[-1] == 1:
        return ((values if values.ndim == 1 else values[..., 0]) > 0.5).astype("int64")
    return values.argmax(-1)


def _logits_output(output: Any) -> Any:
    """The output, or of several named ones that of the classifier; a single one may have any name."""
    if not isinstance(output, Mapping):
        return output
    return next(iter(output.values())) if len(output) == 1 else output["logits"]
