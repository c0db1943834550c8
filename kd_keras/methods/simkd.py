"""SimKD: Chen et al. 2022, *Knowledge Distillation with the Reused Teacher Classifier*, 2203.14001, section 3."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops, tree

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import explain_mismatch
from kd_keras.methods.base import Method, Specs, Taps
from kd_keras.methods.schedules import Weight
from kd_keras.networks.graph import Graph, Renamed, is_walkable
from kd_keras.networks.stages import StagedGraph
from kd_keras.primitives import mean_square, pooled, pooled_to_common_size


def simkd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference of two maps, the larger average-pooled to the smaller.

    Args:
        student: `(B, H, W, C)` the student's last map, adapted to the teacher's width.
        teacher: `(B, H', W', C)` the teacher's last map.

    Returns:
        `(B,)` float32, 0 or more; its mean over the batch is the mean over all elements.

    >>> import numpy as np
    >>> float(simkd_loss(np.zeros((1, 2, 2, 3)), np.full((1, 4, 4, 3), 2.0))[0])  # (B,)
    4.0
    """
    return mean_square(*pooled_to_common_size(student, teacher))


def simkd_student(student: keras.Model, teacher: keras.Model, *, reduction: int = 2) -> keras.Model:
    """The student that SimKD trains: its backbone, an adapter to the teacher's width, and the teacher's classifier.

    It is this model that is trained, saved and exported: the adapter and the classifier stay. It shares the layers of
    the student's backbone and leaves the student's own classifier behind. So report its own size,
    `simkd_student(...).count_params()`, not the student's: with a student's and a teacher's last maps of Cs and Ct
    channels, m = Ct // reduction and K classes, adapter and classifier have Cs m + 9 m^2 + m Ct weights of
    convolutions, 4 (2 m + Ct) of BatchNorm, half of them trained, and (Ct + 1) K that are frozen.

    The adapter is a 1x1 convolution to m channels, a 3x3 and a 1x1 to Ct, without bias, each with BatchNorm and ReLU.
    Where the student's map is larger than the teacher's, it is average-pooled to that size before.

    Args:
        student: a built Functional or Sequential model, also with models nested in it.
        teacher: such a model that ends in the mean of its last map and one Dense layer, trained.
        reduction: how much narrower the adapter is within, 1 or more; 2 in the published tables, beside 4 and 8.

    Returns:
        A Functional model from the student's inputs to `(B, K)` logits, of which `"pool"` and `"logits"` are the last
        layers, the latter frozen.

    Raises:
        TypeError: where `reduction` is no integer.
        ValueError: where one of the two is no such model.

    >>> def network(width):
    ...     parts = [layers.Conv2D(width, 3), layers.GlobalAveragePooling2D(), layers.Dense(10)]
    ...     return keras.Sequential([keras.Input((8, 8, 1)), *parts])
    >>> simkd_student(network(4), network(6)).count_params()  # 40 of the backbone
    269
    """
    _checked("simkd_student", reduction)
    size, width, kernel, bias = _end(teacher)
    inputs, x = _backbone(student)
    add = functools.partial(_add, student.dtype_policy, {layer.name for layer in keras.Model(inputs, x).operations})
    x = _adapted(x, size, width, max(1, width // reduction), add)
    x = add("pool", layers.GlobalAveragePooling2D, x)
    logits = add("logits", layers.Dense, x, units=len(bias), trainable=False)
    model = keras.Model(inputs, logits, name=f"{student.name}_simkd")
    model.layers[-1].set_weights([kernel, bias])
    return model


def _adapted(x: Any, size: tuple[int, int], width: int, narrow: int, add: Callable) -> Any:
    """A student's map at a size, if it is larger, and of a width, by three convolutions."""
    own, target = x.shape[1:3], tuple(map(min, x.shape[1:3], size))
    if any(length % goal for length, goal in zip(own, target)):
        x = add("adapter_pool", AdaptivePooling, x, size=target)
    elif target != tuple(own):  # by a layer that needs no import of kd_keras after loading
        strides = tuple(length // goal for length, goal in zip(own, target))
        x = add("adapter_pool", layers.AveragePooling2D, x, pool_size=strides)
    for number, (filters, kernel_size) in enumerate(((narrow, 1), (narrow, 3), (width, 1)), start=1):
        options = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal"}
        x = add(f"adapter_{number}_conv", layers.Conv2D, x, filters=filters, kernel_size=kernel_size, **options)
        options = {"momentum": 0.9, "epsilon": 1e-5, "synchronized": True}  # several replicas adapt as one does
        x = add(f"adapter_{number}_bn", layers.BatchNormalization, x, **options)
        x = add(f"adapter_{number}_relu", layers.ReLU, x)
    return x


def _add(policy: Any, taken: set[str], name: str, kind: type, x: Any, **options: Any) -> Any:
    """The output of a new layer, named apart from the student's own."""
    while name in taken:
        name = f"teacher_{name}"
    return kind(name=name, dtype=policy, **options)(x)


def _end(teacher: keras.Model) -> tuple[tuple[int, int], int, np.ndarray, np.ndarray]:
    """The size and the width of a teacher's last map, and the kernel and the bias of its classifier."""
    graph = _walked(teacher, "teacher")
    maps, embedding = graph.stages()[-1], graph.embedding()
    kernel, bias = graph.classifier_weights()
    end = keras.Model(graph.inputs, {"maps": maps, "embedding": embedding})
    random = np.random.default_rng(0)
    image = tree.map_structure(lambda t: random.uniform(size=(1, *t.shape[1:])).astype(t.dtype), graph.inputs)
    given = tree.map_structure(lambda t: np.asarray(ops.cast(t, "float32")), end(image, training=False))
    mean, read = given["maps"].mean((1, 2)), given["embedding"]
    if mean.shape != read.shape or np.abs(mean - read).max() > 1e-2 * np.abs(mean).max():
        came = f"last map {graph.spec(maps)[:]}, embedding {graph.spec(embedding)[:]}"
        remedy = "choose a teacher that ends in GlobalAveragePooling2D and one Dense layer, or another method"
        raise ValueError(explain_mismatch(f"a classifier of {teacher.name!r} that reads its last map's mean", came, remedy))
    return tuple(maps.shape[1:3]), maps.shape[-1], kernel, bias


def _backbone(student: keras.Model) -> tuple[Any, Any]:
    """A student's inputs and its last map, computed by the student's own layers."""
    graph, whole = _walked(student, "student"), Unsplit(student)
    edges = [edge for edge in graph.edges if not edge.path.endswith(":linear")]
    last = graph.stages()[-1]
    x = next(new for edge, own in zip(edges, whole.edges) for t, new in zip(edge.results, own.results) if t is last)
    renamed = [one.name for one in keras.Model(whole.inputs, x).operations if isinstance(one, Renamed)]
    if renamed:
        remedy = "give them other names, or pass a student without models nested in it"
        raise ValueError(explain_mismatch(f"layers of {student.name!r} that differ in name", f"twice: {renamed}", remedy))
    return whole.inputs, x


class Unsplit(Graph):
    """A model's operations, called again as they are, so that a model made of them can be saved."""

    def _call(self, operation: Any, args: tuple, kwargs: dict, prefix: str) -> Any:
        if isinstance(operation, keras.Model) and is_walkable(operation):
            return super()._call(operation, args, kwargs, prefix)
        return self._record(prefix + operation.name, operation, args, kwargs)


def _walked(model: keras.Model, role: str) -> StagedGraph:
    if not is_walkable(model):
        remedy = "write it with the Functional interface of Keras"
        raise ValueError(explain_mismatch(f"a {role} that is a graph of layers, for SimKD", f"{model.name!r}", remedy))
    return StagedGraph(model)


@keras.saving.register_keras_serializable("kd_keras")
class AdaptivePooling(layers.Layer):
    """Average-pools maps to a size of which theirs is no multiple."""

    def __init__(self, size: tuple[int, int], **options: Any):
        super().__init__(**options)
        self.size = tuple(size)

    def call(self, inputs: Tensor) -> Tensor:
        return ops.cast(pooled(inputs, self.size), self.compute_dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), "size": self.size}


@keras.saving.register_keras_serializable("kd_keras")
class SimKD(Method):
    """The student's last map, through an adapter that it keeps, follows the teacher's, and the teacher's classifier
    reads it.

    The student must be one that `simkd_student` makes of a student and a teacher; `SimKD.student_from` makes it. So the
    teacher's network must be there, also where its last maps come from a recording and it never runs.

    Published without a hard loss and without KD: `Distiller(hard_weight=0)`. A hard loss may be added: it moves
    backbone and adapter, never the classifier.

    Args:
        reduction: how much narrower the adapter is within; 2, 4 and 8 are published.
        weight: 1, alone.
        name: the term's name in the log.
    """

    family = "features"
    published_hard_weight = 0.0
    taps = Taps(("stages[-1]",), ("stages[-1]",))

    def __init__(self, *, reduction: int = 2, weight: Weight = 1.0, name: str | None = None):
        super().__init__(weight=weight, name=name)
        self.reduction = _checked("SimKD", reduction)

    def student_from(self, student: keras.Model, teacher: keras.Model | None) -> keras.Model:
        """`simkd_student` of the two: this is the model to train, save and count.

        Raises:
            ValueError: without a teacher's network, and as `simkd_student` does.
        """
        if teacher is None:
            came = "none; a recording holds the teacher's outputs, not its network"
            remedy = "give the teacher beside its recording: experiments.distill --teacher=... --recording=..."
            raise ValueError(explain_mismatch(f"the teacher's network, whose classifier {self.name!r} keeps", came, remedy))
        return simkd_student(student, teacher, reduction=self.reduction)

    def bind(self, student: Specs, teacher: Specs) -> None:
        ours, theirs = student["stages[-1]"], teacher["stages[-1]"]
        if len(ours.shape) != 4 or ours.shape[-1] != theirs.shape[-1]:
            came = f"student {ours.layer!r} {ours.shape}, teacher {theirs.layer!r} {theirs.shape}"
            remedy = "Distiller(student=kd_keras.methods.simkd_student(student, teacher), ...) has such a map"
            raise ValueError(explain_mismatch(f"last maps of one width for {self.name!r}", came, remedy))
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        return simkd_loss(student["stages[-1]"], teacher["stages[-1]"])


def _checked(owner: str, reduction: int) -> int:
    if isinstance(reduction, bool) or not isinstance(reduction, int):
        raise TypeError(explain_mismatch(f"{owner}(reduction=...) as an integer", repr(reduction)))
    if reduction < 1:
        raise ValueError(explain_mismatch(f"{owner}(reduction=...) of 1 or more", repr(reduction)))
    return reduction
