"""The loss of a segmentation network: cross-entropy over the valid pixels, class weights and a Dice term."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kd_keras.contracts import IGNORED, Tensor
from kd_keras.distribute.reductions import sum_over_replicas
from kd_keras.errors import check_number, explain_mismatch, shorten


def pixel_cross_entropy(label: Tensor, logits: Tensor) -> Tensor:
    """-log softmax(z)_y at each pixel, 0 at a pixel without a class.

    Args:
        label: `(B, H, W)` integers, 0 to K - 1 or `IGNORED`.
        logits: `(B, H, W, K)`.

    Returns:
        `(B, H, W)` float32, in nats, at least 0.

    >>> import numpy as np
    >>> loss = pixel_cross_entropy(np.array([[[1, -1]]]), np.log([[[[1.0, 3.0], [5.0, 1.0]]]]))
    >>> abs(loss.numpy().round(4)).ravel()
    array([0.2877, 0.    ], dtype=float32)
    """
    label = ops.cast(label, "int32")
    target = ops.one_hot(label, logits.shape[-1], dtype="float32")  # all zeros for IGNORED
    return -ops.sum(target * ops.log_softmax(ops.cast(logits, "float32"), axis=-1), axis=-1)


def dice_loss(label: Tensor, logits: Tensor, *, smooth: float = 1.0) -> Tensor:
    """1 - mean_k (2 sum_i p_ik y_ik + s) / (sum_i p_ik^2 + sum_i y_ik + s) over the valid pixels i of an image.

    Milletari, Navab, Ahmadi 2016, *V-Net*, 1606.04797, section 3, with the smoothing of mmsegmentation's code. Classes
    that are not in an image count too.

    Args:
        label: `(B, H, W)` integers, 0 to K - 1 or `IGNORED`.
        logits: `(B, H, W, K)`; p is their softmax.
        smooth: s > 0.

    Returns:
        `(B,)` float32, from 0 to 1; 0 for an image without valid pixels.

    >>> import numpy as np
    >>> round(float(dice_loss(np.array([[[0]]]), np.zeros((1, 1, 1, 2)))[0]), 4)  # 1 - (2 / 2.25 + 1 / 1.25) / 2
    0.1556
    """
    label = ops.cast(label, "int32")
    is_valid = ops.cast(label != IGNORED, "float32")[..., None]
    target = ops.one_hot(label, logits.shape[-1], dtype="float32")
    p = ops.softmax(ops.cast(logits, "float32"), axis=-1) * is_valid
    common, total = (ops.sum(x, axis=(1, 2)) for x in (p * target, ops.square(p) + target))
    return 1 - ops.mean((2 * common + smooth) / (total + smooth), axis=-1)


@keras.saving.register_keras_serializable("kd_keras")
class SegmentationLoss(keras.losses.Loss):
    """Cross-entropy of logits, a mean over the valid pixels of the global batch, plus a Dice term.

    Pixels whose label is `IGNORED` (-1), as `data.load_masks` gives it, take part in nothing. The sum over the other
    pixels is divided by their number in the batches of all replicas, so that two replicas compute what one computes,
    and every pixel has the same weight whichever image it is in. Class weights are not part of the divisor, as in
    mmsegmentation's code; PyTorch's weighted mean divides by their sum. Sample weights may be `(B,)` or `(B, H, W)`.

    Args:
        class_weights: K numbers of at least 0; `None` for all ones.
        dice_weight: the weight of the mean over the images of `dice_loss`, 0 for none.
        name: the name of the loss.
        reduction: as for every loss of Keras; the mean over valid pixels is that of the default.

    Raises:
        ValueError: if a weight is negative or not finite.

    >>> import numpy as np
    >>> label, logits = np.array([[[1, -1]]]), np.log([[[[1.0, 3.0], [5.0, 1.0]]]])
    >>> round(float(SegmentationLoss()(label, logits)), 4), round(float(SegmentationLoss([1.0, 0.5])(label, logits)), 4)
    (0.2877, 0.1438)
    """

    # What the Distiller reads to check labels and outputs, as of Keras's sparse cross-entropy.
    fn = staticmethod(keras.losses.sparse_categorical_crossentropy)
    from_logits = True
    ignore_class = IGNORED

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        dice_weight: float = 0.0,
        name: str = "segmentation_loss",
        reduction: str = "sum_over_batch_size",
        **options: Any,
    ):
        super().__init__(name=name, reduction=reduction, **options)
        owner = "SegmentationLoss"
        self.class_weights = None if class_weights is None else [float(weight) for weight in class_weights]
        for weight in self.class_weights or ():
            check_number(owner, "class_weights", weight, least=0)
        self.dice_weight = check_number(owner, "dice_weight", dice_weight, least=0)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The loss `(B, H, W)`, whose mean is the mean over valid pixels; labels `(B, H, W)` or `(B, H, W, 1)`."""
        label, classes = ops.cast(y_true, "int32"), y_pred.shape[-1]
        if len(label.shape) == len(y_pred.shape) and label.shape[-1] == 1:
            label = ops.squeeze(label, -1)
        if len(label.shape) != 3 or len(y_pred.shape) != 4:
            received = f"labels {tuple(y_true.shape)} and logits {tuple(y_pred.shape)}"
            raise ValueError(
                explain_mismatch("labels (B, H, W) and logits (B, H, W, K) for SegmentationLoss", received)
            )
        loss = pixel_cross_entropy(label, y_pred)
        if self.class_weights is not None:
            if len(self.class_weights) != classes:
                received = shorten(self.class_weights)
                raise ValueError(explain_mismatch(f"class_weights of the {classes} classes of the logits", received))
            weights = ops.convert_to_tensor(self.class_weights, "float32")
            loss = loss * ops.take(weights, ops.maximum(label, 0))
        valid = ops.sum(ops.cast(label != IGNORED, "float32"))
        totals = sum_over_replicas(ops.stack([valid, ops.cast(ops.size(label), "float32")]))
        loss = loss * (totals[1] / ops.maximum(totals[0], 1.0))
        if self.dice_weight:
            loss = loss + self.dice_weight * dice_loss(label, y_pred)[:, None, None]
        return loss

    def get_config(self) -> dict[str, Any]:
        own = {"class_weights": self.class_weights, "dice_weight": self.dice_weight}
        return {**super().get_config(), **own}
