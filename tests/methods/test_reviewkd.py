"""ReviewKD against NumPy in float64: its loss, and its fusion of maps."""

import numpy as np
import pytest

from kd_keras import Distiller
from kd_keras.contracts import Batch, Outputs, Step, TapSpec
from kd_keras.methods import ReviewKD, reviewkd_loss
from tests.support.networks import compiled, convolutional, examples, values
from tests.support.reference import Case, pooled, random

OPTIONS = {"ReviewKD": {"warmup_epochs": 0}}  # or the loss would grow while it is to fall


def reference(student, teacher):
    """Level by level, both maps pooled by themselves."""
    total = 0
    for s, t in zip(student, teacher, strict=True):
        loss, sum_of_weights, weight = ((s - t) ** 2).mean((1, 2, 3)), 1.0, 1.0
        for size in (4, 2, 1):
            if size < s.shape[1]:
                weight /= 2
                difference = pooled(s, (size, size)) - pooled(t, (size, size))
                loss = loss + weight * (difference**2).mean((1, 2, 3))
                sum_of_weights += weight
        total = total + loss / sum_of_weights
    return total


def maps(seed, *sizes):
    return [random(3, *size, 2 + number, seed=seed + number) for number, size in enumerate(sizes)]


CASES = [
    Case("all sizes", reviewkd_loss, reference, maps(0, (8, 8), (4, 4), (1, 1)), (maps(9, (8, 8), (4, 4), (1, 1)),)),
    Case("rectangles", reviewkd_loss, reference, maps(0, (7, 5), (5, 3), (2, 3)), (maps(9, (7, 5), (5, 3), (2, 3)),)),
    Case("one map", reviewkd_loss, lambda s, t: reference([s], [t]), random(3, 5, 5, 2), (random(3, 5, 5, 2, seed=2),)),
]


def test_a_constant_difference_is_its_square_at_every_level():
    ones = [np.ones((2, size, size, 3), "float32") for size in (16, 4, 1)]
    np.testing.assert_allclose(reviewkd_loss(ones, [0 * actual for actual in ones]), [3.0, 3.0])
    np.testing.assert_allclose(reviewkd_loss(ones, ones), [0.0, 0.0])
    with pytest.raises(ValueError):
        reviewkd_loss(ones, ones[:2])


SPECS = (
    {"stages": [TapSpec("s1", (None, 4, 4, 3)), TapSpec("s2", (None, 2, 2, 5))], "embedding": TapSpec("s", (None, 6))},
    {
        "stages:pre": [TapSpec("t1", (None, 6, 6, 4)), TapSpec("t2", (None, 3, 3, 7))],
        "embedding": TapSpec("t", (None, 8)),
    },
)


def bound(**options):
    method = ReviewKD(**options)
    method.bind(*SPECS)
    return method


def test_the_adapters_shapes():
    method = bound()
    shapes = [layer.output_shape for layer in method.to_middle]
    assert shapes == [(None, 1, 1, 6), (None, 2, 2, 6), (None, 4, 4, 6)]  # the deepest first, all as wide as that
    assert [gate.output_shape for gate in method.gates] == [(None, 2, 2, 2), (None, 4, 4, 2)]
    assert [layer.output_shape[1:] for layer in method.to_teacher] == [(1, 1, 8), (3, 3, 7), (6, 6, 4)]
    kernels = [tuple(v.shape) for v in method.trainable_variables if len(v.shape) == 4]
    assert sorted(kernels) == sorted(
        [(1, 1, c, 6) for c in (3, 5, 6)] + [(1, 1, 12, 2)] * 2 + [(3, 3, 6, c) for c in (4, 7, 8)]
    )
    wide = ReviewKD(student_tap="a", teacher_tap="b")
    wide.bind({"a": TapSpec("a", (None, 600))}, {"b": TapSpec("b", (None, 5))})
    assert wide.to_middle[0].output_shape[-1] == 512


def normalized(x):
    return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)


def convolved(x, kernel):
    """A 3x3 convolution with zeros around, position by position."""
    padded, out = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), np.zeros((*x.shape[:3], kernel.shape[-1]))
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            out[:, i, j] = np.einsum("bhwc,hwco->bo", padded[:, i : i + 3, j : j + 3], kernel)
    return out


def nearest(x, size):
    """Torch's nearest: place i takes place floor(i * length / size)."""
    rows, columns = ([int(i * length / size) for i in range(size)] for length in x.shape[1:3])
    return x[:, rows][:, :, columns]


def test_the_fusion():
    method = bound()
    student_maps = [random(4, 4, 4, 3, seed=1), random(4, 2, 2, 5, seed=2), random(4, 1, 1, 6, seed=3)]
    fused = method.fuse(student_maps)
    deeper, expected = None, []
    for level, (x, size, target) in enumerate(zip(student_maps[::-1], (1, 2, 4), (1, 3, 6), strict=True)):
        kernels = [np.array(layers[level].trainable_variables[0]) for layers in (method.to_middle, method.to_teacher)]
        x = normalized(x @ kernels[0][0, 0])
        if level:
            deeper = nearest(deeper, size)
            kernel, bias = values(method.gates[level - 1].trainable_variables)
            gates = 1 / (1 + np.exp(-(np.concatenate([x, deeper], -1) @ kernel[0, 0] + bias)))
            x = x * gates[..., [0]] + deeper * gates[..., [1]]
        deeper = nearest(x, target)
        expected.insert(0, normalized(convolved(deeper, kernels[1])))
    for actual, wanted in zip(fused, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, atol=1e-4)


def test_the_warm_up():
    outputs = (
        Outputs({"stages": [random(4, 4, 4, 3), random(4, 2, 2, 5)], "embedding": random(4, 6)}),
        Outputs({"stages:pre": [random(4, 6, 6, 4), random(4, 3, 3, 7)], "embedding": random(4, 8)}),
    )
    method = bound(warmup_epochs=4)
    losses = [float(np.mean(method.call(*outputs, Batch(None), Step(0, epoch)))) for epoch in (0, 1, 3, 50)]
    np.testing.assert_allclose(losses, np.array([0.25, 0.5, 1, 1]) * losses[-1], rtol=1e-5)


def test_the_adapters_train():
    student, teacher = convolutional(4), convolutional(6)
    distiller = compiled(Distiller(student=student, teacher=teacher, methods=[ReviewKD()]), jit_compile=False)
    before = values(distiller.methods[0].trainable_variables)
    distiller.fit(*examples(), verbose=0)
    moved = [
        np.abs(a - b).max() > 0 for a, b in zip(before, values(distiller.methods[0].trainable_variables), strict=True)
    ]
    assert all(moved) and len(moved) == 3 * 6 + 2 * 2  # three levels of two convolutions and BatchNorms, two gates


def test_networks_that_do_not_fit_raise():
    with pytest.raises(ValueError, match=r"(?s)as many taps.*Pass student_tap="):
        Distiller(student=convolutional(), teacher=convolutional(), methods=[ReviewKD(teacher_tap="stages")])
    method = ReviewKD(student_tap="a", teacher_tap="b")
    with pytest.raises(ValueError, match=r"(?s)known size.*'a' \(None, None, None, 3\).*Tap .stages"):
        method.bind({"a": TapSpec("a", (None, None, None, 3))}, {"b": TapSpec("b", (None, 4, 4, 3))})
    with pytest.raises(ValueError, match="warmup_epochs"):
        ReviewKD(warmup_epochs=-1)
    with pytest.raises(TypeError, match="warmup_epochs"):
        ReviewKD(warmup_epochs="long")
