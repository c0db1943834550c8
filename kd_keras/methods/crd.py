"""CRD: Tian, Krishnan, Isola 2020, *Contrastive Representation Distillation*, 1910.10699, equation 18."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number, check_whole_number, explain_mismatch
from kd_keras.methods.adapters import linear
from kd_keras.methods.base import Specs, TapPairMethod
from kd_keras.methods.labels import class_indices, weighted_batch_mean
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import l2_normalize

EPSILON = 1e-7
Memory = tuple[Tensor, Tensor]


def crd_loss(
    student: Tensor,
    teacher: Tensor,
    student_memory: Memory,
    teacher_memory: Memory,
    counts: Tensor | None = None,
    *,
    constants: tuple[Any, Any],
    negatives: int = 16384,
    examples: int = 50000,
    temperature: float = 0.07,
) -> Tensor:
    """Noise-contrastive estimation: an embedding finds the other network's of the same example among K of others.

    With P(v, u) = exp(v . u / T) / Z and c = K / N + 1e-7, a side's loss is
    -log(P(v, u) / (P(v, u) + c)) - sum over negatives u' of log((K / N) / (P(v, u') + c)): a sum, not a mean, as in the
    authors' code. The student's embedding is held against the teacher's memory and the teacher's against the student's,
    and both sides are added.

    Args:
        student: `(B, D)` embeddings, of any length; they become unit vectors here.
        teacher: `(B, D)`, likewise.
        student_memory: the student's embeddings of the same examples `(B, D)` and of negatives `(M, D)`.
        teacher_memory: the teacher's, likewise.
        counts: `(B, M)`, how often each negative counts for each example; `None` for once.
        constants: Z > 0 of the student's side and of the teacher's.
        negatives: K, what the counts of an example sum to.
        examples: N, the examples of the training set.
        temperature: T > 0.

    Returns:
        `(B,)` float32, in nats, above 0. Memory: O(B M).

    >>> v, u = ops.eye(2)[:1], ops.eye(2)[1:]
    >>> round(float(crd_loss(v, v, (v, u), (v, u), constants=(1, 1), negatives=1, examples=1, temperature=1.0)[0]), 4)
    2.0128
    """
    sides = zip((student, teacher), (teacher_memory, student_memory), constants)
    log_p = (_scores(embedding, memory, temperature) - ops.log(z) for embedding, memory, z in sides)
    return sum(_side(side, counts, negatives / examples) for side in log_p)


def crd_in_batch_loss(
    student: Tensor, teacher: Tensor, labels: Tensor | None = None, *, temperature: float = 0.07
) -> Tensor:
    """The same task without a memory: an embedding finds the other network's of the same image among the batch's.

    InfoNCE, -log(exp(v_i . u_i / T) / sum_j exp(v_i . u_j / T)), with j over i itself and the images of other classes,
    for v the student's and u the teacher's, plus the same the other way round. It needs no normalising constant, no
    noise and no number of examples, and is not the published loss.

    Args:
        student: `(B, D)` embeddings, of any length; they become unit vectors here.
        teacher: `(B, D)`, likewise.
        labels: `(B,)` integers or `(B, K)` probabilities, of which the largest counts; `None` makes all others
            negatives.
        temperature: T > 0.

    Returns:
        `(B,)` float32, in nats, 0 or more; 0 for an image that has no negative. Memory: O(B^2).

    >>> import numpy as np
    >>> round(float(crd_in_batch_loss(np.eye(2), np.eye(2), temperature=1.0)[0]), 4)
    0.6265
    """
    own = ops.eye(ops.shape(student)[0], dtype="bool")
    label = class_indices(labels)
    excluded = ops.zeros_like(own) if label is None else ops.equal(label[:, None], label[None, :])
    similar = ops.matmul(l2_normalize(student), ops.transpose(l2_normalize(teacher))) / temperature
    similar = ops.where(ops.logical_and(excluded, ops.logical_not(own)), -1e9, similar)
    found = ops.log_softmax(similar, axis=1) + ops.log_softmax(similar, axis=0)
    return -ops.sum(ops.where(own, found, 0.0), axis=1)


def _scores(embedding: Tensor, memory: Memory, temperature: float) -> Tensor:
    """v . u / T of the positive, then of the negatives: `(B, 1 + M)`."""
    embedding, (positive, negative) = l2_normalize(embedding), (ops.cast(part, "float32") for part in memory)
    own = ops.sum(embedding * positive, axis=-1, keepdims=True)
    return ops.concatenate([own, ops.matmul(embedding, ops.transpose(negative))], axis=-1) / temperature


def _side(log_p: Tensor, counts: Tensor | None, noise: float) -> Tensor:
    excess = log_p - math.log(noise + EPSILON)  # P / (P + c) is its logistic function
    negative = ops.softplus(excess[:, 1:]) + math.log1p(EPSILON / noise)
    return ops.softplus(-excess[:, 0]) + ops.sum(negative if counts is None else counts * negative, axis=-1)


def _constant(scores: Tensor, counts: Tensor, examples: int) -> Tensor:
    """Z: N times the mean of exp(score) over a batch's pairs; no more than exp(80), which takes T below 0.02."""
    counts = ops.concatenate([ops.ones_like(counts[:, :1]), counts], axis=-1)
    log_sum = ops.logsumexp(scores + ops.log(ops.maximum(counts, 1e-30)))
    return ops.exp(ops.minimum(log_sum - ops.log(ops.sum(counts)) + math.log(examples), 80.0))


@keras.saving.register_keras_serializable("kd_keras")
class CRD(TapPairMethod):
    """Student and teacher, each through a trainable linear layer, give an image embeddings that find each other.

    As published: two memories of every example's embeddings, their rows moved by the momentum and made unit vectors
    after each use; Z measured on the first batch and kept; K negatives of other classes, in `crd_loss`.

    What differs: the authors' code draws K negatives for each example, from the labels of the whole dataset, without
    replacement where a class's others suffice. Here one draw of K numbers from 0 to N - 1, with replacement, serves the
    whole batch, so that the scores are a matrix product. Of an example's m draws of other classes each counts K / m
    times, by which the sum over negatives keeps its expectation: given m > 0, those draws are uniform over the other
    classes. The classes are noted as examples are seen; until then, in the first epoch, a row counts as of another
    class. Without labels each example is a class of its own. Mixed labels count as their largest.

    With `examples=None`, for data too large to remember or without numbers, it is `crd_in_batch_loss` on the global
    batch, which keeps no state; a large batch is then what gives it negatives.

    It sees the batch of all replicas. An example that comes twice in a batch leaves one of its embeddings. Memory:
    8 N `width` bytes on each device (1.3 GB for ImageNet) and as much again while a step writes them; O(B K) a step.

    Args:
        examples: N, the training set's size, whose examples `batch.index` numbers from 0; `None` for the form without
            memory. Compiled steps cannot raise: a number outside 0 to N - 1 makes the loss NaN, at which `fit`
            stops, where the device does not refuse it.
        negatives: K, with a memory.
        width: of the embeddings, D.
        temperature: T > 0.
        momentum: what a memory's row keeps of itself, from 0 to below 1.
        seed: of memories and negatives; `None` for one of Keras's.
        student_tap: the vectors to guide.
        teacher_tap: what they follow.
        weight: 0.8 in the published CIFAR-100 tables, beside a hard loss of 1; tune it without a memory.
        name: the term's name in the log.
    """

    family = "relations"
    needs_index = True
    across_replicas = True  # the memories must be the same on all

    def __init__(
        self,
        *,
        examples: int | None = None,
        negatives: int = 16384,
        width: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.5,
        seed: int | None = None,
        student_tap: str = "embedding",
        teacher_tap: str = "embedding",
        weight: Weight = 0.8,
        name: str | None = None,
    ):
        super().__init__(student_tap=student_tap, teacher_tap=teacher_tap, weight=weight, name=name)
        self.examples = None if examples is None else check_whole_number("CRD", "examples", examples, 2)
        self.negatives, self.width = check_whole_number("CRD", "negatives", negatives, 1), check_whole_number("CRD", "width", width, 1)
        self.temperature = check_number("CRD", "temperature", temperature, above=0)
        self.momentum = check_number("CRD", "momentum", momentum)
        if not 0 <= self.momentum < 1:
            raise ValueError(explain_mismatch("CRD(momentum=...) from 0 to below 1", repr(momentum)))
        self.seed = None if seed is None else check_whole_number("CRD", "seed", seed, 0)
        self.needs_index = self.examples is not None

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.embeds = [linear(spec, self.width) for spec in self.pair(student, teacher, rank=2)]
        if self.examples is not None:
            bound, seeds = math.sqrt(3 / self.width), (None, None) if self.seed is None else (self.seed, self.seed + 1)
            self.student_memory, self.teacher_memory = (
                self._state(name, (self.examples, self.width), keras.initializers.RandomUniform(-bound, bound, seed))
                for name, seed in zip(("student_memory", "teacher_memory"), seeds)
            )
            self.classes = self._state("classes", (self.examples,), keras.initializers.Constant(-1), "int32")
            self.constants = self._state("constants", (2,), keras.initializers.Constant(-1.0))  # -1: not yet measured
            self.generator = keras.random.SeedGenerator(self.seed)
            self.drawn = self.generator.state  # a weight of this layer, so that a file of weights has it
        super().bind(student, teacher)

    def _state(self, name: str, shape: tuple, initializer: Any, dtype: str = "float32") -> keras.Variable:
        options = {"trainable": False, "aggregation": "only_first_replica"}
        return self.add_weight(name=name, shape=shape, initializer=initializer, dtype=dtype, **options)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        taps = [side[0] for side in self.tensors(student, teacher)]
        embeddings = [l2_normalize(embed(tap, training=True)) for embed, tap in zip(self.embeds, taps)]
        if self.examples is None:
            loss = crd_in_batch_loss(*embeddings, class_indices(batch.label), temperature=self.temperature)
        else:
            loss = self._remembered(embeddings, batch)
        return weighted_batch_mean(loss, batch)

    def _remembered(self, embeddings: list[Tensor], batch: Batch) -> Tensor:
        """The loss `(B,)` against the memories, which then take in the batch."""
        if batch.index is None:
            remedy = "data.training(..., with_index=True), or CRD(examples=None), which remembers nothing"
            raise ValueError(explain_mismatch(f"the examples' numbers, batch.index, for {self.name!r}", "none", remedy))
        index, label = ops.cast(ops.reshape(batch.index, (-1,)), "int32"), class_indices(batch.label)
        memories = (self.student_memory, self.teacher_memory)
        drawn, counts = self._negatives(index, index if label is None else label)
        remembered = [[ops.take(memory, rows, axis=0) for rows in (index, drawn)] for memory in memories]
        options = {"negatives": self.negatives, "examples": self.examples, "temperature": self.temperature}
        constants = ops.unstack(self._constants_by(embeddings, remembered, counts))
        loss = crd_loss(*embeddings, *remembered, counts, constants=constants, **options)
        for memory, (old, _), new in zip(memories, remembered, embeddings):
            rows = l2_normalize(self.momentum * old + (1 - self.momentum) * ops.stop_gradient(new))
            memory.assign(ops.scatter_update(memory, index[:, None], rows))
        return ops.where(ops.logical_and(index >= 0, index < self.examples), loss, float("nan"))

    def _negatives(self, index: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """The numbers `(K,)` of the drawn examples, and how often each counts for each of the batch `(B, K)`."""
        classes = ops.scatter_update(self.classes, index[:, None], label)
        self.classes.assign(classes)
        drawn = keras.random.randint((self.negatives,), 0, self.examples, seed=self.generator)
        other = ops.cast(ops.not_equal(label[:, None], ops.take(classes, drawn)[None, :]), "float32")
        return drawn, other * self.negatives / ops.maximum(ops.sum(other, axis=-1, keepdims=True), 1.0)

    def _constants_by(self, embeddings: list[Tensor], remembered: list[Memory], counts: Tensor) -> Tensor:
        """Z of both sides `(2,)`, measured where they have not been."""
        scores = (_scores(v, memory, self.temperature) for v, memory in zip(embeddings, remembered[::-1]))
        measured = ops.stop_gradient(ops.stack([_constant(side, counts, self.examples) for side in scores]))
        constants = ops.where(self.constants < 0, measured, self.constants)
        self.constants.assign(constants)
        return constants
