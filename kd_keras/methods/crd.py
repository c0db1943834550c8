"""CRD: Tian, Krishnan, Isola 2020, *Contrastive Representation Distillation*, 1910.10699, equation 18."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number, check_whole_number, explain_mismatch
from kd_keras.methods.adapters import dense_adapter
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.methods.labels import class_indices, weighted_batch_mean
from kd_keras.primitives import keep_finite, l2_normalize

EPSILON = 1e-7
Memory: TypeAlias = tuple[Tensor, Tensor]  # the embeddings of the examples of a batch, and of the negatives


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
    """Noise-contrastive estimation: each embedding has to identify the other network's embedding of the same example
    among those of K negatives.

    With P(v, u) = exp(v . u / T) / Z and c = K / N + 1e-7, the loss of a side is
    -log(P(v, u) / (P(v, u) + c)) - sum over negatives u' of log((K / N) / (P(v, u') + c)): a sum, not a mean, as in the
    authors' code. The student's embedding is compared with the teacher's memory and the teacher's with the student's,
    and the losses of both sides are added.

    Args:
        student: `(B, D)` embeddings of any length; they are normalized to unit vectors here.
        teacher: `(B, D)` embeddings, likewise.
        student_memory: the student's embeddings of the same examples `(B, D)` and of negatives `(M, D)`, unit vectors.
        teacher_memory: the teacher's, likewise.
        counts: `(B, M)`, how often each negative counts for each example; `None` for once.
        constants: Z > 0 of the student's side and of the teacher's side.
        negatives: K, the sum of the counts of an example.
        examples: N, the number of training examples.
        temperature: T > 0.

    Returns:
        `(B,)` float32, in nats, greater than 0. Memory: O(B M).

    >>> v, u = ops.eye(2)[:1], ops.eye(2)[1:]
    >>> round(float(crd_loss(v, v, (v, u), (v, u), constants=(1, 1), negatives=1, examples=1, temperature=1.0)[0]), 4)
    2.0128
    """
    sides = zip((student, teacher), (teacher_memory, student_memory), constants, strict=True)
    log_p = (_scores(embedding, memory, temperature) - ops.log(z) for embedding, memory, z in sides)
    return sum(_loss_of_side(side, counts, negatives / examples) for side in log_p)


def crd_in_batch_loss(
    student: Tensor, teacher: Tensor, labels: Tensor | None = None, *, temperature: float = 0.07
) -> Tensor:
    """The same task without a memory: each embedding has to identify the other network's among those of the batch.

    InfoNCE, -log(exp(v_i . u_i / T) / sum_j exp(v_i . u_j / T)) with v the student's embeddings and u the teacher's,
    where j runs over i and the images of other classes; plus the same with v and u exchanged. It needs no normalizing
    constant, no noise distribution and no number of examples. It is not the published loss.

    Args:
        student: `(B, D)` embeddings of any length; they are normalized to unit vectors here.
        teacher: `(B, D)` embeddings, likewise.
        labels: `(B,)` integers or `(B, K)` probabilities, whose largest entry is the class; with `None` all other
            images are negatives.
        temperature: T > 0.

    Returns:
        `(B,)` float32, in nats, at least 0; 0 for an image without negatives. Memory: O(B^2).

    >>> import numpy as np
    >>> round(float(crd_in_batch_loss(np.eye(2), np.eye(2), temperature=1.0)[0]), 4)
    0.6265
    """
    is_positive = ops.eye(ops.shape(student)[0], dtype="bool")
    classes = class_indices(labels)
    same_class = ops.zeros_like(is_positive) if classes is None else ops.equal(classes[:, None], classes[None, :])
    similarity = ops.matmul(l2_normalize(student), ops.transpose(l2_normalize(teacher))) / temperature
    similarity = ops.where(ops.logical_and(same_class, ops.logical_not(is_positive)), -1e9, similarity)
    log_p = ops.log_softmax(similarity, axis=1) + ops.log_softmax(similarity, axis=0)
    return -ops.sum(ops.where(is_positive, log_p, 0.0), axis=1)


def _scores(embedding: Tensor, memory: Memory, temperature: float) -> Tensor:
    """v . u / T of the positive, then of the negatives: `(B, 1 + M)`."""
    embedding, (positives, negatives) = l2_normalize(embedding), (ops.cast(part, "float32") for part in memory)
    positive = ops.sum(embedding * positives, axis=-1, keepdims=True)
    return ops.concatenate([positive, ops.matmul(embedding, ops.transpose(negatives))], axis=-1) / temperature


def _loss_of_side(log_p: Tensor, counts: Tensor | None, noise: float) -> Tensor:
    excess = log_p - math.log(noise + EPSILON)  # P / (P + c) is its logistic function
    negative = ops.softplus(excess[:, 1:]) + math.log1p(EPSILON / noise)
    negative = negative if counts is None else ops.cast(counts, "float32") * negative
    return ops.softplus(-excess[:, 0]) + ops.sum(negative, axis=-1)


def _normalizing_constant(scores: Tensor, counts: Tensor, examples: int) -> Tensor:
    """Z: N times the mean of exp(score) over the pairs of a batch; at most exp(80), which matters for T below 0.02."""
    counts = ops.concatenate([ops.ones_like(counts[:, :1]), counts], axis=-1)
    log_sum = ops.logsumexp(scores + ops.log(ops.maximum(counts, 1e-30)))
    return ops.exp(ops.minimum(log_sum - ops.log(ops.sum(counts)) + math.log(examples), 80.0))


@keras.saving.register_keras_serializable("kd_keras")
class CRD(TapPairMethod):
    """Student and teacher embed an image, each through a trainable linear layer, so that the embeddings identify each
    other among those of other images.

    As published: two memories with the embeddings of every example, whose rows are updated with momentum and normalized
    to unit vectors after each use; Z is measured on the first batch and then kept; K negatives of other classes;
    `crd_loss`.

    Differs from the authors' code in the draw of negatives. That code draws K negatives for each example, by the labels
    of the whole dataset, without replacement if a class has enough others. Here one draw of K numbers from 0 to N - 1,
    with replacement, serves the whole batch, so that the scores are a matrix product. If m of the draws are of other
    classes than an example's, each of them counts K / m times, which keeps the expectation of the sum: given m > 0,
    those draws are uniform over the other classes. The method records classes as it sees examples; until then, in the
    first epoch, a row counts as of another class. Without labels each example is a class of its own. The class of a
    mixed label is its largest entry.

    With `examples=None`, which must be chosen explicitly, for data too large for a memory or without example numbers,
    the loss is `crd_in_batch_loss` on the global batch, without state; the number of negatives then depends on the
    batch size.

    The authors' relaxed mode, whose positive is a random example of the same class, is not offered.

    The method gets the global batch. If an example appears twice in a batch, one of its embeddings is stored. Memory:
    8 N `width` bytes on each device (1.3 GB for ImageNet) and as much again while a step writes them; O(B K) per step.

    Args:
        examples: N, the size of the training set, in which `batch.index` numbers the examples from 0; `None` for the
            loss without a memory. `fit` rejects a number outside 0 to N - 1 in its first batches; later, as compiled
            steps cannot raise, the loss becomes NaN, and `fit` stops.
        negatives: K, if there is a memory.
        width: D, the width of the embeddings.
        temperature: T > 0.
        momentum: the fraction of a memory's row that is kept in an update, from 0 to less than 1.
        seed: the seed of memories and negatives; `None` for one drawn by Keras.
        **options: `student_tap` and `teacher_tap`, by default the embedding; `weight`, by default 0.8 as in the
            published CIFAR-100 tables, with a hard loss of 1 (tune it without a memory); `name`.

    >>> CRD(examples=50000).needs_index, CRD(examples=None).needs_index
    (True, False)
    """

    weighs_examples = True
    family = "relations"
    paper = "Tian, Krishnan, Isola 2020, 1910.10699"
    taps = Taps(("embedding",), ("embedding",))
    default_weight = 0.8
    needs_index = True
    across_replicas = True  # the memories must be equal on all replicas
    nonfinite_advice = "Check that all example numbers are below CRD(examples=...)."

    def __init__(
        self,
        *,
        examples: int | None,
        negatives: int = 16384,
        width: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.5,
        seed: int | None = None,
        **options: Unpack[TapPairOptions],
    ):
        super().__init__(**options)
        self.examples = None if examples is None else check_whole_number("CRD", "examples", examples, least=2)
        self.negatives = check_whole_number("CRD", "negatives", negatives)
        self.width = check_whole_number("CRD", "width", width)
        self.temperature = check_number("CRD", "temperature", temperature, above=0)
        self.momentum = check_number("CRD", "momentum", momentum, least=0, below=1)
        self.seed = None if seed is None else check_whole_number("CRD", "seed", seed, least=0)
        self.needs_index = self.examples is not None
        self.least_examples = 2 if self.examples is None else 1  # without a memory, the others are the negatives

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.embedders = [dense_adapter(spec, self.width) for spec in self.pair(student, teacher, rank=2)]
        if self.examples is not None:
            bound, seeds = math.sqrt(3 / self.width), (None, None) if self.seed is None else (self.seed, self.seed + 1)
            self.student_memory, self.teacher_memory = (
                self._add_state(
                    name, (self.examples, self.width), keras.initializers.RandomUniform(-bound, bound, seed)
                )
                for name, seed in zip(("student_memory", "teacher_memory"), seeds, strict=True)
            )
            self.classes = self._add_state("classes", (self.examples,), keras.initializers.Constant(-1), "int32")
            # Z of both sides; -1 before the first batch
            self.constants = self._add_state("constants", (2,), keras.initializers.Constant(-1.0))
            self.generator = keras.random.SeedGenerator(self.seed)
            self.drawn = self.generator.state  # a weight of this layer, so that a weights file contains it
        super().bind(student, teacher)

    def _add_state(self, name: str, shape: tuple, initializer: Any, dtype: str = "float32") -> keras.Variable:
        options = {"trainable": False, "aggregation": "only_first_replica"}
        return self.add_weight(name=name, shape=shape, initializer=initializer, dtype=dtype, **options)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        taps = [tensors[0] for tensors in self.tensors(student, teacher)]
        normalized = [l2_normalize(embed(tap, training=True)) for embed, tap in zip(self.embedders, taps, strict=True)]
        embeddings = (normalized[0], normalized[1])
        if self.examples is None:
            labels = class_indices(batch.label)
            loss = crd_in_batch_loss(embeddings[0], embeddings[1], labels, temperature=self.temperature)
        else:
            loss = self._loss_with_memory(embeddings, batch, self.examples)
        return weighted_batch_mean(loss, batch)

    def _loss_with_memory(self, embeddings: tuple[Tensor, Tensor], batch: Batch, examples: int) -> Tensor:
        """The loss `(B,)` against the memories, which are then updated with the batch."""
        if batch.index is None:
            expected = f"example numbers (batch.index) for method {self.name!r}"
            advice = "use data.training(..., with_index=True), or CRD(examples=None), which has no memory"
            raise ValueError(explain_mismatch(expected, "none", advice))
        number, classes = ops.cast(ops.reshape(batch.index, (-1,)), "int32"), class_indices(batch.label)
        index = ops.clip(number, 0, examples - 1)
        is_known = ops.equal(index, number)
        memories = (self.student_memory, self.teacher_memory)
        drawn, counts = self._draw_negatives(index, index if classes is None else classes)
        remembered = [(ops.take(memory, index, axis=0), ops.take(memory, drawn, axis=0)) for memory in memories]
        loss = crd_loss(
            embeddings[0],
            embeddings[1],
            remembered[0],
            remembered[1],
            counts,
            constants=ops.unstack(self._measure_constants(embeddings, remembered, counts, examples)),
            negatives=self.negatives,
            examples=examples,
            temperature=self.temperature,
        )
        for memory, (old, _), new in zip(memories, remembered, embeddings, strict=True):
            rows = l2_normalize(self.momentum * old + (1 - self.momentum) * ops.stop_gradient(new))
            rows = ops.where(is_known[:, None], rows, old)  # a number beyond the memory changes no row
            rows = keep_finite(rows, old)
            memory.assign(ops.scatter_update(memory, index[:, None], rows))
        return ops.where(is_known, loss, float("nan"))

    def check_batch(self, batch: Batch) -> None:
        if self.examples is None or batch.index is None:
            return
        numbers = ops.convert_to_numpy(batch.index)
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < self.examples:
            received = f"numbers from {numbers.min()} to {numbers.max()}"
            expected = f"example numbers from 0 to {self.examples - 1} for CRD(examples={self.examples})"
            raise ValueError(explain_mismatch(expected, received, "pass the size of the training set as examples=..."))

    def _draw_negatives(self, index: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The numbers `(K,)` of the drawn examples, and how often each counts for each example, `(B, K)`."""
        classes = ops.scatter_update(self.classes, index[:, None], labels)
        self.classes.assign(classes)
        drawn = keras.random.randint((self.negatives,), 0, self.examples, seed=self.generator)
        is_negative = ops.cast(ops.not_equal(labels[:, None], ops.take(classes, drawn)[None, :]), "float32")
        return drawn, is_negative * self.negatives / ops.maximum(ops.sum(is_negative, axis=-1, keepdims=True), 1.0)

    def _measure_constants(
        self, embeddings: tuple[Tensor, Tensor], remembered: list[Memory], counts: Tensor, examples: int
    ) -> Tensor:
        """Z of both sides `(2,)`, measured on the first batch and kept from then on."""
        pairs = zip(embeddings, remembered[::-1], strict=True)
        scores = (_scores(embedding, memory, self.temperature) for embedding, memory in pairs)
        measured = [_normalizing_constant(side, counts, examples) for side in scores]
        constants = ops.where(self.constants < 0, ops.stop_gradient(ops.stack(measured)), self.constants)
        self.constants.assign(keep_finite(constants, self.constants))
        return constants
