"""Queue: Fang et al. 2021, *SEED: Self-supervised Distillation for Visual Representation*, 2101.04731, section 3.

In the form of LightlyTrain's distillation, version 1 and the global part of version 3.
"""

from __future__ import annotations

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number, check_whole_number
from kd_keras.methods.adapters import linear
from kd_keras.methods.base import Specs, TapPairMethod
from kd_keras.methods.labels import weighted_batch_mean
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import l2_normalize, softened_kl


def queue_loss(
    student: Tensor, teacher: Tensor, queue: Tensor, *, filled: Tensor | int | None = None, temperature: float = 0.07
) -> Tensor:
    """KL(softmax(u Q^T / T) || softmax(v Q^T / T)) of the teacher's u and the student's v; there is no T^2.

    The queue's rows stand for classes: the student is as similar to each image in it as the teacher is.

    Args:
        student: `(B, D)` embeddings, adapted to the teacher's width; they become unit vectors here.
        teacher: `(B, D)` embeddings, likewise.
        queue: `(Q, D)` unit vectors, the teacher's embeddings of this batch and of earlier ones.
        filled: how many of the first rows count; `None` for all. LightlyTrain's code lets empty rows, which are zeros,
            count as images of similarity 0 until the queue is full.
        temperature: T > 0.

    Returns:
        `(B,)` float32, in nats, 0 or more. Memory: O(B Q).

    >>> import numpy as np
    >>> round(float(queue_loss(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]]), np.eye(2), temperature=1.0)[0]), 4)
    0.4621
    """
    queue = ops.cast(queue, "float32")
    scores = [ops.matmul(l2_normalize(side), ops.transpose(queue)) / temperature for side in (student, teacher)]
    if filled is not None:
        counts = ops.arange(ops.shape(queue)[0], dtype="int32") < filled
        scores = [ops.where(counts, side, -1e4) for side in scores]  # its exponential is 0 for any similarity
    return softened_kl(*scores)


@keras.saving.register_keras_serializable("kd_keras")
class Queue(TapPairMethod):
    """The student's embeddings, through a trainable linear layer, are as similar to recent images as the teacher's are.

    For images without labels: `Distiller(hard_weight=0)`, mixup, one view for both networks, the gradient's norm
    clipped at 1, hundreds of epochs; the student is fine-tuned after. A first-in-first-out queue holds the teacher's
    embeddings as unit vectors; the batch's own are put in before the loss. Where a batch has more examples than the
    queue has rows, the first ones are put in.

    With several replicas there is one queue, of the whole batch, the same on all; LightlyTrain keeps one for each.

    Args:
        size: Q, the queue's length: a quarter to a half of the training set, and 8192 from 20000 images on.
        temperature: T > 0.
        student_tap: the vectors to guide.
        teacher_tap: what they follow.
        weight: 1, alone or beside `Tokens`; tune it beside a hard loss.
        name: the term's name in the log.
    """

    family = "label-free"
    published_hard_weight = 0.0
    across_replicas = True  # the queue must be the same on all

    def __init__(
        self,
        *,
        size: int = 8192,
        temperature: float = 0.07,
        student_tap: str = "embedding",
        teacher_tap: str = "embedding",
        weight: Weight = 1.0,
        name: str | None = None,
    ):
        super().__init__(student_tap=student_tap, teacher_tap=teacher_tap, weight=weight, name=name)
        self.size = check_whole_number("Queue", "size", size)
        self.temperature = check_number("Queue", "temperature", temperature, above=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        ours, theirs = self.pair(student, teacher, rank=2)
        width = theirs.shape[-1]
        self.linear = linear(ours, width, kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02))
        options = {"initializer": "zeros", "trainable": False, "aggregation": "only_first_replica"}
        self.queue = self.add_weight(name="queue", shape=(self.size, width), **options)
        self.filled = self.add_weight(name="filled", shape=(), dtype="int32", **options)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        (ours,), (theirs,) = self.tensors(student, teacher)
        theirs = l2_normalize(theirs)
        queue = ops.concatenate([theirs, self.queue])[: self.size]
        filled = ops.minimum(self.filled + ops.shape(theirs)[0], self.size)
        self.queue.assign(queue)
        self.filled.assign(filled)
        adapted = self.linear(ours, training=True)
        loss = queue_loss(adapted, theirs, queue, filled=filled, temperature=self.temperature)
        return weighted_batch_mean(loss, batch)
