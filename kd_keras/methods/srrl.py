"""SRRL: Yang et al. 2021, *Knowledge Distillation via Softmax Regression Representation Learning*, ICLR, section 3.

As the code of Chen et al. 2022 (SimKD, 2203.14001) computes it for its tables.
"""

from __future__ import annotations

import keras
from keras import layers, ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import explain_mismatch
from kd_keras.methods.adapters import batch_norm, chain
from kd_keras.methods.base import Method, Specs, Taps
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import mean_square


def srrl_loss(student: Tensor, teacher: Tensor, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """MSE(u, f_t) + MSE(W_t(u), z_t), both means over all elements.

    Args:
        student: `(B, D)` the student's embedding adapted to the teacher's width, u.
        teacher: `(B, D)` the teacher's embedding f_t.
        student_logits: `(B, K)` what the teacher's classifier makes of u, W_t(u).
        teacher_logits: `(B, K)` the teacher's logits z_t.

    Returns:
        `(B,)` float32, 0 or more; its mean over the batch is the published loss.

    >>> import numpy as np
    >>> u, f, logits = np.zeros((1, 4)), np.full((1, 4), 2.0), np.array([[1.0, -1.0]])
    >>> float(srrl_loss(u, f, logits, 0 * logits)[0])
    5.0
    """
    return mean_square(student, teacher) + mean_square(student_logits, teacher_logits)


@keras.saving.register_keras_serializable("kd_keras")
class SRRL(Method):
    """The student's embedding, adapted to the teacher's width, follows the teacher's, and so do the logits that the
    teacher's frozen classifier reads from it.

    The adapter is a dense layer without bias, BatchNorm and ReLU (published as a 1x1 convolution of a 1x1 map). The
    classifier is a copy, made of the first teacher; one that is attached later must be the same network. The student's
    own logits take no part, so it may have other classes.

    Args:
        weight: 1 in the published CIFAR-100 tables, beside a hard loss of 1 and `KD(temperature=4, weight=1)`.
        name: the term's name in the log.
    """

    family = "features"
    taps = Taps(("embedding",), ("embedding", "logits"))

    def __init__(self, *, weight: Weight = 1.0, name: str | None = None):
        super().__init__(weight=weight, name=name)

    def bind(self, student: Specs, teacher: Specs) -> None:
        ours, theirs, logits = student["embedding"], teacher["embedding"], teacher["logits"]
        if any(len(spec.shape) != 2 for spec in (ours, theirs, logits)):
            came = ", ".join(f"{spec.layer!r} {spec.shape}" for spec in (ours, theirs, logits))
            remedy = "let both networks end in a pooling, then a Dense layer"
            raise ValueError(explain_mismatch(f"vectors (B, D) and logits (B, K) for {self.name!r}", came, remedy))
        shape = (theirs.shape[-1], logits.shape[-1])
        dense = layers.Dense(shape[0], use_bias=False, kernel_initializer="he_normal", dtype="float32")
        self.adapter = chain(ours, dense, batch_norm(), layers.ReLU(dtype="float32"), name="adapter")
        self.kernel = self.add_weight(shape=shape, initializer="zeros", trainable=False, name="kernel")
        self.bias = self.add_weight(shape=shape[1:], initializer="zeros", trainable=False, name="bias")
        classifier = teacher.classifier()
        if classifier is not None:  # else their values come with the file
            if classifier[0].shape != shape:
                came = f"{classifier[0].shape}; {theirs.layer!r} {theirs.shape}, {logits.layer!r} {logits.shape}"
                remedy = "let the teacher end in one Dense layer that gives its logits"
                raise ValueError(explain_mismatch(f"a teacher's classifier with a kernel {shape}", came, remedy))
            self.kernel.assign(classifier[0])
            self.bias.assign(classifier[1])
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        adapted = self.adapter(ops.cast(student["embedding"], "float32"), training=True)
        logits = ops.matmul(adapted, self.kernel) + self.bias
        return srrl_loss(adapted, teacher["embedding"], logits, teacher["logits"])
