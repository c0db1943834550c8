"""FitNet against NumPy in float64, and its regressor against shapes worked out by hand."""

import keras
import numpy as np
import pytest

from kd_keras import Distiller
from kd_keras.contracts import TapSpec
from kd_keras.methods import FitNet, fitnet_loss
from tests.support.networks import compiled, convolutional, examples, mirrored, values
from tests.support.reference import Case, random


def reference(student, teacher):
    """The mean square of the differences, an example at a time, summed over pairs of maps."""
    return sum(((s - t) ** 2).reshape(len(s), -1).mean(-1) for s, t in zip(student, teacher, strict=True))


def maps(seed):
    return [random(5, 4, 3, 2, seed=seed), random(5, 2, 2, 7, seed=seed + 1)]


CASES = [Case("two maps", fitnet_loss, reference, maps(0), (maps(2),))]
# At the published weight of 100 and the harness's rate of 0.1, six updates multiply a rounding of the images a hundred
# times: replicas differ by 4e-5, and by 7e-7 at a weight of 10 and 9e-8 at 1.
OPTIONS = {"FitNet": {"weight": 10.0}}


def test_several_maps_are_summed_and_a_single_map_needs_no_list():
    zeros, ones = np.zeros((2, 3, 3, 1), "float32"), np.ones((2, 3, 3, 1), "float32")
    np.testing.assert_allclose(fitnet_loss([zeros, zeros], [ones, 2 * ones]), [5.0, 5.0])
    np.testing.assert_allclose(fitnet_loss(zeros, ones), [1.0, 1.0])
    with pytest.raises(ValueError):
        fitnet_loss([zeros], [ones, ones])


def bound(student, teacher, **options):
    method = FitNet(**options)
    method.bind({"stages[1]": TapSpec("s", (None, *student))}, {"stages[1]": TapSpec("t", (None, *teacher))})
    return method


@pytest.mark.parametrize(
    "student, teacher, kernel",
    [
        ((8, 8, 4), (8, 8, 6), (1, 1, 4, 6)),  # as large: 1x1
        ((8, 8, 4), (4, 4, 6), (3, 3, 4, 6)),  # twice as large: 3x3, stride 2
        ((4, 4, 4), (8, 8, 6), (4, 4, 6, 4)),  # half as large: transposed 4x4, stride 2
        ((8, 8, 4), (7, 6, 6), (2, 3, 4, 6)),  # else 1 + Hs - Ht
    ],
)
def test_the_regressor(student, teacher, kernel):
    method = bound(student, teacher)
    assert method.regressors[0].output_shape == (None, *teacher)
    assert tuple(method.trainable_variables[0].shape) == kernel
    assert len(method.trainable_variables) == 3  # kernel, BatchNorm's scale and offset


def test_equal_shapes_need_no_regressor_but_may_have_one():
    assert bound((8, 8, 4), (8, 8, 4)).variables == []
    published = bound((8, 8, 4), (8, 8, 4), regress_equal=True)
    assert tuple(published.trainable_variables[0].shape) == (1, 1, 4, 4)
    assert [type(layer).__name__ for layer in published.regressors[0].layers][-2:] == ["BatchNormalization", "ReLU"]
    assert FitNet.from_config(published.get_config()).regress_equal


@pytest.mark.parametrize("size", [8, 9])
def test_the_regressor_of_a_larger_map_is_padded_on_each_side(size):
    method = bound((2 * size, 2 * size, 1), (size, size, 1))
    kernel, images = method.trainable_variables[0], random(1, 2 * size, 2 * size, 1, seed=1)
    weights = random(3, 3, 1, 1, seed=2)
    kernel.assign(weights)
    padded = np.pad(images[0, :, :, 0], 1)  # as a convolution of PyTorch with padding=1 and stride=2
    rows = range(0, 2 * size, 2)
    expected = [[(padded[r : r + 3, c : c + 3] * weights[:, :, 0, 0]).sum() for c in rows] for r in rows]
    convolved = keras.Sequential(method.regressors[0].layers[:2])(images)
    np.testing.assert_allclose(convolved[0, :, :, 0], expected, rtol=1e-5, atol=1e-6)


def test_maps_without_a_common_shape_raise():
    with pytest.raises(ValueError, match=r"(?s)'s' \(None, 4, 4, 2\).*'t' \(None, 9, 9, 2\).*Tap stages"):
        bound((4, 4, 2), (9, 9, 2))
    with pytest.raises(ValueError, match="stage"):
        bound((10,), (4, 4, 2))
    with pytest.raises(ValueError, match=r"tokens \(B, N, D\) of the same number"):
        bound((16, 10), (17, 10))


def test_the_adapter_trains_and_is_not_saved_with_the_student(tmp_path):
    import keras

    student, teacher = convolutional(4), convolutional(6)
    distiller = compiled(Distiller(student=student, teacher=teacher, methods=[FitNet()]))
    adapter = distiller.methods[0].trainable_variables
    before = values(adapter)
    distiller.fit(*examples(), verbose=0)
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, values(adapter), strict=True))
    student.save(tmp_path / "student.keras")
    reloaded = keras.saving.load_model(tmp_path / "student.keras")
    assert len(reloaded.variables) == len(convolutional(4).variables)


def test_a_missing_stage_raises():
    with pytest.raises(ValueError, match=r"(?s)stages\[7\].*2 stages"):
        Distiller(student=convolutional(), teacher=convolutional(), methods=[FitNet(student_tap="stages[7]")])


def test_a_hint_before_its_activation_keeps_its_sign():
    method = FitNet(student_tap="stages:pre[1]", teacher_tap="stages:pre[1]")
    spec = {"stages:pre[1]": TapSpec("s", (None, 4, 4, 3))}, {"stages:pre[1]": TapSpec("t", (None, 4, 4, 6))}
    method.bind(*spec)
    assert np.min(method.regressors[0](np.random.default_rng(0).normal(size=(2, 4, 4, 3)))) < 0
    with pytest.raises(ValueError, match="already belongs to another Distiller"):
        Distiller(student=convolutional(), teacher=convolutional(), methods=[method])


def test_an_adapter_on_two_replicas():
    with mirrored(2).scope():
        method = FitNet(weight=1.0)
        distiller = compiled(Distiller(student=convolutional(4), teacher=convolutional(6), methods=[method]))
    before = values(distiller.methods[0].trainable_variables)
    history = distiller.fit(*examples(), epochs=5, verbose=0).history
    assert history["fitnet"][-1] < history["fitnet"][0]
    assert all(
        np.abs(a - b).max() > 0 for a, b in zip(before, values(distiller.methods[0].trainable_variables), strict=True)
    )


def test_every_hint_has_its_own_rectifier():
    network = {"classes": 5, "shape": (16, 16, 3)}
    student, teacher = convolutional(4, **network), convolutional(6, **network)
    method = FitNet(student_tap=("stages[0]", "stages[1]"), teacher_tap=("stages[0]", "stages:pre[1]"))
    Distiller(student=student, teacher=teacher, methods=[method])
    ends = [any("ReLU" in type(layer).__name__ for layer in regressor.layers) for regressor in method.regressors]
    assert ends == [True, False]
