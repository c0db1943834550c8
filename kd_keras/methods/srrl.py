"""SRRL: Yang et al. 2021, *Knowledge Distillation via Softmax Regression Representation Learning*, ICLR, section 3.

As the code of Chen et al. 2022 (SimKD, 2203.14001) computes it for its tables.
"""

from __future__ import annotations

import keras
from keras import layers, ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import explain_mismatch
from kd_keras.methods.adapters import batch_norm, chain, fan_in_uniform
from kd_keras.methods.base import Method, Specs, Taps
from kd_keras.primitives import mean_square


def srrl_loss(student: Tensor, teacher: Tensor, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """MSE(u, f_t) + MSE(W_t(u), z_t), both means over all elements.

    Args:
        student: `(B, D)`, the student's embedding adapted to the teacher's width, u.
        teacher: `(B, D)`, the teacher's embedding f_t.
        student_logits: `(B, K)`, the teacher's classifier on u, W_t(u).
        teacher_logits: `(B, K)`, the teacher's logits z_t.

    Returns:
        `(B,)` float32, at least 0; its mean over the batch is the published loss.

    >>> import numpy as np
    >>> u, f, logits = np.zeros((1, 4)), np.full((1, 4), 2.0), np.array([[1.0, -1.0]])
    >>> float(srrl_loss(u, f, logits, 0 * logits)[0])
    5.0
    """
    return mean_square(student, teacher) + mean_square(student_logits, teacher_logits)


@keras.saving.register_keras_serializable("kd_keras")
class SRRL(Method):
    """The student's embedding, adapted to the teacher's width, follows the teacher's, and so do the logits that the
    teacher's frozen classifier computes from it.

    The adapter is a dense layer without bias, BatchNorm and ReLU (published as a 1x1 convolution of a 1x1 map). The
    classifier is copied from the first teacher; a teacher attached later must be the same network. The student's own
    logits are not used, so that it may have other classes.

    Args:
        **options: `weight`, by default 1 as in the published CIFAR-100 tables, with a hard loss of 1 and
            `KD(temperature=4, weight=1)`; `name`.

    >>> SRRL().taps.teacher
    ('embedding', 'logits')
    """

    family = "features"
    paper = "Yang et al. 2021, ICLR"
    taps = Taps(("embedding",), ("embedding", "logits"))

    def bind(self, student: Specs, teacher: Specs) -> None:
        specs = (student["embedding"], teacher["embedding"], teacher["logits"])
        if any(len(spec.shape) != 2 for spec in specs):
            expected = f"vectors (B, D) and logits (B, K) for method {self.name!r}"
            received = ", ".join(f"{spec.layer!r} {spec.shape}" for spec in specs)
            advice = "choose networks that end in a pooling layer and a Dense layer"
            raise ValueError(explain_mismatch(expected, received, advice))
        shape = (specs[1].shape[-1], specs[2].shape[-1])
        dense = layers.Dense(shape[0], use_bias=False, kernel_initializer=fan_in_uniform(), dtype="float32")
        self.adapter = chain(specs[0], dense, batch_norm(), layers.ReLU(dtype="float32"), name="adapter")
        self.kernel = self.add_weight(shape=shape, initializer="zeros", trainable=False, name="kernel")
        self.bias = self.add_weight(shape=shape[1:], initializer="zeros", trainable=False, name="bias")
        classifier = teacher.classifier()
        if classifier is not None:  # otherwise the values are loaded from the weights file
            self._copy_classifier(*classifier, specs[1].layer)
        super().bind(student, teacher)

    def _copy_classifier(self, kernel: Tensor, bias: Tensor, layer: str) -> None:
        shape = tuple(self.kernel.shape)
        if kernel.shape != shape:
            expected = f"a teacher's classifier with a kernel {shape} after {layer!r} for method {self.name!r}"
            advice = "choose a teacher that ends in one Dense layer, whose outputs are its logits"
            raise ValueError(explain_mismatch(expected, f"a kernel {kernel.shape}", advice))
        self.kernel.assign(kernel)
        self.bias.assign(bias)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        adapted = self.adapter(ops.cast(student["embedding"], "float32"), training=True)
        logits = ops.matmul(adapted, self.kernel) + self.bias
        return srrl_loss(adapted, teacher["embedding"], logits, teacher["logits"])
