"""The losses of a one-stage detector: sums over the anchors of each example, to be divided by the number of positives.

A sum is divided by the number of positive anchors of the whole batch, on all replicas, and not of its example, so that
all objects count alike.
"""

from __future__ import annotations

from keras import ops

from kd_keras.contracts import Tensor
from kd_keras.detection.anchors import decode_deltas, encode_deltas
from kd_keras.detection.boxes import giou
from kd_keras.detection.matching import Targets

PRIOR = 0.01  # the initial probability of every class at every anchor


def focal_loss(logits: Tensor, targets: Targets, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """The sum of -alpha_t (1 - p_t)^gamma log(p_t) over all classes of all anchors that are not ignored.

    Lin et al. 2017, *Focal Loss for Dense Object Detection*, 1708.02002, equation 5: p_t is the probability of what is
    true, sigmoid(z) for the class of the anchor's object and 1 - sigmoid(z) for all other classes; alpha_t is alpha for
    the former and 1 - alpha for the latter.

    Args:
        logits: `(B, N, K)` of any float dtype; the computation is in float32.
        targets: of the anchors.
        alpha: from 0 to 1.
        gamma: at least 0.

    Returns:
        `(B,)` float32, in nats.

    >>> from kd_keras.detection.matching import match_anchors
    >>> targets = match_anchors([[0.0, 0.0, 4.0, 4.0]], [[[0.0, 0.0, 4.0, 4.0]]], [[0]])
    >>> round(float(focal_loss([[[0.0]]], targets)[0]), 4)  # 1/4 * (1/2)^2 * log 2
    0.0433
    """
    logits = ops.cast(ops.convert_to_tensor(logits), "float32")
    is_class = ops.arange(logits.shape[-1]) == targets.classes[..., None]
    is_true = is_class & targets.is_positive[..., None]
    z = ops.where(is_true, logits, -logits)  # the logit of what is true
    weight = ops.where(is_true, alpha, 1 - alpha)
    loss = weight * ops.exp(gamma * -ops.softplus(z)) * ops.softplus(-z)  # (1 - p_t) = exp(-softplus(z))
    return ops.sum(ops.where(targets.is_ignored[..., None], 0.0, loss), axis=(1, 2))


def giou_loss(deltas: Tensor, anchors: Tensor, targets: Targets) -> Tensor:
    """The sum of 1 - GIoU of the predicted box and the object's box over all positive anchors.

    Rezatofighi et al. 2019, *Generalized Intersection over Union*, 1902.09630, algorithm 2.

    Args:
        deltas: `(B, N, 4)`, the predicted offsets.
        anchors: `(N, 4)`, "xyxy".
        targets: of the anchors.

    Returns:
        `(B,)` float32.

    >>> from kd_keras.detection.matching import match_anchors
    >>> targets = match_anchors([[0.0, 0.0, 4.0, 4.0]], [[[0.0, 0.0, 4.0, 2.0]]], [[0]])
    >>> float(giou_loss([[[0.0, 0.0, 0.0, 0.0]]], [[0.0, 0.0, 4.0, 4.0]], targets)[0])
    0.5
    """
    predicted = decode_deltas(deltas, anchors)
    return ops.sum(ops.where(targets.is_positive, 1 - giou(predicted, targets.boxes), 0.0), axis=1)


def giou_of_deltas(deltas: Tensor, others: Tensor) -> Tensor:
    """The GIoU `(...)` float32 of boxes with the offsets `(..., 4)` from the same anchors, whatever these are."""
    return giou(*(decode_deltas(side, (0.0, 0.0, 1.0, 1.0)) for side in (deltas, others)))


def smooth_l1_loss(deltas: Tensor, anchors: Tensor, targets: Targets, *, beta: float = 1 / 9) -> Tensor:
    """The sum of smooth L1 of the differences of the offsets, over the four offsets of all positive anchors.

    It is d^2 / (2 beta) for |d| < beta and |d| - beta / 2 above (Girshick 2015, *Fast R-CNN*, 1504.08083, equation 3,
    for beta = 1). RetinaNet in Detectron has 1/9.

    Args:
        deltas: `(B, N, 4)`, the predicted offsets.
        anchors: `(N, 4)`, "xyxy".
        targets: of the anchors.
        beta: above 0.

    Returns:
        `(B,)` float32.

    >>> from kd_keras.detection.matching import match_anchors
    >>> targets = match_anchors([[0.0, 0.0, 4.0, 4.0]], [[[1.0, 0.0, 5.0, 4.0]]], [[0]])
    >>> float(smooth_l1_loss([[[0.0, 0.0, 0.0, 0.0]]], [[0.0, 0.0, 4.0, 4.0]], targets, beta=0.5)[0])  # dx = 1/4
    0.0625
    """
    is_positive = targets.is_positive[..., None]
    boxes = ops.where(is_positive, targets.boxes, anchors)  # a row without an object has no logarithm of its sides
    size = ops.abs(ops.cast(ops.convert_to_tensor(deltas), "float32") - encode_deltas(boxes, anchors))
    loss = ops.where(size < beta, ops.square(size) / (2 * beta), size - beta / 2)
    return ops.sum(ops.where(is_positive, loss, 0.0), axis=(1, 2))


def count_positives(targets: Targets) -> Tensor:
    """The number of positive anchors of each example: `(B,)` float32."""
    return ops.sum(ops.cast(targets.is_positive, "float32"), axis=1)
