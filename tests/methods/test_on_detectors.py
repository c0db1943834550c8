"""Feature methods on the pyramids of two detectors with different backbones, widths and heads."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller, models
from kd_keras.methods import AB, AT, CWD, FGD, MGD, NST, OFD, PKD, SP, VID, Dense, FitNet, SemCKD
from tests.support.detectors import random_boxes

pytestmark = pytest.mark.filterwarnings("ignore:Gradients do not exist")
SHAPE, WIDTHS = (32, 32, 3), (8, 12)
LEVELS = {"student_tap": "stages", "teacher_tap": "stages"}
# What has an adapter for each level, and what has none, others, or takes a single level.
ADAPTED = [PKD(), FGD(), OFD(), CWD(**LEVELS), MGD(**LEVELS), Dense(**LEVELS)]
OTHERS = [VID(), AB(), AT(), NST(), SemCKD(), FitNet(), SP()]


@pytest.fixture(scope="module")
def distiller():
    keras.utils.set_random_seed(0)
    options = {"pyramid": (2, 3), "depth": 1}
    student = models.build("detector/resnet8", SHAPE, 3, width=WIDTHS[0], **options)
    teacher = models.build("detector/mobilenet_v2", SHAPE, 3, width=WIDTHS[1], head="gfl", **options)
    distiller = Distiller(student=student, teacher=teacher, methods=[*ADAPTED, *OTHERS], hard_weight=1)
    distiller.compile(keras.optimizers.SGD(1e-6), jit_compile=False)
    return distiller


def test_every_method_trains_a_step(distiller):
    before = [np.array(layer.depthwise_kernel) for layer in lateral_layers(distiller.student)]
    images = np.random.default_rng(0).uniform(0, 255, (4, *SHAPE)).astype("float32")
    data = tf.data.Dataset.from_tensors((images, random_boxes(4, 3)))
    logged = distiller.fit(data, verbose=0, shuffle=False).history
    for method in distiller.methods:
        assert np.isfinite(logged[method.name][0]) and logged[method.name][0] > 0, method.name
    assert logged["hard"][0] > 0
    after = [np.array(layer.depthwise_kernel) for layer in lateral_layers(distiller.student)]
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, after, strict=True))


def lateral_layers(network):
    """The last convolutions before the maps of the pyramid."""
    return [network.get_layer(f"fpn_p{level}_conv") for level in (2, 3)]


@pytest.mark.parametrize("method", ADAPTED, ids=lambda method: method.name)
def test_unequal_widths_are_adapted_at_every_level(distiller, method):
    maps = [keras.ops.zeros((1, size, size, WIDTHS[0])) for size in (8, 4)]
    adapted = [adapter(x) for adapter, x in zip(method.adapters, maps, strict=True)]
    assert [x.shape for x in adapted] == [(1, 8, 8, WIDTHS[1]), (1, 4, 4, WIDTHS[1])]


@pytest.mark.parametrize("kind", [PKD, FGD, VID, OFD, AB, AT, NST, SemCKD])
def test_the_default_taps_are_the_levels_of_the_pyramid(distiller, kind):
    for side, network in (("student", distiller._student), ("teacher", distiller.teacher)):
        (tap,) = getattr(kind.taps, side)
        specs = [spec.layer for spec in network.specs[tap]]
        assert specs == ["pyramid_p2", "pyramid_p3"]
