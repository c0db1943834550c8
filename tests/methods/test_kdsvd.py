"""KDSVD against NumPy's singular vectors in float64, and where a spectrum is degenerate."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller
from kd_keras.methods import KDSVD, kdsvd_loss
from tests.support import networks
from tests.support.reference import Case, random


def student(width, normalised=False):
    """A student of the teacher's width in the harness."""
    return networks.convolutional(6, normalised=normalised)


def vectors(ours, theirs, k):
    """Of one example: the student's and the teacher's vectors `(C, k)`, aligned and scaled."""
    _, values, right = np.linalg.svd(theirs.reshape(-1, theirs.shape[-1]), full_matrices=False)
    candidates = np.linalg.svd(ours.reshape(-1, ours.shape[-1]), full_matrices=False)[2][: k + 3]
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
        pairs = [vectors(ours[example], theirs[example], k) for ours, theirs in zip(student, teacher)]
        for (ours, theirs), (our_next, their_next) in zip(pairs, pairs[1:]):
            losses[example] += ((relation(ours, our_next) - relation(theirs, their_next)) ** 2).sum()
    return losses


def maps(seed, *shapes):
    """Positive, as after a ReLU, and with spectra whose values lie apart."""
    made = []
    for i, shape in enumerate(shapes):
        scales = 1.5 ** -np.arange(shape[-1], dtype="float32")
        made.append(np.abs(random(4, *shape, seed=seed + i)) * scales[np.random.default_rng(i).permutation(shape[-1])])
    return made


def case(name, k, ours, theirs):
    loss, expected = functools.partial(kdsvd_loss, k=k), functools.partial(reference, k=k)
    return Case(name, loss, expected, maps(0, *ours), (maps(10, *theirs),))


CASES = [
    case("k 1", 1, [(6, 6, 4), (4, 4, 5), (3, 3, 6)], [(6, 6, 4), (4, 4, 5), (3, 3, 6)]),
    case("k 2, other sizes of the teacher", 2, [(6, 6, 5), (4, 4, 6)], [(8, 8, 5), (3, 5, 6)]),
    case("more channels than positions", 1, [(4, 4, 5), (2, 3, 9)], [(4, 4, 5), (2, 3, 9)]),
]


def test_zero_where_student_is_teacher_whatever_the_scale():
    ours = maps(0, (5, 5, 4), (3, 3, 6))
    np.testing.assert_allclose(kdsvd_loss(ours, ours), np.zeros(4), atol=1e-10)
    np.testing.assert_allclose(kdsvd_loss(ours, [1e6 * one for one in ours]), np.zeros(4), atol=1e-10)
    np.testing.assert_allclose(kdsvd_loss([1e-6 * one for one in ours], ours), np.zeros(4), atol=1e-10)


def value_and_gradients(ours, theirs):
    with tf.GradientTape() as tape:
        tape.guard(ours)
        loss = kdsvd_loss(ours, theirs, k=2)
    return loss, tape.gradient(loss, ours)


COMPILED = {jit: tf.function(value_and_gradients, jit_compile=jit) for jit in (False, True)}


def gradients(ours, theirs, jit):
    return COMPILED[jit](*([tf.constant(one) for one in side] for side in (ours, theirs)))


def degenerate():
    full, one = maps(0, (5, 5, 4), (3, 3, 6)), [np.zeros((4, 5, 5, 4)), np.zeros((4, 3, 3, 6))]
    duplicate = [x[..., :1] + 0 * x for x in full]
    one_direction = [np.ones_like(x) for x in full]
    orthogonal = [np.stack([np.eye(x[0].size // x.shape[-1], x.shape[-1])] * 4).reshape(x.shape) for x in full]
    spoiled = [np.where(np.arange(x.shape[-1]) == 1, np.nan, x) for x in full]
    endless = [np.where(np.arange(x.shape[-1]) == 1, np.inf, x) for x in full]
    tiny, huge = [1e-30 * x for x in full], [1e30 * x for x in full]
    names = "zeros, duplicates, one direction, equal values, nan, infinity, tiny, huge".split(", ")
    all_of_them = (one, duplicate, one_direction, orthogonal, spoiled, endless, tiny, huge)
    return {name: [x.astype("float32") for x in made] for name, made in zip(names, all_of_them)}


@pytest.mark.parametrize("jit", [False, True])
def test_finite_and_bounded_where_the_spectrum_is_degenerate(jit):
    full = maps(5, (5, 5, 4), (3, 3, 6))
    for name, made in degenerate().items():
        for ours, theirs in ((made, full), (full, made), (made, made)):
            loss, found = gradients(ours, theirs, jit)
            assert np.isfinite(loss).all(), name
            for gradient, x in zip(found, ours):
                size = np.abs(np.where(np.isfinite(x), x, 0)).max()
                assert np.isfinite(gradient).all(), name
                assert np.abs(gradient).max() * size < 1e4, name  # the vectors' own scale is one


def test_a_map_of_zeros_asks_for_nothing():
    zeros = [0 * one for one in maps(0, (5, 5, 4), (3, 3, 6))]
    assert np.all(np.asarray(kdsvd_loss(zeros, zeros)) == 0)
    _, found = gradients(zeros, maps(1, (5, 5, 4), (3, 3, 6)), jit=False)
    assert all(np.all(np.asarray(gradient) == 0) for gradient in found)


def test_unequal_channels_say_so():
    with pytest.raises(ValueError, match=r"(?s)same channels.*'relu1' \(None, 8, 8, 4\).*\(None, 8, 8, 6\).*Remedy"):
        Distiller(student=networks.convolutional(4), teacher=networks.convolutional(6), methods=[KDSVD()])
    method = KDSVD(student_tap="stages[0]", teacher_tap="stages[0]")
    with pytest.raises(ValueError, match=r"(?s)two or more maps.*relu1.*stages"):
        Distiller(student=networks.convolutional(6), teacher=networks.convolutional(6), methods=[method])


def test_the_loss_under_xla_which_the_step_does_without():
    ours, theirs = maps(0, (5, 5, 4), (3, 3, 6)), maps(10, (5, 5, 4), (3, 3, 6))
    (loss, found), (again, found_again) = (gradients(ours, theirs, jit) for jit in (False, True))
    np.testing.assert_allclose(loss, again, rtol=1e-4)
    for one, other in zip(found, found_again):
        np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(one).max())
    distiller = Distiller(student=student(4), teacher=networks.convolutional(6), methods=[KDSVD()])
    distiller.compile(loss="mse")
    assert distiller.jit_compile is False


def test_the_sign_that_a_decomposition_happens_to_give_does_not_matter():
    """Its vectors are those of the maps in any order of positions, and that order may turn them round."""
    ours, theirs = maps(0, (5, 5, 4), (3, 3, 6)), maps(10, (5, 5, 4), (3, 3, 6))
    turned = [one[:, ::-1, ::-1] for one in theirs]
    np.testing.assert_allclose(kdsvd_loss(ours, theirs), kdsvd_loss(ours, turned), rtol=1e-4)
    np.testing.assert_allclose(kdsvd_loss(ours, theirs), kdsvd_loss(ours, [-one for one in theirs]), rtol=1e-4)


@pytest.mark.parametrize("k, error", [(0, ValueError), (1.5, ValueError), (True, TypeError)])
def test_a_wrong_k(k, error):
    with pytest.raises(error, match="k="):
        KDSVD(k=k)
