"""Flags of the teacher or teachers."""

from __future__ import annotations

import ast
from typing import Any

from absl import flags

from kd_keras.ensembles import COMBINATIONS, CROSS_ENTROPY
from kd_keras.networks.freezing import PRECISIONS

FLAGS = flags.FLAGS


def define_teacher() -> None:
    """Defines the flags of the teacher or teachers."""
    text = "A run, a .keras file, a SavedModel, or a model with trained weights: "
    text += "applications/ResNet50(weights='imagenet'); to record also a file .onnx, .tflite or .npz, or an address."
    flags.DEFINE_multi_string("teacher", None, text)
    text = "Weights of several teachers in their average, such as 2,1; equal by default. [0.9,0.1],[0.2,0.8] are those "
    text += f"of two classes for each of two teachers; {CROSS_ENTROPY} weights them by their loss on each example."
    flags.DEFINE_list("teacher_weights", None, text)
    text = "Use a frozen copy in this precision with folded BatchNorm; by default the network is used as it is."
    flags.DEFINE_enum("teacher_precision", None, PRECISIONS, text)
    flags.DEFINE_list("teacher_range", None, "Lowest,highest pixel value that the teacher expects; 0,255 by default.")
    flags.DEFINE_enum("combine", COMBINATIONS[0], COMBINATIONS, "What is averaged over several teachers.")


def teacher_options() -> dict[str, Any]:
    """The options of these flags except `teacher`, as `kd_keras.distill` and `kd_keras.record` take them."""
    return {
        "teacher_weights": _numbers("teacher_weights"),
        "teacher_precision": FLAGS.teacher_precision,
        "teacher_range": _numbers("teacher_range"),
        "combine": FLAGS.combine,
    }


def _numbers(name: str) -> Any:
    return FLAGS[name].value and parse_numbers(name, ",".join(FLAGS[name].value))


def parse_numbers(name: str, text: str) -> Any:
    """The value of a flag that is numbers, or lists of numbers, separated by commas; or weights by a word.

    Raises:
        ValueError: if it is neither.

    >>> parse_numbers("teacher_weights", "[0.9,0.1],[0.2,0.8]"), parse_numbers("teacher_weights", "cross_entropy")
    (([0.9, 0.1], [0.2, 0.8]), 'cross_entropy')
    """
    if (name, text) == ("teacher_weights", CROSS_ENTROPY):
        return text
    try:
        return ast.literal_eval(f"({text},)")
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"--{name} must be numbers separated by commas, but received {text}.") from error
