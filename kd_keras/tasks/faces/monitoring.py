"""The verification accuracy of a network on test images, also after each tested epoch of a training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kd_keras.contracts import Tensor, as_batch
from kd_keras.data import all_pairs
from kd_keras.models import Recognizer
from kd_keras.tasks.faces.embeddings import unit_vectors
from kd_keras.tasks.faces.evaluation import verification
from kd_keras.teacher import prepare_images

IMAGES = 1000  # from which all pairs are made; more are thinned out evenly


def is_face_network(network: keras.Model) -> bool:
    """Whether a network returns embeddings: a recognizer, or a network that ends in a layer called "embedding".

    >>> is_face_network(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="embedding")]))
    True
    """
    if isinstance(network, Recognizer):
        return True
    shape = getattr(network, "output_shape", None)
    return isinstance(shape, tuple) and len(shape) == 2 and network.layers[-1].name == "embedding"


def embedding_function(
    network: keras.Model, batches: tf.data.Dataset, preprocess: Callable[[Tensor], Tensor] | None = None
) -> Callable[[Tensor], Tensor]:
    """A compiled function from images to embeddings `(B, D)`, which are not normalized.

    Args:
        network: a recognizer or a network from images to embeddings. Images of another size are resized to its own.
        batches: of such images.
        preprocess: a function from the images of the data to those that the network reads.
    """

    def embed(images: Tensor) -> Tensor:
        outputs = network(prepare_images(network, preprocess, images), training=False)
        return outputs["embedding"] if isinstance(outputs, Mapping) else outputs

    return tf.function(embed, input_signature=[as_batch(batches.element_spec).inputs])


def embed_all(
    embed: Callable[[Tensor], Tensor], batches: tf.data.Dataset, name: str, images: int = IMAGES
) -> tuple[np.ndarray, np.ndarray]:
    """The unit embeddings `(N, D)` float64 and the identities `(N,)` of all images, or of evenly spread ones.

    Args:
        embed: as `embedding_function` makes it.
        batches: images with identities, as `data.evaluation` makes them.
        name: of the network, for a message.
        images: the largest N.
    """
    parts = [(np.asarray(embed(batch.inputs)), np.asarray(batch.label)) for batch in map(as_batch, batches)]
    embedding, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    step = -(-len(labels) // images)
    return unit_vectors(embedding[::step].astype("float64"), name), labels[::step]


class MeasureVerification(keras.callbacks.Callback):
    """Adds metrics of verification of a Distiller's student to the logs, after those epochs that have a test.

    It must come before the callbacks that read the logs.

    Args:
        batches: makes the batches of the test images, whose identities are other people than those of the training.
        metrics: findings of `verification`; the logs have them as `val_<name>`.
        epochs: those after which there is a test, counted from 1.
    """

    def __init__(self, batches: Callable[[], tf.data.Dataset], metrics: Collection[str], epochs: Collection[int]):
        super().__init__()
        self.metrics, self.epochs = tuple(metrics), frozenset(epochs)
        self._make_batches = batches
        self._batches: tf.data.Dataset | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is None or epoch + 1 not in self.epochs:
            return
        student = self.model.student
        if self._batches is None:
            self._batches = self._make_batches()  # which keeps the decoded images
            self._embed = embedding_function(student, self._batches)
        embedding, labels = embed_all(self._embed, self._batches, student.name)
        found = dict(verification(embedding, all_pairs(labels)))
        logs.update({f"val_{name}": found[name] for name in self.metrics})
