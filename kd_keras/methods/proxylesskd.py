"""ProxylessKD: Shi et al. 2020, *ProxylessKD: Direct Knowledge Distillation with Inherited Classifier for Face
Recognition*, 2011.00265, section 3."""

from __future__ import annotations

import keras
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_choice, explain_mismatch
from kd_keras.faces.margins import center_cosines, check_identities, margin_loss, published_margin
from kd_keras.methods.adapters import add_class_centers, describe_pair
from kd_keras.methods.base import Method, MethodOptions, Specs, Taps
from kd_keras.methods.labels import class_indices

HEADS = ("arcface", "cosface", "sphereface")  # AdaFace needs running statistics of the student's norms


def proxylesskd_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    head: str = "arcface",
    scale: float | None = None,
    margin: float | None = None,
) -> Tensor:
    """The margin softmax of the student's embeddings over the teacher's class centers.

    Args:
        student: embeddings `(B, D)`.
        teacher: the teacher's class centers, one per column, `(D, K)`.
        labels: `(B,)` integers from 0 to K - 1; the loss of any other label is NaN.
        head: "arcface", "cosface" or "sphereface".
        scale: s, by default as published for the head.
        margin: m, likewise.

    Returns:
        `(B,)` float32, in nats.

    Raises:
        ValueError: if the head is unknown.

    >>> import numpy as np
    >>> centers, embedding = np.eye(2), np.array([[0.6, 0.8]])  # (D, K), (B, D)
    >>> loss = proxylesskd_loss(embedding, centers, np.array([1]), head="cosface", scale=1.0, margin=0.2)
    >>> round(float(loss[0]), 4)  # log 2, because 0.8 - 0.2 = 0.6
    0.6931
    """
    check_choice("proxylesskd_loss", "head", head, HEADS)
    return margin_loss(center_cosines(student, teacher), labels, published_margin(head, scale, margin))


@keras.saving.register_keras_serializable("kd_keras")
class ProxylessKD(Method):
    """The student inherits the teacher's frozen class centers, and learns the labels by their margin softmax.

    So the embeddings of both networks are in one space, and can be compared with each other. Both must have the same
    width, and the labels must be the teacher's identities. The teacher itself is not run for this loss, and a head of
    the student is not needed: it is published without the student's own (`hard_weight=0`).

    Args:
        head: "arcface", "cosface" or "sphereface".
        scale: s, by default as published for the head: 64 for "arcface".
        margin: m, likewise: 0.5 for "arcface".
        **options: `weight`, by default 1; `name`.

    >>> ProxylessKD(head="cosface").head
    'cosface'
    """

    family = "embeddings"
    paper = "Shi et al. 2020, 2011.00265"
    taps = Taps(("embedding",), ("embedding", "logits"))  # the teacher's only for their shapes
    published_hard_weight = 0.0

    def __init__(
        self,
        *,
        head: str = "arcface",
        scale: float | None = None,
        margin: float | None = None,
        **options: Unpack[MethodOptions],
    ):
        super().__init__(**options)
        self.head = check_choice("ProxylessKD", "head", head, HEADS)
        published_margin(head, scale, margin)
        self.scale, self.margin = scale, margin

    def bind(self, student: Specs, teacher: Specs) -> None:
        specs = student["embedding"], teacher["embedding"]
        if any(len(spec.shape) != 2 for spec in specs) or specs[0].shape[-1] != specs[1].shape[-1]:
            expected = f"embeddings (B, D) of one width for method {self.name!r}"
            advice = "build the student with dimension=, or use Angular, which has an adapter"
            raise ValueError(explain_mismatch(expected, describe_pair(*specs), advice))
        self.centers = add_class_centers(self, teacher)
        super().bind(student, teacher)

    def check_batch(self, batch: Batch) -> None:
        labels = class_indices(batch.label)
        if labels is not None:
            check_identities(labels, self.centers.shape[-1], f"the teacher's identities in method {self.name!r}")

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        labels = class_indices(batch.label)
        if labels is None:
            advice = "use Angular or Embedding for images without labels"
            raise ValueError(explain_mismatch(f"labels (B,) for method {self.name!r}", "none", advice))
        embedding = student["embedding"]
        return proxylesskd_loss(embedding, self.centers, labels, head=self.head, scale=self.scale, margin=self.margin)
