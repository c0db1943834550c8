"""Unit-length embeddings of images, and the similarities of pairs of them."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np

from kd_keras.data import Pairs
from kd_keras.errors import explain_mismatch


def embed(network: keras.Model, images: np.ndarray, *, batch_size: int = 64, flip: bool = True) -> np.ndarray:
    """The embeddings of images as unit vectors; with `flip` normalize(f(x) + f(mirrored x)), as InsightFace tests.

    Args:
        network: from images to embeddings `(B, D)`, or to a dictionary with the key "embedding" as `models.recognizer`.
            A classifier would be taken for one: pass its part that ends in the embedding.
        images: `(N, H, W, C)` uint8 or float32, pixel values from 0 to 255.
        batch_size: the number of images at a time.
        flip: whether to add the embedding of the mirrored image.

    Returns:
        `(N, D)` float64.

    Raises:
        ValueError: if the network returns something else, or an embedding that is not finite or has no direction.

    >>> network = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    >>> embedding = embed(network, np.ones((2, 2, 2, 1), "uint8"))
    >>> embedding.shape, np.linalg.norm(embedding, axis=-1).round(6).tolist()
    ((2, 3), [1.0, 1.0])
    """
    images = np.asarray(images)
    total = _predict(network, images, batch_size)
    if flip:
        total = total + _predict(network, images[:, :, ::-1], batch_size)
    return unit_vectors(total, network.name)


def unit_vectors(embedding: np.ndarray, name: str) -> np.ndarray:
    """Embeddings `(N, D)` divided by their lengths.

    Raises:
        ValueError: if one is not finite or has no direction; the message has the name of the network.

    >>> unit_vectors(np.array([[3.0, 4.0]]), "network").tolist()
    [[0.6, 0.8]]
    """
    norms = np.linalg.norm(embedding, axis=-1, keepdims=True)
    wrong = ~(np.isfinite(norms) & (norms > 1e-12))[:, 0]
    if wrong.any():
        received = f"{embedding[wrong.argmax()][:3]}... for image {wrong.argmax()} and {wrong.sum() - 1} others"
        raise ValueError(explain_mismatch(f"finite embeddings of {name!r} with a direction", received))
    return embedding / norms


def _predict(network: keras.Model, images: np.ndarray, batch_size: int) -> np.ndarray:
    outputs = network.predict(images.astype("float32"), batch_size=batch_size, verbose=0)
    embedding = outputs.get("embedding") if isinstance(outputs, Mapping) else outputs
    if not isinstance(embedding, np.ndarray) or embedding.ndim != 2:
        received = sorted(outputs) if isinstance(outputs, Mapping) else getattr(embedding, "shape", type(outputs))
        expected = f"embeddings (B, D), or a dictionary with 'embedding', from {network.name!r}"
        raise ValueError(explain_mismatch(expected, str(received)))
    return embedding.astype("float64")


def pair_similarities(embedding: np.ndarray, pairs: Pairs) -> np.ndarray:
    """The cosines `(P,)` of pairs of unit embeddings `(N, D)`.

    >>> pairs = Pairs(np.array([0]), np.array([1]), np.array([True]), np.array([0]))
    >>> pair_similarities(np.eye(2), pairs).tolist()
    [0.0]
    """
    return np.einsum("pd,pd->p", embedding[pairs.first], embedding[pairs.second])
