"""A SavedModel as a teacher. It is a TensorFlow graph, so a student can also be trained from it directly."""

from __future__ import annotations

import os
from pathlib import Path

import keras
import tensorflow as tf

from kd_keras.errors import explain_mismatch
from kd_keras.functions.digests import file_digest
from kd_keras.functions.outputs import select_output
from kd_keras.networks.foreign import model_of_signature

SIGNATURE = "serving_default"


def is_saved_model(path: object) -> bool:
    """Whether a path is the directory of a SavedModel."""
    return isinstance(path, (str, os.PathLike)) and (Path(path) / "saved_model.pb").is_file()


def read_saved_model(
    directory: str | os.PathLike, *, output: str | None = None, probabilities: bool = False
) -> keras.Model:
    """The default signature of a SavedModel as a Keras model from images float32 to logits.

    Args:
        directory: of the SavedModel, which takes one tensor of images. Integer images are rounded.
        output: the name of the output; by default the only one, or "logits".
        probabilities: whether the output is probabilities; the model then returns their logarithm.

    Raises:
        ValueError: if it is no SavedModel, has no such signature, several inputs, or the output is not clear.
    """
    if not is_saved_model(directory):
        received = f"{os.fspath(directory)!r}, which has no saved_model.pb"
        raise ValueError(explain_mismatch("the directory of a SavedModel", received))
    path = Path(directory)
    loaded = tf.saved_model.load(str(path))
    signatures = loaded.signatures
    if SIGNATURE not in signatures:
        received = f"{path} with {', '.join(signatures) or 'none'}"
        raise ValueError(explain_mismatch(f"a SavedModel with the signature {SIGNATURE}", received))
    signature = signatures[SIGNATURE]
    chosen = select_output(signature.structured_outputs, output, f"the SavedModel {path.name!r}")
    files = [path / "saved_model.pb", *sorted(path.glob("variables/*"))]
    digest = f"{file_digest(*files)} {chosen} {probabilities}"
    return model_of_signature(signature, loaded, chosen, probabilities=probabilities, digest=digest)


def saved_model_names(directory: str | os.PathLike) -> list[str] | None:
    """The class names that `kd_keras.export` stores in a SavedModel, or `None`."""
    loaded = tf.saved_model.load(os.fspath(directory))  # which has the variables of its functions
    signatures = loaded.signatures
    if "class_names" not in signatures:
        return None
    return [name.decode() for name in signatures["class_names"]()["class_names"].numpy()]
