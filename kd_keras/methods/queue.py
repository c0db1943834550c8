"""Queue: Fang et al. 2021, *SEED: Self-supervised Distillation for Visual Representation*, 2101.04731, section 3.

In the form of version 1 of LightlyTrain's distillation and of the global part of its version 3.
"""

from __future__ import annotations

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number, check_whole_number
from kd_keras.methods.adapters import dense_adapter
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.methods.labels import weighted_batch_mean
from kd_keras.primitives import l2_normalize, softened_kl


def queue_loss(
    student: Tensor, teacher: Tensor, queue: Tensor, *, filled: Tensor | int | None = None, temperature: float = 0.07
) -> Tensor:
    """KL(softmax(u Q^T / T) || softmax(v Q^T / T)) of the teacher's u and the student's v, without a factor T^2.

    The rows of the queue play the role of classes: the student is as similar to each image in the queue as the teacher.

    Args:
        student: `(B, D)` embeddings, adapted to the teacher's width; they are normalized to unit vectors here.
        teacher: `(B, D)` embeddings, likewise.
        queue: `(Q, D)` unit vectors, the teacher's embeddings of this batch and of earlier ones.
        filled: the number of rows, from the first, that count; `None` for all. In LightlyTrain's code empty rows, which
            are zeros, count as images of similarity 0 until the queue is full.
        temperature: T > 0.

    Returns:
        `(B,)` float32, in nats, at least 0. Memory: O(B Q).

    >>> import numpy as np
    >>> round(float(queue_loss(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]]), np.eye(2), temperature=1.0)[0]), 4)
    0.4621
    """
    queue = ops.cast(queue, "float32")
    scores = [ops.matmul(l2_normalize(side), ops.transpose(queue)) / temperature for side in (student, teacher)]
    if filled is not None:
        is_filled = ops.arange(ops.shape(queue)[0], dtype="int32") < filled
        # -1e4 is a probability of 0 compared with any similarity
        scores = [ops.where(is_filled, side, -1e4) for side in scores]
    return softened_kl(*scores)


@keras.saving.register_keras_serializable("kd_keras")
class Queue(TapPairMethod):
    """The student's embeddings, after a trainable linear layer, are as similar to recent images as the teacher's.

    It is meant for images without labels: `Distiller(hard_weight=0)`, mixup, one view for both networks, gradients
    clipped at norm 1, hundreds of epochs, and fine-tuning of the student afterwards. A first-in-first-out queue holds
    the teacher's embeddings as unit vectors; those of the batch are inserted before the loss. If a batch has more
    examples than the queue has rows, the first ones are inserted.

    All replicas have the same queue, that of the global batch; LightlyTrain has one queue per device.

    Args:
        size: Q, the length of the queue: a quarter to a half of the training set, and 8192 for 20000 images or more.
        temperature: T > 0.
        **options: `student_tap` and `teacher_tap`, by default the embedding; `weight`, by default 1 as in LightlyTrain,
            alone or with `Tokens`, without a hard loss (tune it if there is one); `name`.

    >>> Queue(size=1024).size
    1024
    """

    weighs_examples = True
    family = "label-free"
    paper = "Fang et al. 2021, 2101.04731"
    taps = Taps(("embedding",), ("embedding",))
    published_hard_weight = 0.0
    across_replicas = True  # the queue must be equal on all replicas

    def __init__(self, *, size: int = 8192, temperature: float = 0.07, **options: Unpack[TapPairOptions]):
        super().__init__(**options)
        self.size = check_whole_number("Queue", "size", size)
        self.temperature = check_number("Queue", "temperature", temperature, above=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        student_spec, teacher_spec = self.pair(student, teacher, rank=2)
        width, initializer = teacher_spec.shape[-1], keras.initializers.TruncatedNormal(stddev=0.02)
        self.adapter = dense_adapter(student_spec, width, kernel_initializer=initializer)
        options = {"initializer": "zeros", "trainable": False, "aggregation": "only_first_replica"}
        self.queue = self.add_weight(name="queue", shape=(self.size, width), **options)
        self.filled = self.add_weight(name="filled", shape=(), dtype="int32", **options)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        (student_vectors,), (teacher_vectors,) = self.tensors(student, teacher)
        teacher_vectors = l2_normalize(teacher_vectors)
        queue = ops.concatenate([teacher_vectors, self.queue])[: self.size]
        filled = ops.minimum(self.filled + ops.shape(teacher_vectors)[0], self.size)
        is_finite = ops.all(ops.isfinite(teacher_vectors))  # a skipped step must not stay in the queue
        self.queue.assign(ops.where(is_finite, queue, self.queue))
        self.filled.assign(ops.where(is_finite, filled, self.filled))
        adapted = self.adapter(student_vectors, training=True)
        loss = queue_loss(adapted, teacher_vectors, queue, filled=filled, temperature=self.temperature)
        return weighted_batch_mean(loss, batch)
