"""OFD against NumPy in float64, and its margins against the mean of many normal numbers."""

import functools

import numpy as np
import pytest

from kd_keras import Distiller
from kd_keras.contracts import TapSpec
from kd_keras.methods import OFD, ofd_loss
from kd_keras.methods.ofd import expected_margins
from kd_keras.networks.taps import Specs
from tests.support.networks import compiled, convolutional, examples, values
from tests.support.reference import Case, pooled, random


def reference(student, teacher, margins):
    """The cases of the published table, element by element."""
    losses = np.zeros(len(student[0]))
    for layer, (student_map, teacher_map, margin) in enumerate(zip(student, teacher, margins, strict=True)):
        teacher_map = pooled(teacher_map, student_map.shape[1:3])
        for place in np.ndindex(student_map.shape):
            s, t, m = student_map[place], teacher_map[place], margin[place[-1]]
            if t > 0:
                distance = (s - t) ** 2
            elif t > m:
                distance = (s - t) ** 2 if s > t else 0
            else:
                distance = (s - m) ** 2 if s > m else 0
            losses[place[0]] += distance / 2 ** (len(student) - 1 - layer)
    return losses


def case(name, student_shapes, teacher_shapes):
    margins = [-np.linspace(0.1, 1.5, shape[-1]) for shape in student_shapes]
    student = [random(*shape, seed=i) for i, shape in enumerate(student_shapes)]
    teacher = [random(*shape, seed=i + 10) for i, shape in enumerate(teacher_shapes)]
    options = {"margins": margins}
    return Case(
        name, functools.partial(ofd_loss, **options), functools.partial(reference, **options), student, (teacher,)
    )


CASES = [
    case("one map", [(5, 4, 3, 6)], [(5, 4, 3, 6)]),
    case("three maps", [(4, 4, 4, 2), (4, 2, 2, 5), (4, 2, 2, 3)], [(4, 4, 4, 2), (4, 2, 2, 5), (4, 2, 2, 3)]),
    case("a larger and a smaller map of the teacher", [(4, 4, 4, 2), (4, 6, 6, 3)], [(4, 7, 8, 2), (4, 3, 2, 3)]),
]


def test_a_margin_is_the_mean_of_the_negative_part():
    scale, offset = np.array([1.0, -2.0, 0.5, 1.0]), np.array([0.3, -1.0, 0.9, 2.5])
    normal = np.random.default_rng(0).normal(size=(2_000_000, 1)) * np.abs(scale) + offset
    expected = [column[column < 0].mean() for column in normal.T]
    np.testing.assert_allclose(expected_margins(scale, offset), expected, rtol=0.01)


def test_margins_if_few_or_no_values_are_negative():
    expected = [-3.0, -6.0, 0.0, -2.0, 0.0]
    margins = expected_margins(np.array([1.0, -2.0, 0.0, 0.0, 0.0]), np.array([3.2, 10.0, 1.0, -2.0, 0.0]))
    np.testing.assert_allclose(margins, expected)
    at_the_limit = expected_margins(np.ones(2), np.array([3.08, 3.10]))  # 0.00103 and 0.00097 are negative
    assert at_the_limit[0] > -1 and at_the_limit[1] == -3


def test_the_margins_are_those_of_the_teachers_batch_norms():
    teacher = convolutional(6, normalized=True)
    for stage in (1, 2):
        norm = teacher.get_layer(f"bn{stage}")
        norm.gamma.assign(random(6 * stage, seed=stage))
        norm.beta.assign(random(6 * stage, seed=stage + 2))
    method = OFD()
    distiller = compiled(Distiller(student=convolutional(4), teacher=teacher, methods=[method]))
    expected = [expected_margins(random(6 * stage, seed=stage), random(6 * stage, seed=stage + 2)) for stage in (1, 2)]
    before = values(method.margins)
    for margin, value in zip(before, expected, strict=True):
        np.testing.assert_allclose(margin, value)
    distiller.fit(*examples(), verbose=0)
    for margin, value in zip(values(method.margins), before, strict=True):
        np.testing.assert_array_equal(margin, value)


def test_margins_are_loaded_from_the_file(tmp_path):
    import keras

    teacher = convolutional(6, normalized=True, name="teacher")
    teacher.get_layer("bn1").beta.assign(random(6, seed=3))
    distiller = compiled(Distiller(student=convolutional(4), teacher=teacher, methods=[OFD()]))
    distiller.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras")
    for margin, reloaded in zip(distiller.methods[0].margins, again.methods[0].margins, strict=True):
        np.testing.assert_array_equal(margin, reloaded)


def test_the_adapters():
    method = OFD()
    specs = {"stages:pre": [TapSpec("a", (None, 8, 8, 4)), TapSpec("b", (None, 4, 4, 12))]}
    targets = {"stages:pre": [TapSpec("c", (None, 8, 8, 600)), TapSpec("d", (None, 4, 4, 12))]}
    method.bind(Specs(specs), Specs(targets))
    shapes = [tuple(variable.shape) for variable in method.trainable_variables]
    assert shapes == [(1, 1, 4, 600), (600,), (600,), (1, 1, 12, 12), (12,), (12,)]  # also where shapes agree
    kernel = np.asarray(method.trainable_variables[0])
    assert kernel.std() == pytest.approx(np.sqrt(2 / 600), rel=0.1)  # by fan-out; by fan-in sqrt(2 / 4)


def test_a_teacher_without_batch_norm_raises():
    with pytest.raises(ValueError, match=r"(?s)BatchNormalization.*conv1.*\. [A-Z]"):
        Distiller(student=convolutional(4), teacher=convolutional(6), methods=[OFD()])
