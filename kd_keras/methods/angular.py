"""Angular: the student's angles to the teacher's class centers follow the teacher's.

There is no paper with exactly this loss; the nearest is Svitov and Alyamkin 2020, *MarginDistillation: Distillation for
Face Recognition Neural Networks with Margin-based Softmax*, 2003.02586, which copies the teacher's class centers and
reaches the teacher's angles through the margin of each example. Here the angles themselves are compared.
"""

from __future__ import annotations

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import explain_mismatch
from kd_keras.faces.margins import EDGE, center_cosines
from kd_keras.methods.adapters import add_class_centers, describe_pair, vector_adapter
from kd_keras.methods.base import Method, MethodOptions, Specs, Taps


def angular_loss(student: Tensor, teacher: Tensor, centers: Tensor) -> Tensor:
    """The mean over the K classes of (a_s - a_t)^2, with the angles a of both embeddings to each center, in radians.

    Cosines are clipped to 1 - 1e-4, an angle of 0.8 degrees, because the slope of arccos is infinite at 1.

    Args:
        student: embeddings `(B, D)`, adapted to the teacher's width.
        teacher: embeddings `(B, D)`.
        centers: the teacher's class centers, one per column, `(D, K)`.

    Returns:
        `(B,)` float32, at least 0.

    >>> import numpy as np
    >>> centers = np.array([[1.0, 0.0], [0.0, 1.0]])  # (D, K)
    >>> round(float(angular_loss(np.array([[1.0, 1.0]]), np.array([[0.5, 3**0.5 / 2]]), centers)[0]), 4)  # 15 degrees
    0.0685
    """
    angles = [
        ops.arccos(ops.clip(center_cosines(side, centers), -1.0 + EDGE, 1.0 - EDGE)) for side in (student, teacher)
    ]
    return ops.mean(ops.square(angles[0] - angles[1]), axis=-1)


@keras.saving.register_keras_serializable("kd_keras")
class Angular(Method):
    """The angles between the student's embedding and the teacher's class centers follow the teacher's own angles.

    The teacher's classifier gives the centers: that of a `models.recognizer`, or the kernel of a Dense layer. They are
    copied at construction and stay fixed. No labels are needed, and the student may have other classes. If the widths
    of the embeddings differ, a linear layer without bias maps the student's to the teacher's.

    Args:
        **options: `weight`, by default 1, which is not published: tune it; `name`.

    >>> Angular().taps.teacher
    ('embedding', 'logits')
    """

    family = "embeddings"
    paper = "Svitov, Alyamkin 2020, 2003.02586"
    taps = Taps(("embedding",), ("embedding", "logits"))  # the logits for the number of classes

    def __init__(self, **options: Unpack[MethodOptions]):
        super().__init__(**options)

    def bind(self, student: Specs, teacher: Specs) -> None:
        specs = student["embedding"], teacher["embedding"]
        if any(len(spec.shape) != 2 for spec in specs):
            raise ValueError(explain_mismatch(f"embeddings (B, D) for method {self.name!r}", describe_pair(*specs)))
        self.adapter = vector_adapter(*specs)
        self.centers = add_class_centers(self, teacher)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        return angular_loss(self.adapter(student["embedding"]), teacher["embedding"], self.centers)
