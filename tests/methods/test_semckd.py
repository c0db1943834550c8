"""SemCKD against NumPy in float64: its loss and its attention."""

import numpy as np
import pytest

from kd_keras import Distiller
from kd_keras.contracts import Batch, Outputs, Step, TapSpec
from kd_keras.methods import SemCKD, semckd_loss
from tests.support.networks import compiled, convolutional, examples, values
from tests.support.reference import Case, pooled, random, softmax, unit

OPTIONS = {"SemCKD": {"weight": 1.0}}  # at the published weight these small networks diverge with their learning rate
SHAPES = ([(5, 5, 3), (2, 3, 4)], [(6, 6, 2), (3, 3, 5), (1, 1, 7)])


def reference(student, teacher, attention):
    """Example by example, pair by pair."""
    batch, rows, columns = attention.shape
    losses = np.zeros(batch)
    for b in range(batch):
        for i in range(rows):
            for j in range(columns):
                s, t = student[i][j][b : b + 1], teacher[j][b : b + 1]
                losses[b] += attention[b, i, j] * ((s - pooled(t, s.shape[1:3])) ** 2).mean() / rows
    return losses


def maps(side, batch=4):
    return [random(batch, *shape, seed=10 * side + place) for place, shape in enumerate(SHAPES[side])]


def projected(batch=4):
    sizes = [[tuple(np.minimum(s[:2], t[:2])) for t in SHAPES[1]] for s in SHAPES[0]]
    return [
        [
            random(batch, *size, t[2], seed=30 + 5 * i + j)
            for j, (size, t) in enumerate(zip(row, SHAPES[1], strict=True))
        ]
        for i, row in enumerate(sizes)
    ]


ATTENTION = softmax(random(4, 2, 3, seed=50)).astype("float32")
CASES = [
    Case("two to three", semckd_loss, reference, projected(), (maps(1), ATTENTION)),
    Case(
        "one pair",
        semckd_loss,
        reference,
        [[random(4, 2, 2, 3)]],
        ([random(4, 4, 4, 3, seed=1)], ATTENTION[:, :1, :1]),
    ),
]


def bound(batch_size=8, **options):
    method = SemCKD(batch_size=batch_size, **options)
    method.bind(*({"stages": [TapSpec(f"{side}", (None, *shape)) for shape in SHAPES[side]]} for side in (0, 1)))
    return method


def attention(method, student, teacher, temperature=1.0, places=8):
    """The definition, for a batch padded with examples of zeros."""
    vectors = []
    for side, embeddings in ((student, method.queries), (teacher, method.keys)):
        vectors.append([])
        for maps_of_stage, first, second in zip(side, embeddings[::2], embeddings[1::2], strict=True):
            padded = np.concatenate(
                [maps_of_stage, np.zeros((places - len(maps_of_stage), *maps_of_stage.shape[1:]))]
            ).reshape(places, -1)
            (kernel, bias), (kernel_2, bias_2) = values(first.weights), values(second.weights)
            vectors[-1].append(unit(np.maximum(padded @ padded.T @ kernel + bias, 0) @ kernel_2 + bias_2))
    products = np.einsum("ibd,jbd->bij", *map(np.array, vectors))
    return softmax(products / temperature)[: len(student[0])]


@pytest.mark.parametrize("batch", [8, 5, 1])
def test_the_attention_of_whole_and_of_short_batches(batch):
    method = bound(temperature=0.5)
    for layer in method.queries + method.keys:
        layer.bias.assign(random(*layer.bias.shape, seed=7))
    student_maps, teacher_maps = maps(0, batch), maps(1, batch)
    actual = method.attention(student_maps, teacher_maps)
    assert actual.shape == (batch, 2, 3)
    np.testing.assert_allclose(actual, attention(method, student_maps, teacher_maps, 0.5), atol=1e-5)
    np.testing.assert_allclose(np.sum(actual, -1), np.ones((batch, 2)), rtol=1e-6)


def test_the_layers_shapes():
    method = bound(batch_size=16)
    kernels = [tuple(layer.kernel.shape) for layer in method.queries + method.keys]
    assert kernels == [(16, 8), (8, 4)] * 5
    shapes = [project.output_shape[1:] for project in method.projections]
    assert shapes == [(5, 5, 2), (3, 3, 5), (1, 1, 7), (2, 3, 2), (2, 3, 5), (1, 1, 7)]
    kernels = [tuple(v.shape) for v in method.projections[1].trainable_variables if len(v.shape) == 4]
    assert kernels == [(1, 1, 3, 10), (3, 3, 10, 10), (1, 1, 10, 5)]


def test_the_dense_layers_start_as_in_pytorch():
    method = bound(batch_size=64)
    for layer in method.queries + method.keys:
        for values_of in (layer.kernel, layer.bias):
            limit = layer.kernel.shape[0] ** -0.5
            assert 0.7 * limit < np.abs(values_of).max() <= limit


def test_across_replicas_it_is_the_mean():
    outputs = Outputs({"stages": maps(0)}), Outputs({"stages": maps(1)})
    method = bound()
    losses = method.call(*outputs, Batch(None), Step(0, 0))
    method.across_replicas = True
    assert losses.shape == (4,)
    np.testing.assert_allclose(method.call(*outputs, Batch(None), Step(0, 0)), np.mean(losses), rtol=1e-6)


def test_the_attention_trains_and_the_last_batch_may_be_short():
    method = SemCKD(batch_size=16)
    student, teacher = convolutional(4), convolutional(6)
    distiller = compiled(Distiller(student=student, teacher=teacher, methods=[method]), jit_compile=False)
    before = values(method.trainable_variables)
    distiller.fit(*examples(21), batch_size=16, verbose=0)
    moved = [np.abs(a - b).max() > 0 for a, b in zip(before, values(method.trainable_variables), strict=True)]
    assert all(moved) and len(moved) == 4 * 4 + 4 * 7


def test_a_batch_that_is_too_large_raises():
    with pytest.raises(ValueError, match=r"(?s)at most 8.*9.*batch_size"):
        bound().attention(maps(0, 9), maps(1, 9))
    method = SemCKD(batch_size=8)
    student, teacher = convolutional(4), convolutional(6)
    distiller = compiled(Distiller(student=student, teacher=teacher, methods=[method]), jit_compile=False)
    with pytest.raises(Exception, match="(?i)size|shape|dimension"):
        distiller.fit(*examples(9), batch_size=9, verbose=0)


@pytest.mark.parametrize(
    "options, error",
    [
        ({"batch_size": 3}, ValueError),
        ({"batch_size": 8.0}, TypeError),
        ({"batch_size": True}, TypeError),
        ({"temperature": 0}, ValueError),
    ],
)
def test_invalid_arguments_raise(options, error):
    with pytest.raises(error, match=next(iter(options))):
        SemCKD(**options)
