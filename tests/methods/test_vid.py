"""VID against NumPy in float64, and its variances as they train."""

import functools

import numpy as np
import pytest

from kd_keras import Distiller
from kd_keras.contracts import TapSpec
from kd_keras.methods import VID, vid_loss
from kd_keras.networks.specs import Specs
from tests.support.networks import compiled, convolutional, examples, values
from tests.support.reference import Case, random


def reference(student, teacher, variances):
    """The normal distribution's negative logarithm, element by element, without its constant."""
    losses = np.zeros(len(student[0]))
    for mean, target, variance in zip(student, teacher, variances, strict=True):
        for example in range(len(mean)):
            terms = [
                -np.log(np.exp(-((mean[example, i, j, c] - target[example, i, j, c]) ** 2) / (2 * variance[c])))
                + np.log(np.sqrt(variance[c]))
                for i, j, c in np.ndindex(mean.shape[1:])
            ]
            losses[example] += np.mean(terms)
    return losses


def case(name, *variances):
    shapes = [(4, 3, 3, 5), (4, 2, 2, 7)][: len(variances)]
    student, teacher = ([random(*shape, seed=s + i) for i, shape in enumerate(shapes)] for s in (0, 10))
    options = {"variances": list(variances)}
    return Case(
        name, functools.partial(vid_loss, **options), functools.partial(reference, **options), student, (teacher,)
    )


CASES = [
    case("the published variance at first", np.full(5, 5.0)),
    case("two maps, variances by channel", np.linspace(0.5, 3.0, 5), np.linspace(2.0, 8.0, 7)),
]


def bound(student=(8, 8, 4), teacher=(8, 8, 6), **options):
    method = VID(student_tap="a", teacher_tap="b", **options)
    method.bind(Specs({"a": TapSpec("s", (None, *student))}), Specs({"b": TapSpec("t", (None, *teacher))}))
    return method


def test_three_convolutions_without_bias_and_a_variance_by_channel():
    method = bound()
    shapes = [tuple(variable.shape) for variable in method.trainable_variables]
    assert sorted(shapes) == sorted([(1, 1, 4, 6), (1, 1, 6, 6), (1, 1, 6, 6), (6,)])
    np.testing.assert_allclose(method.variances()[0], np.full(6, 5.0), rtol=1e-6)
    np.testing.assert_allclose(bound(initial_variance=2000.0).variances()[0], np.full(6, 2000.0), rtol=1e-6)
    np.testing.assert_allclose(bound(initial_variance=2e-5).variances()[0], np.full(6, 2e-5), rtol=1e-2)


@pytest.mark.parametrize("student, teacher", [((8, 8, 4), (4, 4, 6)), ((4, 4, 4), (8, 8, 6)), ((6, 8, 4), (8, 6, 6))])
def test_the_larger_map_is_pooled(student, teacher):
    method = bound(student, teacher)
    student_maps, teacher_maps = random(2, *student, seed=1), random(2, *teacher, seed=2)
    assert method({"a": student_maps}, {"b": teacher_maps}, None, None).shape == (2,)


def test_the_variances_train_towards_the_error():
    """In mdistiller they are constant."""
    distiller = compiled(Distiller(student=convolutional(4), teacher=convolutional(6), methods=[VID()]))
    before = values(distiller.methods[0].rhos)
    assert all(any(rho is variable for variable in distiller.trainable_variables) for rho in distiller.methods[0].rhos)
    distiller.fit(*examples(), epochs=3, verbose=0)
    after = values(distiller.methods[0].rhos)
    assert all((a < b).all() for a, b in zip(after, before, strict=True))  # from 5 down, as errors are small


@pytest.mark.parametrize("variance, error", [(0.0, ValueError), (1e-5, ValueError), ("much", TypeError)])
def test_an_invalid_variance_raises(variance, error):
    with pytest.raises(error, match="initial_variance"):
        VID(initial_variance=variance)


def test_vectors_raise():
    with pytest.raises(ValueError, match=r"(?s)maps.*'s' \(None, 4\).*Tap stages"):
        bound((4,), (6,))


def test_initial_values_and_the_first_gradient_are_those_of_the_published_code():
    """PyTorch's defaults: uniform up to 1 / sqrt(fan-in), with standard deviation 1 / sqrt(3 fan-in)."""
    method = bound(student=(8, 8, 64), teacher=(8, 8, 128))
    kernels = [np.asarray(v) for v in method.trainable_variables if len(v.shape) == 4]
    for kernel in kernels:
        limit = kernel.shape[2] ** -0.5
        assert np.abs(kernel).max() <= limit and np.std(kernel) == pytest.approx(limit / np.sqrt(3), rel=0.05)
        assert abs(np.mean(kernel)) < 0.05 * limit
