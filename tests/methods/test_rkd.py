"""RKD against NumPy in float64."""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from kd_keras.methods import RKD, rkd_angle_loss, rkd_distance_loss, rkd_loss
from kd_keras.methods.rkd import CORNERS
from kd_keras.primitives import pairwise_distances
from tests.support.reference import Case, random, unit


def smooth_l1(x):
    return np.mean([0.5 * v**2 if abs(v) < 1 else abs(v) - 0.5 for v in np.ravel(x)])


def distances(x):
    d = np.zeros((len(x), len(x)))
    for i, j in itertools.permutations(range(len(x)), 2):
        d[i, j] = np.sqrt(max(((x[i] - x[j]) ** 2).sum(), 1e-12))
    return d / d[d > 0].mean() if (d > 0).any() else d


def cosines(x):
    """From the difference vectors themselves."""
    corners = [np.array([unit(other - corner) for other in x]) for corner in x]
    return np.array([directions @ directions.T for directions in corners])


def distance_reference(student, teacher):
    return smooth_l1(distances(student) - distances(teacher))


def angle_reference(student, teacher):
    return smooth_l1(cosines(student) - cosines(teacher))


def reference(student, teacher, distance_weight=25.0, angle_weight=50.0):
    return distance_weight * distance_reference(student, teacher) + angle_weight * angle_reference(student, teacher)


far = 100 * np.ones((1, 5), "float32")
CASES = [
    Case("other widths", rkd_loss, reference, random(10, 5, seed=0), (random(10, 9, seed=1),)),
    Case("far from the origin", rkd_loss, reference, random(10, 5, seed=2) + far, (random(10, 5, seed=3) + far,)),
    Case("distances", rkd_distance_loss, distance_reference, random(10, 5, seed=4), (random(10, 2, seed=5),)),
    Case("angles", rkd_angle_loss, angle_reference, random(10, 5, seed=6), (random(10, 2, seed=7),)),
    Case(
        "other weights",
        functools.partial(rkd_loss, distance_weight=1.0, angle_weight=2.0),
        functools.partial(reference, distance_weight=1.0, angle_weight=2.0),
        abs(random(10, 3, seed=8)),
        (abs(random(10, 4, seed=9)),),
    ),
]


def test_the_loss_is_zero_for_similar_shapes():
    x = random(8, 5)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0].astype("float32")
    assert float(rkd_loss(3 * x @ rotation + 7, x)) == pytest.approx(0, abs=1e-9)


def test_a_batch_of_one_has_no_relations():
    assert float(rkd_loss(random(1, 5), random(1, 5, seed=1))) == 0


def test_equal_points_have_no_direction():
    """Two equal points of the student, for which the authors' code uses a direction of zero."""
    student, teacher = random(8, 5), random(8, 5, seed=1)
    student[3] = student[5]
    expected = angle_reference(student.astype("float64"), teacher.astype("float64"))
    assert float(rkd_angle_loss(student, teacher)) == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(CASES[3].gradients(student, (teacher,))[0]).all()


def test_tight_clusters():
    """Points a fiftieth as far apart as the clusters they are in, from the Gram matrix."""
    clusters = np.repeat(random(4, 16, seed=0), 4, axis=0)
    student, teacher = (clusters + random(16, 16, seed=s, scale=0.02) for s in (1, 2))
    expected = angle_reference(student.astype("float64"), teacher.astype("float64"))
    assert float(rkd_angle_loss(student, teacher)) == pytest.approx(expected, rel=1e-4)


def test_invalid_weights_raise():
    with pytest.raises(TypeError, match="angle_weight"):
        RKD(angle_weight=None)
    with pytest.raises(ValueError, match="distance_weight"):
        RKD(distance_weight=float("nan"))


@pytest.mark.parametrize("count", [2, 4, 5, 13])
def test_the_corners_are_complete_for_every_batch_size(count):
    """Batches that fill the last of the parts, into which the corners are divided, and that do not; compiled, for a
    batch of unknown size."""
    student, teacher = random(count, 5, seed=20), random(count, 7, seed=21)
    case = Case("", rkd_angle_loss, angle_reference, student, (teacher,))
    assert case.value_error() < 1e-5 and case.gradient_error() < 1e-4
    free = [tf.TensorSpec((None, width)) for width in (5, 7)]
    compiled = case._replace(loss=tf.function(rkd_angle_loss, input_signature=free))
    assert compiled.value_error() < 1e-5 and compiled.gradient_error() < 1e-4


def test_no_tensor_holds_all_triples(monkeypatch):
    """The largest tensor of the loss and its gradient, the loop over corners unrolled so that one graph holds all."""
    monkeypatch.setattr(
        ops,
        "fori_loop",
        lambda lower, upper, turn, sums: functools.reduce(
            lambda sums, number: turn(number, sums), range(lower, upper), sums
        ),
    )
    with tf.Graph().as_default() as graph:
        student, teacher = (tf.constant(random(24, 5, seed=seed)) for seed in (0, 1))
        assert tf.gradients(rkd_angle_loss(student, teacher), student)[0].shape == (24, 5)
    sizes = [result.shape.num_elements() for operation in graph.get_operations() for result in operation.outputs]
    assert None not in sizes and max(sizes) == CORNERS * 24**2


def test_a_weight_of_zero_computes_nothing():
    student, teacher = random(6, 5), random(6, 4, seed=1)
    assert float(rkd_loss(student, teacher, angle_weight=0)) == pytest.approx(
        25 * distance_reference(student, teacher), rel=1e-5
    )
    assert float(rkd_loss(student, teacher, distance_weight=0)) == pytest.approx(
        50 * angle_reference(student, teacher), rel=1e-5
    )
    assert float(rkd_loss(student, teacher, distance_weight=0, angle_weight=0)) == 0
    without = tf.function(functools.partial(rkd_loss, angle_weight=0)).get_concrete_function(student, teacher)
    assert not any("While" in operation.type for operation in without.graph.get_operations())
    both = tf.function(rkd_loss).get_concrete_function(student, teacher)
    assert any("While" in operation.type for operation in both.graph.get_operations())


def test_equal_and_near_rows_have_their_exact_distance():
    x = random(6, 64, seed=3)
    x[1], x[2] = x[0], x[0] + 1e-4
    x += 5.0  # far from the origin, where a Gram matrix in float32 cancels
    measured = pairwise_distances(x).numpy()
    exact = np.array([[np.linalg.norm(a - b) for b in x.astype("float64")] for a in x.astype("float64")])
    assert measured[0, 1] == pytest.approx(1e-6, rel=1e-3)
    np.testing.assert_allclose(measured[exact > 0], exact[exact > 0], rtol=1e-5)


def test_the_gradient_of_near_rows_is_that_of_their_difference():
    x = random(2, 8, seed=4).astype("float32")
    x[1] = x[0] + 1e-3
    rows = tf.Variable(x)
    with tf.GradientTape() as tape:
        distance = pairwise_distances(rows)[0, 1]
    difference = (x[0] - x[1]).astype("float64")
    expected = difference / np.linalg.norm(difference)
    np.testing.assert_allclose(tape.gradient(distance, rows).numpy(), [expected, -expected], atol=1e-5)
