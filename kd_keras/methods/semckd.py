"""SemCKD: Chen et al. 2021, *Cross-Layer Distillation with Semantic Calibration*, 2012.03236, AAAI 2021, section 3."""

from __future__ import annotations

import keras
from keras import layers, ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, TapSpec, Tensor
from kd_keras.errors import check_integer, check_number, explain_mismatch
from kd_keras.methods.adapters import batch_norm, chain, conv, fan_in_initializers
from kd_keras.methods.base import Method, MethodOptions, Specs, Taps
from kd_keras.methods.labels import weighted_batch_mean
from kd_keras.primitives import as_list, flatten, l2_normalize, mean_square, pooled_to_common_size, smaller_size


def semckd_loss(student: list[list[Tensor]], teacher: list[Tensor], attention: Tensor) -> Tensor:
    """sum_ij a_ij MSE(s_ij, t_j) / S: over all pairs of a student's and a teacher's map, weighted by attention.

    Args:
        student: for each of the student's S maps, its T projections s_ij `(B, H, W, Ct)` to the width of t_j.
        teacher: the teacher's T maps t_j; a larger one is average-pooled to the size of s_ij.
        attention: `(B, S, T)` a_ij, whose sum over T is 1.

    Returns:
        `(B,)` float32, at least 0; its mean over the batch is the published loss.

    >>> import numpy as np
    >>> teacher = [np.ones((1, 2, 2, 3)), np.full((1, 1, 1, 5), 2.0)]
    >>> student = [[np.zeros((1, 2, 2, 3)), np.zeros((1, 1, 1, 5))]]
    >>> float(semckd_loss(student, teacher, np.array([[[0.5, 0.5]]]))[0])
    2.5
    """
    attention = ops.cast(attention, "float32")
    rows = []
    for projections in student:
        pairs = zip(projections, as_list(teacher), strict=True)
        rows.append(ops.stack([mean_square(*pooled_to_common_size(*pair)) for pair in pairs], axis=-1))
    return ops.sum(attention * ops.stack(rows, axis=1), axis=(1, 2)) / len(student)


@keras.saving.register_keras_serializable("kd_keras")
class SemCKD(Method):
    """Each of the student's maps follows all of the teacher's, with attention weights learned for each example.

    The similarities of an example to those of the batch (products of flattened maps), from the student's i-th map and
    from the teacher's j-th, each pass two dense layers to a unit vector, query and key; a_ij is the softmax over j of
    their product. The numbers of maps may differ. Each pair has a projection of its own, 1x1, 3x3 and 1x1 convolutions
    that are 2 Ct wide inside, dropped after training. Training costs far more than a small student: 1,090 million
    multiply-accumulates per image for ResNet-32x4 to ResNet-8x4, which has 177 million itself.

    The first dense layers read `batch_size` similarities, one for each row of the batch. Differs from the authors'
    code, which drops a shorter last batch: here the missing rows count as zeros, so that it is trained on, with
    attention computed from fewer examples. A batch larger than `batch_size` is an error. The batch is the slice on each
    replica, or with `across_replicas` the global batch.

    Args:
        batch_size: the largest number of examples in a batch, at least 4; 64 in the published CIFAR-100 tables.
        temperature: the divisor of the products of query and key, greater than 0.
        across_replicas: whether the similarities are those of the global batch.
        **options: `weight`, by default 400 as in the published CIFAR-100 tables, with a hard loss of 1 and
            `KD(temperature=4, weight=1)`; `name`.

    Raises:
        TypeError: if the batch size is not an integer.
        ValueError: if it is less than 4.

    >>> SemCKD(batch_size=32).batch_size
    32
    """

    weighs_examples = True
    family = "features"
    paper = "Chen et al. 2021, 2012.03236"
    taps = Taps(("stages",), ("stages",))
    default_weight = 400.0

    def __init__(
        self,
        *,
        batch_size: int = 64,
        temperature: float = 1.0,
        across_replicas: bool = False,
        **options: Unpack[MethodOptions],
    ):
        super().__init__(**options)
        self.batch_size = check_integer("SemCKD", "batch_size", batch_size, least=4)
        self.temperature = check_number("SemCKD", "temperature", temperature, above=0)
        self.across_replicas = across_replicas

    def bind(self, student: Specs, teacher: Specs) -> None:
        student_specs, teacher_specs = student["stages"], teacher["stages"]
        # Flat lists: Keras before 3.14 does not save layers of lists in lists.
        self.queries = [layer for _ in student_specs for layer in self._build_embedding()]
        self.keys = [layer for _ in teacher_specs for layer in self._build_embedding()]
        self.projections = [_build_projection(spec, target) for spec in student_specs for target in teacher_specs]
        super().bind(student, teacher)

    def _build_embedding(self) -> list[keras.layers.Layer]:
        """The two dense layers from similarities to a query or key, published with a quarter of the batch size."""
        width = self.batch_size // 4
        embedding = []
        for inputs, units in ((self.batch_size, 2 * width), (2 * width, width)):
            embedding.append(layers.Dense(units, **fan_in_initializers(inputs), dtype="float32"))
            embedding[-1].build((None, inputs))
        return embedding

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        student_maps, teacher_maps = student["stages"], teacher["stages"]
        attention = self.attention(student_maps, teacher_maps)
        project = iter(self.projections)
        projected = [
            [next(project)(pooled_to_common_size(maps, target)[0], training=True) for target in teacher_maps]
            for maps in student_maps
        ]
        loss = semckd_loss(projected, teacher_maps, attention)
        return weighted_batch_mean(loss, batch) if self.across_replicas else loss

    def attention(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """a_ij `(B, S, T)` of the maps of both sides. Memory: B^2 for each map."""
        queries, keys = self._embed_all(student, self.queries), self._embed_all(teacher, self.keys)
        return ops.softmax(ops.einsum("bsd,btd->bst", queries, keys) / self.temperature, axis=-1)

    def _embed_all(self, maps: list[Tensor], embedding: list[keras.layers.Layer]) -> Tensor:
        """The queries or keys `(B, N, D)` of N maps."""
        triples = zip(maps, embedding[::2], embedding[1::2], strict=True)
        return ops.stack([self._embed(*triple) for triple in triples], axis=1)

    def _embed(self, maps: Tensor, first: keras.layers.Layer, second: keras.layers.Layer) -> Tensor:
        vectors = flatten(maps)
        similarity = ops.matmul(vectors, ops.transpose(vectors))
        count = ops.shape(similarity)[0]
        if isinstance(count, int) and count > self.batch_size:
            expected = f"batches of at most {self.batch_size} examples for method {self.name!r}"
            raise ValueError(explain_mismatch(expected, f"{count} examples", f"pass SemCKD(batch_size={count})"))
        # The first rows of the kernel: the same as zeros for the missing examples.
        hidden = ops.relu(ops.matmul(similarity, first.kernel[:count]) + first.bias)
        return l2_normalize(second(hidden))


def _build_projection(student: TapSpec, teacher: TapSpec) -> keras.layers.Layer:
    """Three convolutions from the student's width to the teacher's, at the smaller size of both."""
    spec = TapSpec(student.layer, (None, *smaller_size(student.shape, teacher.shape), student.shape[-1]))
    width, parts = teacher.shape[-1], []
    for kernel_size in (1, 3):
        parts += [conv(2 * width, kernel_size), batch_norm(), layers.ReLU(dtype="float32")]
    return chain(spec, *parts, conv(width), name="projection")
