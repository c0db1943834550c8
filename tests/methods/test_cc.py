"""CC, in both its forms, against NumPy in float64."""

import functools
import itertools
import math

import numpy as np
import pytest

from kd_keras import Distiller
from kd_keras.contracts import TapSpec
from kd_keras.methods import CC, CCKernel, cc_kernel_loss, cc_loss
from tests.support.networks import compiled, convolutional, examples, values
from tests.support.reference import Case, random


def reference(student, teacher):
    """Neighbor by neighbor."""
    apart = np.abs(student - teacher)
    return np.mean([np.sum(apart[i] * apart[i + 1]) for i in range(len(apart) - 1)])


def kernel_reference(student, teacher, kernel="gaussian", gamma=0.4, order=2):
    """Entry by entry."""

    def entry(a, b):
        if kernel == "bilinear":
            return a @ b
        return np.exp(-2 * gamma) * sum((2 * gamma * (a @ b)) ** p / math.factorial(p) for p in range(order + 1))

    pairs = itertools.product(range(len(student)), repeat=2)
    differences = [entry(student[i], student[j]) - entry(teacher[i], teacher[j]) for i, j in pairs]
    return np.sqrt(np.sum(np.square(differences))) / len(student) ** 2


def kernel_case(name, seed, width=6, **rule):
    functions = (functools.partial(f, **rule) for f in (cc_kernel_loss, kernel_reference))
    return Case(name, *functions, random(9, 6, seed=seed), (random(9, width, seed=seed + 1),))


CASES = [
    Case("neighbors", cc_loss, reference, random(9, 6, seed=0), (random(9, 6, seed=1),), step=1e-6),
    kernel_case("gaussian", 2),
    kernel_case("gaussian of order 4, other widths", 4, width=3, gamma=0.2, order=4),
    kernel_case("bilinear", 6, width=8, kernel="bilinear"),
]


@pytest.mark.parametrize("loss", [cc_loss, cc_kernel_loss])
def test_the_loss_is_zero_at_the_teacher(loss):
    x = random(6, 4)
    assert float(loss(x, x)) == 0


def test_neighbors_depend_on_the_order_of_the_batch():
    s, t = random(6, 4), random(6, 4, seed=1)
    assert float(cc_loss(s[:1], t[:1])) == 0
    assert float(cc_loss(s[[0, 2, 1, 3, 4, 5]], t[[0, 2, 1, 3, 4, 5]])) != pytest.approx(float(cc_loss(s, t)), rel=1e-3)


def test_the_taylor_series_approaches_the_gaussian_of_unit_vectors():
    """||K_s - K_t|| of exp(-gamma ||x - y||^2) itself; of the teacher's equal examples it is 1 everywhere."""
    x = random(5, 3)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    square = ((x[:, None] - x[None]) ** 2).sum(-1)
    expected = np.linalg.norm(np.exp(-0.4 * square) - 1) / 25
    assert float(cc_kernel_loss(x, np.repeat(x[:1], 5, 0), order=12)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", [CC, CCKernel])
def test_both_embeddings_train_from_the_published_initial_values(kind):
    method = kind(width=16, weight=1.0)
    distiller = compiled(Distiller(student=convolutional(4), teacher=convolutional(6), methods=[method]))
    embeddings = distiller.methods[0].trainable_variables
    assert [tuple(v.shape) for v in embeddings] == [(8, 16), (16,), (12, 16), (16,)]
    before = values(embeddings)
    for kernel, wide in ((before[0], 8), (before[2], 12)):
        assert 0.8 * wide**-0.5 < np.abs(kernel).max() <= wide**-0.5
    distiller.fit(*examples(), verbose=0)
    changed = [np.abs(a - b).max() > 0 for a, b in zip(before, values(embeddings), strict=True)]
    assert all(changed)


@pytest.mark.parametrize(
    "kind, wrong, error",
    [
        (CC, {"width": 0}, ValueError),
        (CC, {"width": 1.5}, ValueError),
        (CCKernel, {"kernel": "cubic"}, ValueError),
        (CCKernel, {"gamma": 0}, ValueError),
        (CCKernel, {"order": 0}, ValueError),
        (CCKernel, {"order": "two"}, TypeError),
    ],
)
def test_invalid_arguments_raise(kind, wrong, error):
    with pytest.raises(error, match=next(iter(wrong))):
        kind(**wrong)


def test_maps_and_several_taps_raise():
    spec = {"embedding": TapSpec("s", (None, 4)), "stages[1]": TapSpec("m", (None, 4, 4, 2))}
    with pytest.raises(ValueError, match="embedding"):
        CC(student_tap="stages[1]").bind(spec, spec)
    with pytest.raises(ValueError, match="one tap"):
        CC(student_tap=("embedding", "embedding"), teacher_tap=("embedding", "embedding")).bind(spec, spec)
