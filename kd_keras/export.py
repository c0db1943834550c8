"""The student on its way out: a SavedModel that takes raw images and knows nothing of kd_keras."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kd_keras.contracts import Tensor, mismatch
from kd_keras.taps import Tapped


def saved_model(
    model: keras.Model,
    directory: str | Path,
    *,
    image_shape: tuple[int, int, int],
    normalise: Callable[[Tensor], Tensor],
    sample: np.ndarray,
    tolerance: float = 1e-4,
) -> float:
    """Writes a SavedModel from `(B, H, W, C)` uint8 images to `{"logits", "probabilities"}` `(B, K)` float32.

    Scaling to [0, 1] and normalisation are inside; its `serve` function and its default signature take any batch
    size. It is written beside, loaded again and compared with the model on `sample` before it takes its place.

    Args:
        model: the student, any built Keras model of one image input.
        directory: where it shall stand; one that is there is replaced.
        image_shape: `(H, W, C)` of an image.
        normalise: from float32 images in [0, 1] to what the model reads.
        sample: `(N, H, W, C)` uint8 images to compare on.
        tolerance: the largest difference of a probability that is accepted.

    Returns:
        The largest difference of a probability.

    Raises:
        ValueError: where it differs by more than `tolerance`; what stood there before is then untouched.
    """
    directory = Path(directory)
    tapped = Tapped(model, ["logits"])

    def serve(images: Tensor) -> dict[str, Tensor]:
        _, taps = tapped(normalise(tf.cast(images, tf.float32) / 255.0), training=False)
        logits = tf.cast(taps["logits"], tf.float32)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    beside = directory.with_name(f".writing-{directory.name}")
    shutil.rmtree(beside, ignore_errors=True)
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", serve, [tf.TensorSpec((None, *image_shape), tf.uint8, name="images")])
    archive.write_out(str(beside), verbose=False)

    loaded = tf.saved_model.load(str(beside))
    again = loaded.serve(tf.constant(sample))["probabilities"].numpy()
    difference = float(np.abs(again - serve(sample)["probabilities"].numpy()).max())
    if not difference <= tolerance:
        shutil.rmtree(beside)
        raise ValueError(mismatch(f"a SavedModel within {tolerance} of its source", f"{difference}"))
    shutil.rmtree(directory, ignore_errors=True)
    beside.rename(directory)
    return difference
