"""SemCKD: Chen et al. 2021, *Cross-Layer Distillation with Semantic Calibration*, 2012.03236, AAAI 2021, section 3."""

from __future__ import annotations

import keras
from keras import layers, ops

from kd_keras.contracts import Batch, Outputs, Step, TapSpec, Tensor
from kd_keras.errors import check_number, explain_mismatch
from kd_keras.methods.adapters import batch_norm, chain, convolution
from kd_keras.methods.base import Method, Specs, Taps
from kd_keras.methods.labels import weighted_batch_mean
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import as_list, flatten, l2_normalize, mean_square, pooled_to_common_size


def semckd_loss(student: list[list[Tensor]], teacher: list[Tensor], attention: Tensor) -> Tensor:
    """sum_ij a_ij MSE(s_ij, t_j) / S: over all pairs of a student's and a teacher's maps, weighted by attention.

    Args:
        student: for each of the student's S maps its T projections, s_ij `(B, H, W, Ct)` to the width of t_j.
        teacher: the teacher's T maps t_j, average-pooled here to s_ij's size where they are larger.
        attention: `(B, S, T)` a_ij, whose sum over T is 1.

    Returns:
        `(B,)` float32, 0 or more; its mean over the batch is the published loss.

    >>> import numpy as np
    >>> teacher = [np.ones((1, 2, 2, 3)), np.full((1, 1, 1, 5), 2.0)]
    >>> student = [[np.zeros((1, 2, 2, 3)), np.zeros((1, 1, 1, 5))]]
    >>> float(semckd_loss(student, teacher, np.array([[[0.5, 0.5]]]))[0])
    2.5
    """
    attention = ops.cast(attention, "float32")
    errors = [[mean_square(*pooled_to_common_size(s, t)) for s, t in zip(row, as_list(teacher), strict=True)] for row in student]
    errors = ops.stack([ops.stack(row, axis=-1) for row in errors], axis=1)
    return ops.sum(attention * errors, axis=(1, 2)) / len(student)


@keras.saving.register_keras_serializable("kd_keras")
class SemCKD(Method):
    """Each of the student's maps follows all of the teacher's, by attention that is learned for each example.

    An example's similarities to those of the batch (products of flattened maps), by the student's i-th map and by the
    teacher's j-th, each go through two dense layers to a unit vector, query and key; a_ij is the softmax over j of
    their product. The numbers of maps may differ. Each pair has a projection of its own, a 1x1, a 3x3 and a 1x1
    convolution, 2 Ct wide within, dropped after training. In training they cost far more than a small student: 1,090
    million multiply-accumulates an image for ResNet-32x4 to 8x4, which has 177 million.

    The first dense layers read `batch_size` similarities, one for each place in the batch. Differs from the authors'
    code, which leaves out a last batch that is shorter: here the places that are missing count as zeros, so it is
    trained on, with attention from fewer examples than usual. A batch larger than `batch_size` is an error. A batch is
    what one replica sees, or with `across_replicas` all of them together.

    Args:
        batch_size: the most examples of a batch, 4 or more; 64 in the published CIFAR-100 tables.
        temperature: what products of query and key are divided by, greater than 0.
        across_replicas: whether similarities are those of the global batch.
        weight: 400 in the published CIFAR-100 tables, beside a hard loss of 1 and `KD(temperature=4, weight=1)`.
        name: the term's name in the log.
    """

    family = "features"
    taps = Taps(("stages",), ("stages",))

    def __init__(
        self,
        *,
        batch_size: int = 64,
        temperature: float = 1.0,
        across_replicas: bool = False,
        weight: Weight = 400.0,
        name: str | None = None,
    ):
        super().__init__(weight=weight, name=name)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int):
            raise TypeError(explain_mismatch("SemCKD(batch_size=...) as an integer", repr(batch_size)))
        if batch_size < 4:
            raise ValueError(explain_mismatch("SemCKD(batch_size=...) of 4 or more", repr(batch_size)))
        self.batch_size = batch_size
        self.temperature = check_number("SemCKD", "temperature", temperature, above=0)
        self.across_replicas = across_replicas

    def bind(self, student: Specs, teacher: Specs) -> None:
        ours, theirs = student["stages"], teacher["stages"]
        # Flat lists: Keras before 3.14 saves no layers of lists in lists.
        self.queries, self.keys = ([part for _ in side for part in self._embedding()] for side in (ours, theirs))
        self.projections = [_projection(s, t) for s in ours for t in theirs]
        super().bind(student, teacher)

    def _embedding(self) -> list[keras.layers.Layer]:
        """The two dense layers from similarities to a query or key; published with a quarter of the batch size."""
        width = self.batch_size // 4
        first, second = (layers.Dense(size, dtype="float32") for size in (2 * width, width))
        first.build((None, self.batch_size))
        second.build((None, 2 * width))
        return [first, second]

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        ours, theirs = student["stages"], teacher["stages"]
        attention = self.attention(ours, theirs)
        project = iter(self.projections)
        projected = [[next(project)(pooled_to_common_size(s, t)[0], training=True) for t in theirs] for s in ours]
        loss = semckd_loss(projected, theirs, attention)
        return weighted_batch_mean(loss, batch) if self.across_replicas else loss

    def attention(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """a_ij `(B, S, T)` of the maps of both sides. Memory: B^2 for each map."""
        queries, keys = (
            ops.stack([self._embedded(*each) for each in zip(side, parts[::2], parts[1::2])], axis=1)
            for side, parts in ((student, self.queries), (teacher, self.keys))
        )
        return ops.softmax(ops.einsum("bsd,btd->bst", queries, keys) / self.temperature, axis=-1)

    def _embedded(self, maps: Tensor, first: keras.layers.Layer, second: keras.layers.Layer) -> Tensor:
        vectors = flatten(maps)
        similarity = ops.matmul(vectors, ops.transpose(vectors))
        count = ops.shape(similarity)[0]
        if isinstance(count, int) and count > self.batch_size:
            raise ValueError(explain_mismatch(f"batches of at most {self.batch_size}", f"{count}", "SemCKD(batch_size=...)"))
        # The first rows alone: what zeros in the place of the missing examples would give.
        hidden = ops.relu(ops.matmul(similarity, first.kernel[:count]) + first.bias)
        return l2_normalize(second(hidden))


def _projection(student: TapSpec, teacher: TapSpec) -> keras.layers.Layer:
    """Three convolutions from the student's width to the teacher's, at the smaller size of both."""
    size = tuple(min(ours, theirs) for ours, theirs in zip(student.shape[1:3], teacher.shape[1:3]))
    pooled, width = TapSpec(student.layer, (None, *size, student.shape[-1])), teacher.shape[-1]
    hidden = [part for k in (1, 3) for part in (convolution(2 * width, k), batch_norm(), layers.ReLU(dtype="float32"))]
    return chain(pooled, *hidden, convolution(width), name="projection")
