"""KDSVD against NumPy's singular vectors in float64, and for degenerate spectra."""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller
from kd_keras.methods import KDSVD, kdsvd_loss
from tests.support import networks
from tests.support.reference import Case, random


def student(width, normalized=False):
    """A student of the teacher's width in the harness."""
    return networks.convolutional(6, normalized=normalized)


def vectors(student_map, teacher_map, k):
    """Of one example: the student's and the teacher's vectors `(C, k)`, aligned and scaled."""
    _, values, right = np.linalg.svd(teacher_map.reshape(-1, teacher_map.shape[-1]), full_matrices=False)
    candidates = np.linalg.svd(student_map.reshape(-1, student_map.shape[-1]), full_matrices=False)[2][: k + 3]
    values = values[:k] / np.linalg.norm(values[:k])
    right = np.array([vector * np.sign(vector[np.argmax(np.abs(vector))]) for vector in right[:k]])
    aligned = []
    for vector in right:
        cosines = [candidate @ vector for candidate in candidates]
        best = int(np.argmax(np.abs(cosines)))
        aligned.append(candidates[best] * np.sign(cosines[best]))
    return np.array(aligned).T * values, right.T * values


def relation(a, b):
    """Each entry by its definition."""
    out = np.zeros((len(a), len(b), a.shape[1]))
    for i, j, n in np.ndindex(out.shape):
        out[i, j, n] = np.exp(-((a[i, n] - b[j, n]) ** 2) / 8)
    return out


def reference(student, teacher, k=1):
    losses = np.zeros(len(student[0]))
    for example in range(len(losses)):
        pairs = [
            vectors(student_maps[example], teacher_maps[example], k)
            for student_maps, teacher_maps in zip(student, teacher, strict=True)
        ]
        for (student_vectors, teacher_vectors), (next_student, next_teacher) in itertools.pairwise(pairs):
            losses[example] += (
                (relation(student_vectors, next_student) - relation(teacher_vectors, next_teacher)) ** 2
            ).sum()
    return losses


def maps(seed, *shapes):
    """Positive, as after a ReLU, and with spectra of distinct values."""
    result = []
    for i, shape in enumerate(shapes):
        scales = 1.5 ** -np.arange(shape[-1], dtype="float32")
        result.append(
            np.abs(random(4, *shape, seed=seed + i)) * scales[np.random.default_rng(i).permutation(shape[-1])]
        )
    return result


def case(name, k, student_shapes, teacher_shapes):
    loss, expected = functools.partial(kdsvd_loss, k=k), functools.partial(reference, k=k)
    return Case(name, loss, expected, maps(0, *student_shapes), (maps(10, *teacher_shapes),))


CASES = [
    case("k 1", 1, [(6, 6, 4), (4, 4, 5), (3, 3, 6)], [(6, 6, 4), (4, 4, 5), (3, 3, 6)]),
    case("k 2, other sizes of the teacher", 2, [(6, 6, 5), (4, 4, 6)], [(8, 8, 5), (3, 5, 6)]),
    case("more channels than positions", 1, [(4, 4, 5), (2, 3, 9)], [(4, 4, 5), (2, 3, 9)]),
]


def test_the_loss_is_zero_at_the_teacher_for_every_scale():
    student_maps = maps(0, (5, 5, 4), (3, 3, 6))
    np.testing.assert_allclose(kdsvd_loss(student_maps, student_maps), np.zeros(4), atol=1e-10)
    np.testing.assert_allclose(kdsvd_loss(student_maps, [1e6 * x for x in student_maps]), np.zeros(4), atol=1e-10)
    np.testing.assert_allclose(kdsvd_loss([1e-6 * x for x in student_maps], student_maps), np.zeros(4), atol=1e-10)


def value_and_gradients(student_maps, teacher_maps):
    with tf.GradientTape() as tape:
        tape.watch(student_maps)
        loss = kdsvd_loss(student_maps, teacher_maps, k=2)
    return loss, tape.gradient(loss, student_maps)


COMPILED = {jit: tf.function(value_and_gradients, jit_compile=jit) for jit in (False, True)}


def gradients(student_maps, teacher_maps, jit):
    return COMPILED[jit](*([tf.constant(x) for x in side] for side in (student_maps, teacher_maps)))


def degenerate():
    full, zeros = maps(0, (5, 5, 4), (3, 3, 6)), [np.zeros((4, 5, 5, 4)), np.zeros((4, 3, 3, 6))]
    duplicate = [x[..., :1] + 0 * x for x in full]
    one_direction = [np.ones_like(x) for x in full]
    orthogonal = [np.stack([np.eye(x[0].size // x.shape[-1], x.shape[-1])] * 4).reshape(x.shape) for x in full]
    with_nan = [np.where(np.arange(x.shape[-1]) == 1, np.nan, x) for x in full]
    with_infinity = [np.where(np.arange(x.shape[-1]) == 1, np.inf, x) for x in full]
    tiny, huge = [1e-30 * x for x in full], [1e30 * x for x in full]
    names = "zeros, duplicates, one direction, equal values, nan, infinity, tiny, huge".split(", ")
    all_maps = (zeros, duplicate, one_direction, orthogonal, with_nan, with_infinity, tiny, huge)
    return {
        name: [x.astype("float32") for x in maps_of_kind] for name, maps_of_kind in zip(names, all_maps, strict=True)
    }


@pytest.mark.parametrize("jit", [False, True])
def test_loss_and_gradient_are_bounded_for_degenerate_spectra(jit):
    full = maps(5, (5, 5, 4), (3, 3, 6))
    for name, degenerate_maps in degenerate().items():
        for student_maps, teacher_maps in (
            (degenerate_maps, full),
            (full, degenerate_maps),
            (degenerate_maps, degenerate_maps),
        ):
            loss, gradients_of_maps = gradients(student_maps, teacher_maps, jit)
            assert np.isfinite(loss).all(), name
            for gradient, x in zip(gradients_of_maps, student_maps, strict=True):
                size = np.abs(np.where(np.isfinite(x), x, 0)).max()
                assert np.isfinite(gradient).all(), name
                assert np.abs(gradient).max() * size < 1e4, name  # the vectors' own scale is one


def test_a_map_of_zeros_has_no_loss_and_no_gradient():
    zeros = [0 * x for x in maps(0, (5, 5, 4), (3, 3, 6))]
    assert np.all(np.asarray(kdsvd_loss(zeros, zeros)) == 0)
    _, gradients_of_maps = gradients(zeros, maps(1, (5, 5, 4), (3, 3, 6)), jit=False)
    assert all(np.all(np.asarray(gradient) == 0) for gradient in gradients_of_maps)


def test_unequal_channels_raise():
    with pytest.raises(
        ValueError, match=r"(?s)same channels.*'relu1' \(None, 8, 8, 4\).*\(None, 8, 8, 6\).*Choose a student"
    ):
        Distiller(student=networks.convolutional(4), teacher=networks.convolutional(6), methods=[KDSVD()])
    method = KDSVD(student_tap="stages[0]", teacher_tap="stages[0]")
    with pytest.raises(ValueError, match=r"(?s)two or more maps.*relu1.*stages"):
        Distiller(student=networks.convolutional(6), teacher=networks.convolutional(6), methods=[method])


def test_the_loss_works_with_xla_but_the_step_does_not_use_it():
    student_maps, teacher_maps = maps(0, (5, 5, 4), (3, 3, 6)), maps(10, (5, 5, 4), (3, 3, 6))
    (loss, gradients_of_maps), (loss_with_jit, gradients_with_jit) = (
        gradients(student_maps, teacher_maps, jit) for jit in (False, True)
    )
    np.testing.assert_allclose(loss, loss_with_jit, rtol=1e-4)
    for gradient, gradient_with_jit in zip(gradients_of_maps, gradients_with_jit, strict=True):
        np.testing.assert_allclose(gradient, gradient_with_jit, atol=1e-4 * np.abs(gradient).max())
    distiller = Distiller(student=student(4), teacher=networks.convolutional(6), methods=[KDSVD()])
    distiller.compile(loss="mse")
    assert distiller.jit_compile is False


def test_the_sign_of_a_decomposition_does_not_matter():
    """The vectors do not depend on the order of positions, but their signs in a decomposition may."""
    student_maps, teacher_maps = maps(0, (5, 5, 4), (3, 3, 6)), maps(10, (5, 5, 4), (3, 3, 6))
    rotated = [x[:, ::-1, ::-1] for x in teacher_maps]
    np.testing.assert_allclose(kdsvd_loss(student_maps, teacher_maps), kdsvd_loss(student_maps, rotated), rtol=1e-4)
    np.testing.assert_allclose(
        kdsvd_loss(student_maps, teacher_maps),
        kdsvd_loss(student_maps, [-x for x in teacher_maps]),
        rtol=1e-4,
    )


@pytest.mark.parametrize("k, error", [(0, ValueError), (1.5, ValueError), (True, TypeError)])
def test_an_invalid_k_raises(k, error):
    with pytest.raises(error, match="k="):
        KDSVD(k=k)
