"""FSP against NumPy in float64; it needs a student as wide as the teacher."""

import numpy as np
import pytest

from kd_keras import Distiller
from kd_keras.methods import FSP, fsp_loss
from tests.support import networks
from tests.support.reference import Case, pooled, random


def student(width, normalized=False):
    """A student of the teacher's width in the harness."""
    return networks.convolutional(6, normalized=normalized)


def flow(a, b):
    """Each entry by its definition, of maps of one size."""
    size = min(a.shape[1], b.shape[1]), min(a.shape[2], b.shape[2])
    a, b = pooled(a, size), pooled(b, size)
    entries = [[(a[..., i] * b[..., j]).mean((1, 2)) for j in range(b.shape[-1])] for i in range(a.shape[-1])]
    return np.array(entries).transpose(2, 0, 1)


def reference(student, teacher):
    losses = 0
    for i in range(len(student) - 1):
        difference = flow(student[i], student[i + 1]) - flow(teacher[i], teacher[i + 1])
        losses = losses + (difference**2).mean((1, 2))
    return losses


def maps(seed, *sizes):
    return [
        random(4, *size, width, seed=seed + width) for size, width in zip(sizes, (3, 5, 4)[: len(sizes)], strict=True)
    ]


CASES = [
    Case("equal sizes", fsp_loss, reference, maps(0, (4, 4), (4, 4)), (maps(10, (4, 4), (4, 4)),)),
    Case(
        "three maps, falling and rising sizes, another size of the teacher",
        fsp_loss,
        reference,
        maps(0, (6, 5), (3, 3), (4, 4)),
        (maps(10, (8, 8), (4, 4), (2, 2)),),
    ),
]


def test_the_loss_is_zero_at_the_teacher_and_for_rotated_maps():
    student_maps = maps(0, (4, 4), (2, 2), (2, 2))
    np.testing.assert_allclose(fsp_loss(student_maps, student_maps), np.zeros(4))
    rotated = [x[:, ::-1, ::-1] for x in student_maps]  # all positions of all maps, which the mean does not see
    np.testing.assert_allclose(fsp_loss(student_maps, rotated), np.zeros(4), atol=1e-12)


def test_unequal_channels_raise():
    with pytest.raises(
        ValueError, match=r"(?s)same channels.*'relu1' \(None, 8, 8, 4\).*\(None, 8, 8, 6\).*Choose a student"
    ):
        Distiller(student=networks.convolutional(4), teacher=networks.convolutional(6), methods=[FSP()])


def test_a_single_map_raises():
    method = FSP(student_tap="stages[0]", teacher_tap="stages[0]")
    with pytest.raises(ValueError, match=r"(?s)two or more maps.*relu1.*stages"):
        Distiller(student=networks.convolutional(6), teacher=networks.convolutional(6), methods=[method])


def test_there_are_no_adapters():
    distiller = Distiller(student=student(4), teacher=networks.convolutional(6), methods=[FSP()])
    assert distiller.methods[0].variables == []
