"""Embedding: the student's embedding points where the teacher's does.

Duong et al. 2019, *ShrinkTeaNet: Million-scale Lightweight Face Recognition via Shrinking Teacher-Student Networks*,
1905.10620, section 4, whose angular loss is the form "squared_cosine". The form "cosine" is that of Keras_insightface.
"""

from __future__ import annotations

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_choice
from kd_keras.methods.adapters import vector_adapter
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.primitives import l2_normalize, mean_square, smooth_l1

FORMS = ("cosine", "squared_cosine", "mean_square", "smooth_l1")


def embedding_loss(student: Tensor, teacher: Tensor, *, form: str = "cosine") -> Tensor:
    """1 - cos(e_s, e_t), its square, or the mean of (e_s - e_t)^2 or of the smooth L1 distance over the dimensions.

    The square has hardly any gradient near the teacher's direction. The mean square also follows the length of the
    teacher's embedding, which its last BatchNorm sets. Of unit vectors it is 2 (1 - cos) / D.

    Args:
        student: `(B, D)`, adapted to the teacher's width.
        teacher: `(B, D)`.
        form: "cosine", "squared_cosine", "mean_square" or "smooth_l1".

    Returns:
        `(B,)` float32: from 0 to 2 for "cosine", to 4 for "squared_cosine", at least 0 for the others. The cosine of a
        vector of zeros is 0, without a gradient.

    Raises:
        ValueError: if the form is unknown.

    >>> import numpy as np
    >>> e_s, e_t = np.array([[0.0, 2.0]]), np.array([[3.0, 4.0]])  # (B, D), the cosine is 0.8
    >>> [round(float(embedding_loss(e_s, e_t, form=form)[0]), 4) for form in FORMS]
    [0.2, 0.04, 6.5, 2.0]
    """
    if check_choice("embedding_loss", "form", form, FORMS) in ("mean_square", "smooth_l1"):
        return (mean_square if form == "mean_square" else smooth_l1)(student, teacher)
    distance = 1.0 - ops.sum(l2_normalize(student) * l2_normalize(teacher), axis=-1)
    return ops.square(distance) if form == "squared_cosine" else distance


@keras.saving.register_keras_serializable("kd_keras")
class Embedding(TapPairMethod):
    """The student's embeddings follow the teacher's, example by example.

    It needs no labels: with `Distiller(hard_weight=0)` any faces will do. If both widths are equal there is no adapter,
    and embeddings of the student can be compared with those that the teacher has computed. If they differ, a linear
    layer without bias maps the student's embedding to the teacher's width; it is no part of the student.

    Args:
        form: "cosine", "squared_cosine", "mean_square" or "smooth_l1".
        **options: `student_tap` and `teacher_tap`, by default the embedding; `weight`, by default 128, the better one
            of two that Keras_insightface published for the cosine with ArcFace at scale 64 (the second is 7); `name`.

    >>> Embedding(form="squared_cosine").form
    'squared_cosine'
    """

    family = "embeddings"
    paper = "Duong et al. 2019, 1905.10620"
    taps = Taps(("embedding",), ("embedding",))
    default_weight = 128.0

    def __init__(self, *, form: str = "cosine", **options: Unpack[TapPairOptions]):
        super().__init__(**options)
        self.form = check_choice("Embedding", "form", form, FORMS)

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.adapter = vector_adapter(*self.pair(student, teacher, rank=2))
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        (student_embedding,), (teacher_embedding,) = self.tensors(student, teacher)
        return embedding_loss(self.adapter(student_embedding), teacher_embedding, form=self.form)
