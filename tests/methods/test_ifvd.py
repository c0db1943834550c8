"""IFVD against NumPy in float64."""

import numpy as np
import pytest

from kd_keras.contracts import Batch, Outputs
from kd_keras.methods import IFVD, ifvd_loss
from tests.support.reference import Case, random, resized, unit

LABEL = np.random.default_rng(0).integers(-1, 3, (4, 3, 5))


def reference(student, teacher, label):
    """A position at a time."""
    student = resized(student, teacher.shape[1:3])
    out = np.zeros(label.shape)
    for b, i, j in np.ndindex(*label.shape):
        values = []
        for maps in (student[b], teacher[b]):
            prototype = maps[label[b] == label[b, i, j]].mean(0) if label[b, i, j] >= 0 else maps[i, j]
            values.append(unit(maps[i, j]) @ unit(prototype))
        out[b, i, j] = (values[0] - values[1]) ** 2
    return out


CASES = [
    Case("the published setting", ifvd_loss, reference, random(4, 3, 5, 6), (random(4, 3, 5, 4, seed=1), LABEL)),
    Case(
        "another size", ifvd_loss, reference, random(4, 4, 7, 3, seed=2), (random(4, 3, 5, 3, seed=3), LABEL), step=1e-5
    ),
]


def test_a_mask_is_resized_and_a_class_holds_for_the_image():
    maps, teacher = random(2, 3, 5, 4, seed=1), random(2, 3, 5, 2, seed=2)
    method = IFVD(student_tap="a", teacher_tap="a")
    mask = np.repeat(np.repeat(LABEL[:2], 2, 1), 3, 2).astype("int32")
    outputs = Outputs({"a": maps}), Outputs({"a": teacher})
    for labels in (mask, mask[..., None]):
        np.testing.assert_allclose(
            method.call(*outputs, Batch(None, labels), None), ifvd_loss(maps, teacher, LABEL[:2]), atol=1e-7
        )
    for labels in (np.array([4, 1]), np.eye(5)[[4, 1]]):
        loss = method.call(*outputs, Batch(None, labels), None)
        np.testing.assert_allclose(loss, ifvd_loss(maps, teacher, np.zeros((2, 3, 5), int)), atol=1e-7)
    with pytest.raises(ValueError, match="a mask of classes.*'ifvd', but received none"):
        method.call(*outputs, Batch(None), None)
    with pytest.raises(ValueError, match=r"shape \(2, 3, 5\)"):
        method.call(*outputs, Batch(None, np.zeros((2, 3, 5), "float32")), None)
