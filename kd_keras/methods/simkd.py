"""SimKD: Chen et al. 2022, *Knowledge Distillation with the Reused Teacher Classifier*, 2203.14001, section 3."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops, tree
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_integer, explain_mismatch
from kd_keras.methods.adapters import describe_pair, fan_in_uniform
from kd_keras.methods.base import Method, MethodOptions, Specs, Taps
from kd_keras.networks.graph import is_walkable
from kd_keras.networks.layouts import contains_channels_first
from kd_keras.networks.own_layers import on_own_layers
from kd_keras.networks.stages import StagedGraph
from kd_keras.primitives import average_pool_to, mean_square, pooled_to_common_size

__all__ = ("SimKD", "simkd_loss", "simkd_student")


def simkd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference of two maps, the larger average-pooled to the smaller.

    Args:
        student: `(B, H, W, C)`, the student's last map, adapted to the teacher's width.
        teacher: `(B, H', W', C)`, the teacher's last map.

    Returns:
        `(B,)` float32, at least 0; its mean over the batch is the mean over all elements.

    >>> import numpy as np
    >>> float(simkd_loss(np.zeros((1, 2, 2, 3)), np.full((1, 4, 4, 3), 2.0))[0])  # (B,)
    4.0
    """
    return mean_square(*pooled_to_common_size(student, teacher))


def simkd_student(student: keras.Model, teacher: keras.Model, *, reduction: int = 2) -> keras.Model:
    """The student that SimKD trains: its backbone, an adapter to the teacher's width, and the teacher's classifier.

    This model is trained, saved and exported, including the adapter and the classifier. It shares the layers of the
    student's backbone and drops the student's own classifier. Report its own size, `simkd_student(...).count_params()`,
    not the student's: for last maps of Cs (student) and Ct (teacher) channels, m = Ct // reduction and K classes, the
    adapter and the classifier have Cs m + 9 m^2 + m Ct weights of convolutions, 4 (2 m + Ct) of BatchNorm, half of them
    trainable, and (Ct + 1) K frozen ones.

    The adapter is a 1x1 convolution to m channels, a 3x3 and a 1x1 to Ct, without bias, each with BatchNorm and ReLU.
    If the student's map is larger than the teacher's, it is first average-pooled to that size.

    Args:
        student: a built Functional or Sequential model, possibly with models nested in it.
        teacher: a trained model of this kind that ends in the mean of its last map and one Dense layer.
        reduction: Ct / m, at least 1; the published tables use 2, and report 4 and 8.

    Returns:
        A Functional model from the student's inputs to `(B, K)` logits; its last layers are `"pool"` and `"logits"`,
        the latter frozen.

    Raises:
        TypeError: if `reduction` is not an integer.
        ValueError: if one of the two is not a model of this kind.

    >>> def network(width):
    ...     parts = [layers.Conv2D(width, 3), layers.GlobalAveragePooling2D(), layers.Dense(10)]
    ...     return keras.Sequential([keras.Input((8, 8, 1)), *parts])
    >>> simkd_student(network(4), network(6)).count_params()  # 40 of the backbone
    269
    """
    check_integer("simkd_student", "reduction", reduction, least=1)
    size, width, kernel, bias = _read_head(teacher)
    backbone = _walk(student, "student")
    inputs, (x,) = on_own_layers(backbone, backbone.stages()[-1:])
    names = {layer.name for layer in keras.Model(inputs, x).operations}
    add = functools.partial(_add_layer, student.dtype_policy, names)
    x = _add_adapter(x, size, width, max(1, width // reduction), add)
    x = add("pool", layers.GlobalAveragePooling2D, x)
    logits = add("logits", layers.Dense, x, units=len(bias), trainable=False)
    model = keras.Model(inputs, logits, name=f"{student.name}_simkd")
    model.layers[-1].set_weights([kernel, bias])
    return model


def _add_adapter(x: Any, size: tuple[int, int], width: int, narrow_width: int, add: Callable) -> Any:
    """The student's map, pooled to a size if it is larger, after the three convolutions to a width."""
    sizes = tuple(x.shape[1:3])
    target = tuple(map(min, sizes, size))
    if any(length % goal for length, goal in zip(sizes, target, strict=True)):
        x = add("adapter_pool", AdaptivePooling, x, size=target)
    elif target != sizes:  # by a layer of Keras, so that the model loads without importing kd_keras
        strides = tuple(length // goal for length, goal in zip(sizes, target, strict=True))
        x = add("adapter_pool", layers.AveragePooling2D, x, pool_size=strides)
    for number, (filters, kernel_size) in enumerate(((narrow_width, 1), (narrow_width, 3), (width, 1)), start=1):
        options = {"padding": "same", "use_bias": False, "kernel_initializer": fan_in_uniform()}
        x = add(f"adapter_{number}_conv", layers.Conv2D, x, filters=filters, kernel_size=kernel_size, **options)
        options = {"momentum": 0.9, "epsilon": 1e-5, "synchronized": True}  # as one replica would compute
        x = add(f"adapter_{number}_bn", layers.BatchNormalization, x, **options)
        x = add(f"adapter_{number}_relu", layers.ReLU, x)
    return x


def _add_layer(policy: Any, taken: set[str], name: str, kind: type, x: Any, **options: Any) -> Any:
    """The output of a new layer, whose name differs from those of the student's layers."""
    while name in taken:
        name = f"teacher_{name}"
    return kind(name=name, dtype=policy, **options)(x)


def _read_head(teacher: keras.Model) -> tuple[tuple[int, int], int, np.ndarray, np.ndarray]:
    """The size and the width of a teacher's last map, and the kernel and the bias of its classifier."""
    graph = _walk(teacher, "teacher")
    expected = f"a classifier of {teacher.name!r} that reads its last map's mean"
    advice = "choose a teacher that ends in GlobalAveragePooling2D and one Dense layer, or another method"
    embedding = graph.embedding()
    kernel, bias = graph.classifier_weights()
    try:
        maps = graph.embedding_map()
    except ValueError as error:
        received = f"the embedding {graph.spec(embedding)[:]}, which is not pooled from a map"
        raise ValueError(explain_mismatch(expected, received, advice)) from error
    head = keras.Model(graph.inputs, {"maps": maps, "embedding": embedding})
    random = np.random.default_rng(0)
    image = tree.map_structure(lambda t: random.uniform(size=(1, *t.shape[1:])).astype(t.dtype), graph.inputs)
    values = tree.map_structure(lambda t: np.asarray(ops.cast(t, "float32")), head(image, training=False))
    mean, read = values["maps"].mean((1, 2)), values["embedding"]
    if mean.shape != read.shape or np.abs(mean - read).max() > 1e-2 * np.abs(mean).max():
        received = f"last map {graph.spec(maps)[:]} and embedding {graph.spec(embedding)[:]}, which is another value"
        raise ValueError(explain_mismatch(expected, received, advice))
    return tuple(maps.shape[1:3]), maps.shape[-1], kernel, bias


def _walk(model: keras.Model, role: str) -> StagedGraph:
    if not is_walkable(model):
        expected = f"a {role} that is a graph of layers, for SimKD"
        received = f"{model.name!r}, a {type(model).__name__}"
        raise ValueError(explain_mismatch(expected, received, "write it with the Functional interface of Keras"))
    if contains_channels_first(model):
        expected = f"a {role} in channels_last, for SimKD"
        advice = "convert it, or use another method on maps, which transposes them"
        raise ValueError(explain_mismatch(expected, f"{model.name!r}, in channels_first", advice))
    return StagedGraph(model)


@keras.saving.register_keras_serializable("kd_keras")
class AdaptivePooling(layers.Layer):
    """Average-pools maps `(B, H, W, C)` to a size that does not divide H and W."""

    def __init__(self, size: tuple[int, int], **options: Any):
        super().__init__(**options)
        self.size = (size[0], size[1])

    def call(self, inputs: Tensor) -> Tensor:
        return ops.cast(average_pool_to(inputs, self.size), self.compute_dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), "size": self.size}


@keras.saving.register_keras_serializable("kd_keras")
class SimKD(Method):
    """The student's last map, through an adapter that it keeps, follows the teacher's, and the teacher's classifier
    reads it.

    The student must be built by `simkd_student` from a student and a teacher, as `SimKD.student_from` does. Therefore
    the teacher's network must be available, even if its last maps come from a recording and it never runs.

    Published without a hard loss and without KD: `Distiller(hard_weight=0)`. A hard loss trains the backbone and the
    adapter, never the classifier.

    Args:
        reduction: Ct / m of the adapter; 2, 4 and 8 are published.
        **options: `weight`, by default 1 as published, without a hard loss; `name`.

    >>> SimKD(reduction=4).reduction
    4
    """

    family = "features"
    paper = "Chen et al. 2022, 2203.14001"
    published_hard_weight = 0.0
    taps = Taps(("embedding:map",), ("embedding:map",))

    def __init__(self, *, reduction: int = 2, **options: Unpack[MethodOptions]):
        super().__init__(**options)
        self.reduction = check_integer("SimKD", "reduction", reduction, least=1)

    def student_from(self, student: keras.Model, teacher: keras.Model | None) -> keras.Model:
        """`simkd_student` of the two: the model to train, save and count.

        Raises:
            ValueError: if there is no teacher network, and as `simkd_student` does.
        """
        if teacher is None:
            raise ValueError(
                f"Method {self.name!r} needs the teacher's network, whose classifier becomes a part of the student, "
                "but received only a recording of its outputs. Pass both, in the shell --teacher=... --recording=..."
            )
        return simkd_student(student, teacher, reduction=self.reduction)

    def bind(self, student: Specs, teacher: Specs) -> None:
        pair = student["embedding:map"], teacher["embedding:map"]
        if len(pair[0].shape) != 4 or pair[0].shape[-1] != pair[1].shape[-1]:
            expected = f"last maps of the same width for method {self.name!r}"
            advice = "pass Distiller(student=kd_keras.methods.simkd_student(student, teacher), ...)"
            raise ValueError(explain_mismatch(expected, describe_pair(*pair), advice))
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        return simkd_loss(student["embedding:map"], teacher["embedding:map"])
