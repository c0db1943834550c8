"""DML: Zhang et al. 2018, *Deep Mutual Learning*, 1706.00384, equations 5 and 8."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number, explain_mismatch
from kd_keras.methods.base import Method, MethodOptions, Specs, Taps
from kd_keras.methods.labels import check_one_prediction, cross_entropy
from kd_keras.primitives import softened_kl


def dml_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], labels: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """The sum over M peers i of CE(softmax(z_i), y) + 1 / (M - 1) sum over j != i of T^2 KL(p_j || p_i).

    p = softmax(z / T). The predictions p_j of the others are constants. The official code adds up over j without
    dividing by M - 1.

    Args:
        student: the logits z_i `(B, K)` of each peer.
        teacher: the same logits, or those of the same peers that they follow; the caller stops their gradient.
        labels: `(B,)` integer classes or `(B, K)` probabilities.
        temperature: T > 0; 1 as published.

    Returns:
        `(B,)` float32, in nats, at least 0.

    >>> import numpy as np
    >>> logits = [np.zeros((1, 2), "float32"), np.array([[0.0, 1.0]], "float32")]
    >>> round(float(dml_loss(logits, logits, np.array([1]))[0]), 4)  # log 2 + log(1 + 1 / e) + both divergences
    1.2375
    """
    total = sum(cross_entropy(logits, labels) for logits in student)
    for number, logits in enumerate(student):
        peers = [peer for index, peer in enumerate(teacher) if index != number]
        followed = sum(softened_kl(logits, peer, temperature) for peer in peers)
        total = total + temperature**2 * followed / len(peers)
    return total


@keras.saving.register_keras_serializable("kd_keras")
class DML(Method):
    """Several networks learn from the labels and from each other's predictions of the same step, without a teacher.

    The student is a cohort of peers, `models.cohort`. Each peer runs once in a step, and all are updated together. The
    loss contains the cross-entropies of all peers, so that the compiled hard loss, that of their mean prediction, is
    not needed: `hard_weight=0` is the published training. `schemes.train_peers` builds, trains and saves a cohort.

    Args:
        temperature: T > 0; 1 as published.
        **options: `weight`, by default 1, and `name`.

    >>> DML().taps.student
    ('peer*',)
    """

    family = "self"
    paper = "Zhang et al. 2018, 1706.00384"
    taps = Taps(("peer*",), ())
    published_hard_weight = 0.0

    def __init__(self, *, temperature: float = 1.0, **options: Unpack[MethodOptions]):
        super().__init__(**options)
        self.temperature = check_number("DML", "temperature", temperature, above=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        peers = student["peer*"]
        if len(peers) < 2 or len({spec.shape[-1] for spec in peers}) > 1 or peers[0].shape[-1] < 2:
            received = ", ".join(f"{spec.layer!r} {spec.shape}" for spec in peers)
            expected = f"logits of two or more peers with the same classes for method {self.name!r}"
            raise ValueError(explain_mismatch(expected, received, "build the student with models.cohort"))
        for spec in peers:
            check_one_prediction(self.name, spec.shape)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        if batch.label is None:
            raise ValueError("Method DML needs labels, but the batch has none. Its peers learn from the labels too.")
        peers = student["peer*"]
        constants = [ops.stop_gradient(logits) for logits in peers]
        return dml_loss(peers, constants, batch.label, temperature=self.temperature)
