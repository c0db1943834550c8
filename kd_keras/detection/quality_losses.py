"""The losses of generalized focal loss: scores that predict the quality of a box, and distributions of its edges.

Li et al. 2020, *Generalized Focal Loss: Learning Qualified and Distributed Bounding Boxes*, 2006.04388.
"""

from __future__ import annotations

from keras import ops

from kd_keras.contracts import Tensor
from kd_keras.detection.matching import Targets


def soft_focal_loss(logits: Tensor, probabilities: Tensor, *, beta: float = 1.0) -> Tensor:
    """|q - p|^beta BCE(p, q) with p = sigmoid(z) for the probability q of each class: equation 5 for any q.

    With the teacher's probabilities and beta = 1 it is the loss of scores of BCKD (2308.14286) and CrossKD
    (2306.11369); the weight has a gradient, too.

    Args:
        logits: z of any shape and float dtype; the computation is in float32.
        probabilities: q of the same shape, in 0..1.
        beta: above 0.

    Returns:
        float32 of the same shape, in nats.

    >>> round(float(soft_focal_loss(0.0, 0.75)), 4)  # 1/4 log 2
    0.1733
    """
    logits, probabilities = (ops.cast(ops.convert_to_tensor(x), "float32") for x in (logits, probabilities))
    entropy = ops.softplus(logits) - probabilities * logits
    return ops.abs(probabilities - ops.sigmoid(logits)) ** beta * entropy


def quality_focal_loss(logits: Tensor, targets: Targets, quality: Tensor, *, beta: float = 2.0) -> Tensor:
    """The sum of |y - p|^beta BCE(p, y) with p = sigmoid(z) over all classes of all positions that are not ignored.

    Equation 5. y is the quality of the position's box for the class of its object, and 0 for all other classes.

    Args:
        logits: `(B, N, K)` of any float dtype; the computation is in float32.
        targets: of the positions.
        quality: `(B, N)` in 0..1, the IoU of the predicted box and the object's; of any value at other positions.
        beta: above 0.

    Returns:
        `(B,)` float32, in nats; a sum, as in `detection.losses`.

    >>> from kd_keras.detection.matching import match_anchors
    >>> targets = match_anchors([[0.0, 0.0, 4.0, 4.0]], [[[0.0, 0.0, 4.0, 4.0]]], [[0]])
    >>> round(float(quality_focal_loss([[[0.0]]], targets, [[1.0]])[0]), 4)  # (1/2)^2 log 2
    0.1733
    """
    logits = ops.convert_to_tensor(logits)
    is_class = (ops.arange(logits.shape[-1]) == targets.classes[..., None]) & targets.is_positive[..., None]
    quality = ops.cast(ops.convert_to_tensor(quality), "float32")[..., None]
    loss = soft_focal_loss(logits, ops.where(is_class, quality, 0.0), beta=beta)
    return ops.sum(ops.where(targets.is_ignored[..., None], 0.0, loss), axis=(1, 2))


def distribution_focal_loss(logits: Tensor, distances: Tensor) -> Tensor:
    """-((i + 1 - y) log S_i + (y - i) log S_(i + 1)) with S = softmax(z): the bins on both sides of the distance y.

    Equation 6.

    Args:
        logits: `(..., bins)` of any float dtype; the computation is in float32.
        distances: y `(...)`, from 0 to below bins - 1.

    Returns:
        `(...)` float32, in nats.

    >>> round(float(distribution_focal_loss([0.0, 0.0, 0.0], 0.5)), 4)  # log 3
    1.0986
    """
    logits = ops.log_softmax(ops.cast(ops.convert_to_tensor(logits), "float32"), axis=-1)
    distances = ops.cast(ops.convert_to_tensor(distances), "float32")[..., None]
    # The weight of a bin falls linearly to 0 at a distance of 1 from y.
    weight = ops.maximum(1 - ops.abs(distances - ops.arange(logits.shape[-1], dtype="float32")), 0.0)
    return -ops.sum(weight * logits, axis=-1)
