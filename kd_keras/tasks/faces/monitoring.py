"""Measures the verification accuracy of a network of faces on test images, also during a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from kd_keras.contracts import Tensor, as_batch
from kd_keras.data import all_pairs
from kd_keras.models import Recognizer
from kd_keras.tasks.faces.embeddings import unit_vectors
from kd_keras.tasks.faces.evaluation import verification
from kd_keras.tasks.faces.pairs import IMAGES, choose_images
from kd_keras.teacher import prepare_images


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
    """The unit embeddings `(N, D)` float64 and the identities `(N,)` of all images, or of a selection.

    Args:
        embed: as `embedding_function` makes it.
        batches: images with identities, as `data.evaluation` makes them.
        name: of the network, for a message.
        images: the largest N; of more images a part is selected as `choose_images` does.
    """
    parts = [(np.asarray(embed(batch.inputs)), np.asarray(batch.label)) for batch in map(as_batch, batches)]
    embedding, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    chosen = choose_images(labels, images)
    return unit_vectors(embedding[chosen].astype("float64"), name), labels[chosen]


def verification_function(
    network: keras.Model, batches: tf.data.Dataset, preprocess: Callable[[Tensor], Tensor] | None = None
) -> Callable[[], dict[str, float]]:
    """A function that measures a network with its present weights, as `verification` does, and compiles it once.

    Args:
        network, preprocess: as for `embedding_function`.
        batches: images with identities of people who are in no training image.
    """
    embed = embedding_function(network, batches, preprocess)

    def measure() -> dict[str, float]:
        embedding, labels = embed_all(embed, batches, network.name)
        return dict(verification(embedding, all_pairs(labels)))

    return measure
