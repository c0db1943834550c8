"""Margin softmax: losses of the angles between unit-length embeddings and unit-length centers of the identities.

SphereFace: Liu et al. 2017, 1704.08063, with normalized embeddings as in Liu et al. 2021, 2109.05565. CosFace: Wang et
al. 2018, 1801.09414. ArcFace: Deng et al. 2019, 1801.07698. AdaFace: Kim et al. 2022, 2204.00964.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from keras import ops

from kd_keras.contracts import Tensor
from kd_keras.errors import check_choice, check_number, explain_mismatch
from kd_keras.primitives import l2_normalize

EDGE = 1e-4  # cosines are clipped to 1 - EDGE before arccos, whose slope at 1 is infinite
ADAFACE_EDGE = 1e-3  # the same in AdaFace's code, also for its angles
ADAFACE_CONCENTRATION = 0.333  # h
SMALLEST_NORM, LARGEST_NORM = 1e-3, 100.0  # to which AdaFace's code clips the norms of embeddings
PUBLISHED = {  # scale and margin
    "arcface": (64.0, 0.5),
    "cosface": (64.0, 0.35),
    "sphereface": (30.0, 1.5),
    "adaface": (64.0, 0.4),
}


class Margin(NamedTuple):
    """A margin softmax and its constants; `published_margin` makes one.

    Attributes:
        kind: "arcface", "cosface", "sphereface" or "adaface".
        scale: s, by which cosines are multiplied.
        margin: m: radians for ArcFace and AdaFace, a difference of cosines for CosFace, a factor of the angle for
            SphereFace.
    """

    kind: str
    scale: float
    margin: float


def published_margin(kind: str = "arcface", scale: float | None = None, margin: float | None = None) -> Margin:
    """A margin softmax with the published constants where none are given.

    Args:
        kind: "arcface" (scale 64, margin 0.5), "cosface" (64, 0.35), "sphereface" (30, 1.5) or "adaface" (64, 0.4).
        scale: s > 0. For fewer than about 1000 identities 30 is usual.
        margin: m, at least 0; of SphereFace at least 1; of ArcFace and AdaFace, which add it to an angle in radians, at
            most pi/2. With 0, of SphereFace with 1, the loss has no margin.

    Raises:
        ValueError: if the kind is unknown, or a number is out of range.

    >>> published_margin("cosface", scale=30)
    Margin(kind='cosface', scale=30.0, margin=0.35)
    """
    defaults = PUBLISHED[check_choice("margin softmax", "kind", kind, PUBLISHED)]
    scale = check_number(kind, "scale", defaults[0] if scale is None else scale, above=0)
    least, most = 1.0 if kind == "sphereface" else 0.0, math.pi / 2 if kind in ("arcface", "adaface") else None
    margin = check_number(kind, "margin", defaults[1] if margin is None else margin, least=least, most=most)
    return Margin(kind, scale, margin)


def center_cosines(embedding: Tensor, centers: Tensor) -> Tensor:
    """The cosines `(B, K)` float32 of the angles between embeddings `(B, D)` and the columns of centers `(D, K)`.

    >>> import numpy as np
    >>> center_cosines(np.array([[0.0, 2.0]]), np.array([[3.0, 0.0], [4.0, 5.0]])).numpy().round(4).tolist()
    [[0.800000011920929, 1.0]]
    """
    return ops.matmul(l2_normalize(embedding), l2_normalize(centers, axis=0))


def margin_loss(cosines: Tensor, labels: Tensor, softmax: Margin, quality: Tensor | None = None) -> Tensor:
    """The cross-entropy of s (c_1, ..., f(c_y), ..., c_K), in which the cosine c_y of the true identity has a margin.

    With the angle a of the true identity, f(c_y) is `cos(a + m)` for ArcFace, `c_y - m` for CosFace, `psi(a)` for
    SphereFace and `cos(a - m q) - (m + m q)` for AdaFace, whose q depends on the length of the embedding.

    Args:
        cosines: `(B, K)` from `center_cosines`.
        labels: `(B,)` integers from 0 to K - 1. The loss of any other label is NaN.
        softmax: the kind and its constants.
        quality: `(B,)` of `adaface_quality`, from -1 to 1; only for AdaFace.

    Returns:
        `(B,)` float32, in nats.

    Raises:
        ValueError: if AdaFace has no quality.

    >>> import numpy as np
    >>> loss = margin_loss(np.array([[0.6, 0.0]]), np.array([0]), Margin("cosface", 1.0, 0.6))
    >>> round(float(loss[0]), 4)  # log 2, because 0.6 - 0.6 = 0
    0.6931
    """
    cosines = ops.cast(cosines, "float32")
    is_target = ops.equal(ops.expand_dims(ops.cast(labels, "int32"), -1), ops.arange(cosines.shape[-1], dtype="int32"))
    target = ops.sum(ops.where(is_target, cosines, 0.0), axis=-1)
    logit = softmax.scale * target_with_margin(target, softmax, quality)
    logits = ops.where(is_target, logit[:, None], softmax.scale * cosines)
    return ops.where(ops.any(is_target, axis=-1), ops.logsumexp(logits, axis=-1) - logit, math.nan)


def check_identities(labels: Tensor, identities: int, owner: str) -> None:
    """Checks labels outside of a training step, whose `margin_loss` would be NaN.

    Args:
        labels: of any shape.
        identities: K.
        owner: what has these identities, for the error message.

    Raises:
        ValueError: if a label is not from 0 to K - 1.
    """
    values = ops.convert_to_numpy(labels)
    if values.size and not 0 <= values.min() <= values.max() < identities:
        received = f"labels from {values.min()} to {values.max()}"
        raise ValueError(explain_mismatch(f"labels from 0 to {identities - 1} for {owner}", received))


def target_with_margin(cosine: Tensor, softmax: Margin, quality: Tensor | None = None) -> Tensor:
    """The cosine `(B,)` of the true identity with its margin, f of `margin_loss`.

    ArcFace has no easy margin: if a + m exceeds pi, where cos(a + m) would increase again, f is `c - m sin m`, as in
    the authors' code. AdaFace's code clips the angle to [0.001, pi - 0.001] instead.

    >>> import numpy as np
    >>> half = np.array([0.5], "float32")  # an angle of 60 degrees
    >>> float(target_with_margin(half, Margin("arcface", 64.0, np.pi / 3))[0].numpy().round(4))  # cos(120 degrees)
    -0.5
    >>> float(target_with_margin(half, Margin("sphereface", 30.0, 2.0))[0].numpy().round(4))  # the same
    -0.5
    """
    cosine, m = ops.cast(cosine, "float32"), softmax.margin
    if softmax.kind == "cosface":
        return cosine - m
    if softmax.kind == "adaface":
        if quality is None:
            raise ValueError("AdaFace needs the quality of each embedding. Pass quality=adaface_quality(...).")
        bent = _angle(cosine, ADAFACE_EDGE) - m * quality
        return ops.cos(ops.clip(bent, ADAFACE_EDGE, math.pi - ADAFACE_EDGE)) - (m + m * quality)
    angle = _angle(cosine, EDGE)
    if softmax.kind == "arcface":
        return ops.where(cosine > math.cos(math.pi - m), ops.cos(angle + m), cosine - m * math.sin(m))
    return _sphereface(angle, m)


def _sphereface(angle: Tensor, factor: float) -> Tensor:
    """psi(a) = (-1)^k cos(m a) - 2 k for a from k pi / m to (k + 1) pi / m: it falls with the angle, without jumps."""
    steps = ops.stop_gradient(ops.floor(factor * angle / math.pi))
    sign = 1.0 - 2.0 * (steps - 2.0 * ops.floor(steps / 2.0))
    return sign * ops.cos(factor * angle) - 2.0 * steps


def _angle(cosine: Tensor, edge: float) -> Tensor:
    return ops.arccos(ops.clip(cosine, -1.0 + edge, 1.0 - edge))


def embedding_norms(embedding: Tensor) -> Tensor:
    """The lengths `(B,)` of embeddings `(B, D)`, clipped as AdaFace's code does, float32 and without a gradient."""
    square = ops.sum(ops.square(ops.cast(ops.stop_gradient(embedding), "float32")), axis=-1)
    return ops.clip(ops.sqrt(square), SMALLEST_NORM, LARGEST_NORM)


def adaface_quality(norms: Tensor, mean: Tensor | float, deviation: Tensor | float) -> Tensor:
    """q = clip(0.333 (|e| - mean) / (deviation + 0.001), -1, 1): AdaFace's equation 8, whose norms are a quality.

    Args:
        norms: `(B,)` of `embedding_norms`.
        mean: `()`, the running mean of the norms in training.
        deviation: `()`, their running standard deviation.

    Returns:
        `(B,)` float32 from -1 to 1.

    >>> import numpy as np
    >>> adaface_quality(np.array([20.0, 120.0], "float32"), 20.0, 99.999).numpy().round(3).tolist()
    [0.0, 0.3330000042915344]
    """
    score = ADAFACE_CONCENTRATION * (norms - mean) / (deviation + 1e-3)
    return ops.clip(score, -1.0, 1.0)
