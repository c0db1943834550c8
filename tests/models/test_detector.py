"""The one-stage detector: its parts, its loss by its definition, its files, and two devices."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller, models
from kd_keras.detection.boxes import convert_boxes
from kd_keras.detection.losses import focal_loss, giou_loss, smooth_l1_loss
from kd_keras.detection.matching import match_anchors
from kd_keras.methods import PKD
from kd_keras.models import Detector, detector
from kd_keras.networks.taps import Tapped
from tests.support.detectors import loss_of_two_replicas

SHAPE = (32, 24, 3)
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(0, 255, (6, *SHAPE)).astype("float32")
LABEL = {
    "boxes": np.array([[[0.1, 0.2, 0.6, 0.8], [0.5, 0.1, 0.9, 0.5]]] * 6, "float32"),
    "classes": np.array([[1, 2], [0, -1], [-1, -1], [2, 2], [1, -1], [0, 1]]),
}


def small(**options):
    keras.utils.set_random_seed(0)
    return models.build("detector/resnet8", SHAPE, 3, pyramid=(2, 3), width=8, depth=1, anchor_scale=2.0, **options)


@pytest.fixture(scope="module")
def network():
    return small()


def test_outputs_are_one_row_for_each_anchor(network):
    outputs = network(IMAGES)
    count = 9 * (8 * 6 + 4 * 3)
    assert network.anchors.shape == (count, 4) and isinstance(network, Detector)
    assert outputs["class_logits"].shape == (6, count, 3) and outputs["box_deltas"].shape == (6, count, 4)
    # The prior: every class has a probability of about 0.01 before training.
    assert np.median(tf.sigmoid(outputs["class_logits"])) == pytest.approx(0.01, rel=0.05)
    np.testing.assert_allclose(np.median(outputs["box_deltas"]), 0, atol=0.02)


def test_rows_are_in_the_order_of_the_anchors(network):
    """A change of an image moves the predictions of the anchors that are near it."""
    changed = IMAGES[:1].copy()
    changed[:, :6, :6] = 255 - changed[:, :6, :6]
    before, after = (network(images)["class_logits"].numpy() for images in (IMAGES[:1], changed))
    moved = np.abs(after - before)[0].max(-1)[: 9 * 48].reshape(8, 6, 9).max(-1)
    assert moved[0, 0] > 100 * max(moved[-1, -1], 1e-9)
    centers = network.anchors[: 9 * 48].reshape(8, 6, 9, 4)
    middle = (centers[..., :2] + centers[..., 2:]) / 2
    np.testing.assert_allclose(middle[0, 0, 0], [2, 2], atol=1e-4)
    np.testing.assert_allclose(middle[7, 5, 0], [22, 30], atol=1e-4)


def strided(side, padding):
    """A network of five stages of stride 2, whose sides are rounded up ("same") or down ("valid")."""
    network = keras.Sequential([keras.Input((*side, 3))])
    for _ in range(5):
        network.add(keras.layers.MaxPooling2D(2, padding=padding))
        network.add(keras.layers.Conv2D(4, 3, padding="same"))
    return network


@pytest.mark.parametrize("padding, rounded", [("same", np.ceil), ("valid", np.floor)])
@pytest.mark.parametrize("side", [(40, 160), (42, 300), (91, 91), (40, 40), (65, 67), (64, 96), (95, 33)])
def test_the_stride_of_a_map_is_that_of_its_stage(side, padding, rounded):
    """The anchors of each map cover the image, also if its sides are not divisible by the stride."""
    network = detector(strided(side, padding), 2, pyramid=(3, 4, 5), width=4, depth=1, anchor_scale=1.0)
    sizes = [tuple(int(rounded(length / 2**level)) for length in side) for level in (3, 4, 5)]
    assert [tuple(size) for size in network.get_layer("box_deltas").map_sizes] == sizes
    middle = (network.anchors[:, :2] + network.anchors[:, 2:]) / 2
    counts = np.cumsum([9 * height * width for height, width in sizes])[:-1]
    for stride, level in zip((8, 16, 32), np.split(middle, counts), strict=True):
        assert level.min() == pytest.approx(stride / 2)
        assert (np.abs(level.max(0) - np.array(side)[::-1]) <= 1.5 * stride).all()
    assert network(np.zeros((1, *side, 3), "float32"))["class_logits"].shape[1] == len(network.anchors)


@pytest.mark.parametrize(
    "name, pyramid, levels",
    [
        ("mobilenet_v2", (3, 4, 5), 3),
        ("applications/MobileNetV3Small", (2, 3), 2),
        ("resnet20", (1, 2, 3, 4), 4),
    ],
)
def test_any_network_with_stages_is_a_backbone(name, pyramid, levels):
    network = models.build(f"detector/{name}", (40, 56, 3), 1, pyramid=pyramid, width=8, depth=1)
    specs = Tapped(network, ["pyramid_p*", "stages", "class_logits"]).specs
    sizes = [spec.shape[1:] for spec in specs["pyramid_p*"]]
    # The stages of a detector are the levels of its pyramid, from fine to coarse.
    assert [spec.layer for spec in specs["stages"]] == [f"pyramid_p{level}" for level in pyramid]
    assert sorted(sizes, reverse=True) == [(-(-40 // 2**k), -(-56 // 2**k), 8) for k in pyramid]
    assert specs["class_logits"].shape == (None, len(network.anchors), 1) and len(sizes) == levels


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"pyramid": (3, 4)}, r"levels \[0, 1, 2\].*\(3, 4\)"),
        ({"pyramid": (1, 3)}, "consecutive"),
        ({"pyramid": ()}, "consecutive"),
        ({"width": 0}, "width"),
        ({"anchor_scale": 0}, "anchor_scale"),
        ({"head": "yolo"}, "head=.*'yolo'"),
        ({"box_loss": "l2"}, "box_loss=.*'l2'"),
        ({"head": "gfl", "box_loss": "smooth_l1"}, "no offsets"),
    ],
)
def test_wrong_options_raise(options, expected):
    with pytest.raises(ValueError, match=expected):
        models.build("detector/resnet8", SHAPE, 3, **options)


def test_an_input_without_a_size_raises():
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, name="stage1_out")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    with pytest.raises(ValueError, match="a fixed size"):
        detector(keras.Model(inputs, keras.layers.Dense(2)(x)), 3, pyramid=(0,))


def losses(network, outputs, label):
    boxes = convert_boxes(label["boxes"], "rel_yxyx", "xyxy", SHAPE[:2])
    targets = match_anchors(network.anchors, boxes, label["classes"])
    sums = focal_loss(outputs["class_logits"], targets) + 2 * giou_loss(outputs["box_deltas"], network.anchors, targets)
    return sums.numpy(), targets.is_positive.numpy().sum()


def test_the_loss_is_divided_by_the_positives_of_the_batch(network):
    outputs = network(IMAGES)
    sums, positives = losses(network, outputs, LABEL)
    assert positives > 10
    assert float(network.compute_loss(IMAGES, LABEL, outputs)) == pytest.approx(sums.sum() / positives, rel=1e-5)
    weights = np.array([1, 0, 2, 1, 0.5, 1], "float32")
    weighted = float(network.compute_loss(IMAGES, LABEL, outputs, weights))
    assert weighted == pytest.approx((sums * weights).sum() / positives, rel=1e-5)


def test_smooth_l1_is_the_other_loss_of_boxes(tmp_path):
    network = small(box_loss="smooth_l1")
    outputs = network(IMAGES)
    targets = network.targets(LABEL)
    sums = focal_loss(outputs["class_logits"], targets) + smooth_l1_loss(
        outputs["box_deltas"], network.anchors, targets
    )
    expected = sums.numpy().sum() / targets.is_positive.numpy().sum()
    network.save(tmp_path / "detector.keras")
    for model in (network, keras.models.load_model(tmp_path / "detector.keras")):
        assert float(model.compute_loss(IMAGES, LABEL, outputs)) == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_objects_has_a_loss(network):
    empty = {"boxes": np.zeros((6, 2, 4), "float32"), "classes": np.full((6, 2), -1)}
    outputs = network(IMAGES)
    sums, positives = losses(network, outputs, empty)
    assert positives == 0
    assert float(network.compute_loss(IMAGES, empty, outputs)) == pytest.approx(sums.sum(), rel=1e-5)


def test_a_file_contains_anchors_and_loss(network, tmp_path):
    network.save(tmp_path / "detector.keras")
    loaded = keras.models.load_model(tmp_path / "detector.keras")
    assert isinstance(loaded, Detector)
    np.testing.assert_array_equal(loaded.anchors, network.anchors)
    outputs = loaded(IMAGES)
    for key, value in network(IMAGES).items():
        np.testing.assert_array_equal(outputs[key], value)
    assert float(loaded.compute_loss(IMAGES, LABEL, outputs)) > 0
    detected = loaded.detect(IMAGES, score_threshold=0.001, detections=4)
    assert detected.boxes.shape == (6, 4, 4) and int(detected.count[0]) == 4
    assert (detected.boxes.numpy() >= 0).all() and (detected.boxes.numpy() <= [24, 32, 24, 32]).all()


def batches(count=1):
    return tf.data.Dataset.from_tensor_slices((IMAGES, LABEL)).batch(6).repeat(count)


def test_fit_and_the_distiller_use_its_loss():
    alone, student, teacher = small(), small(), models.build("detector/resnet14", SHAPE, 2, pyramid=(2, 3), width=16)
    alone.compile(keras.optimizers.SGD(0.01))
    expected = alone.fit(batches(), verbose=0, shuffle=False).history["loss"][0]
    pkd = PKD(student_tap="pyramid_p*", teacher_tap="pyramid_p*", weight=6.0)
    distiller = Distiller(student=student, teacher=teacher, methods=[pkd], hard_weight=1.0)
    distiller.compile(keras.optimizers.SGD(0.01), jit_compile=False)
    history = distiller.fit(batches(), verbose=0, shuffle=False).history
    assert history["hard"][0] == pytest.approx(expected, rel=1e-4) and history["pkd"][0] > 0
    evaluated = distiller.evaluate(batches(), verbose=0, return_dict=True)["loss"]
    outputs = student(IMAGES, training=False)
    assert evaluated == pytest.approx(float(student.compute_loss(IMAGES, LABEL, outputs)), rel=1e-4)


@pytest.mark.parametrize("first", [3, 2], ids=["equal slices", "unequal slices"])
def test_two_replicas_have_the_loss_of_one(network, first):
    outputs = {key: value.numpy() for key, value in network(IMAGES).items()}
    whole = float(network.compute_loss(IMAGES, LABEL, outputs))
    # The numbers of objects differ, so that a mean of the replicas' own quotients would differ, too.
    assert loss_of_two_replicas(network, LABEL, outputs, first) == pytest.approx(whole, rel=1e-5)
