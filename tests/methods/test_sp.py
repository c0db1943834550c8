"""SP against NumPy in float64."""

import numpy as np
import pytest

from kd_keras import Distiller
from kd_keras.methods import SP, sp_loss
from tests.support.networks import convolutional
from tests.support.reference import Case, random


def reference(student, teacher):
    """Row by row: the similarities of an example to all, of unit length; the squared differences over B^2."""
    total = 0.0
    for i in range(len(student)):
        rows = []
        for features in (student, teacher):
            row = np.array([np.sum(features[i] * features[j]) for j in range(len(features))])
            rows.append(row / np.sqrt((row**2).sum()))
        total += ((rows[0] - rows[1]) ** 2).sum()
    return np.array(total / len(student) ** 2)


CASES = [
    Case("maps of other sizes", sp_loss, reference, random(16, 4, 4, 3, seed=0), (random(16, 2, 3, 8, seed=1),)),
    Case("vectors after a ReLU", sp_loss, reference, abs(random(12, 5, seed=2)), (abs(random(12, 9, seed=3)),)),
]


def test_the_loss_is_zero_for_equal_similarities():
    x = random(8, 5)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0].astype("float32")
    assert float(sp_loss(3 * x @ rotation, x)) == pytest.approx(0, abs=1e-12)
    assert float(sp_loss(x[:1], x[1:2])) == 0  # a batch of one has no relations


def test_several_taps_are_summed():
    method = SP(student_tap=("a", "b"), teacher_tap=("c", "d"))
    student, teacher = ({name: random(6, 4, seed=ord(name)) for name in names} for names in ("ab", "cd"))
    expected = sp_loss(student["a"], teacher["c"]) + sp_loss(student["b"], teacher["d"])
    assert float(method.call(student, teacher, None, None)) == pytest.approx(float(expected), rel=1e-6)
    with pytest.raises(ValueError, match="as many taps"):
        Distiller(student=convolutional(), teacher=convolutional(), methods=[SP(teacher_tap="stages")])
