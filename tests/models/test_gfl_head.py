"""The GFL head: its outputs, its loss by its definition in NumPy, its files, and two devices."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import models
from kd_keras.models import Detector
from tests.support.boxes import overlap
from tests.support.detectors import loss_of_two_replicas, random_boxes, varied_detector
from tests.support.reference import softmax

SHAPE = (32, 24, 3)
IMAGES = np.random.default_rng(0).uniform(0, 255, (6, *SHAPE)).astype("float32")
LABEL = random_boxes(6, 3)
STRIDES = [4] * 48 + [8] * 12


@pytest.fixture(scope="module")
def network():
    return varied_detector("resnet8", SHAPE, 3, head="gfl", pyramid=(2, 3), width=8, depth=1)


def center(n):
    stride, columns, n = (4, 6, n) if n < 48 else (8, 3, n - 48)
    return np.array([n % columns + 0.5, n // columns + 0.5]) * stride


def box(logits, n):
    left, up, right, down = softmax(logits) @ np.arange(17) * STRIDES[n]
    x, y = center(n)
    return np.array([x - left, y - up, x + right, y + down])


def reference(class_logits, box_logits, targets, frozen=None):
    """The loss of a batch, one position at a time; scores and IoUs that have no gradient are those of `frozen`."""
    frozen = (class_logits, box_logits) if frozen is None else frozen
    quality_loss, box_loss, positives, weights = 0.0, 0.0, 0, 0.0
    for b, n in np.ndindex(*class_logits.shape[:2]):
        p = 1 / (1 + np.exp(-class_logits[b, n]))
        y = np.zeros(len(p))
        if targets.number[b, n] >= 0:
            truth = np.asarray(targets.boxes[b, n], "float64")
            y[int(targets.classes[b, n])] = overlap(box(frozen[1][b, n], n), truth)[0]
            weight = 1 / (1 + np.exp(-frozen[0][b, n].max()))
            distances = np.concatenate([center(n) - truth[:2], truth[2:] - center(n)]) / STRIDES[n]
            edges = []
            for distance, logits in zip(np.clip(distances, 0, 15.9), box_logits[b, n], strict=True):
                i, s = int(distance), np.log(softmax(logits))
                edges.append(-((i + 1 - distance) * s[i] + (distance - i) * s[i + 1]))
            box_loss += weight * (2 * (1 - overlap(box(box_logits[b, n], n), truth)[1]) + np.mean(edges) / 4)
            positives, weights = positives + 1, weights + weight
        quality_loss += (np.abs(y - p) ** 2 * -(y * np.log(p) + (1 - y) * np.log(1 - p))).sum()
    return quality_loss / max(positives, 1) + box_loss / max(weights, 1)


def as_arrays(outputs):
    return np.array(outputs["class_logits"], "float64"), np.array(outputs["box_logits"], "float64")


def test_outputs_are_one_row_for_each_position(network):
    outputs = network(IMAGES)
    assert isinstance(network, Detector) and network.anchors.shape == (60, 4)
    assert outputs["class_logits"].shape == (6, 60, 3) and outputs["box_logits"].shape == (6, 60, 4, 17)
    np.testing.assert_allclose((network.anchors[:, :2] + network.anchors[:, 2:]) / 2, [center(n) for n in range(60)])
    np.testing.assert_array_equal(network.anchors[:, 2] - network.anchors[:, 0], 8 * np.array(STRIDES))
    boxes = network.boxes(outputs).numpy()
    for b, n in ((0, 0), (3, 17), (5, 59)):
        np.testing.assert_allclose(boxes[b, n], box(as_arrays(outputs)[1][b, n], n), rtol=1e-4)
    untrained = models.build("detector/resnet8", SHAPE, 3, head="gfl", pyramid=(2, 3), width=8)
    assert np.median(tf.sigmoid(untrained(IMAGES)["class_logits"])) == pytest.approx(0.01, rel=0.05)


def test_rows_are_in_the_order_of_the_positions(network):
    changed = IMAGES[:1].copy()
    changed[:, :4, :4] = 255 - changed[:, :4, :4]
    for key in ("class_logits", "box_logits"):
        before, after = (network(images)[key].numpy() for images in (IMAGES[:1], changed))
        moved = np.abs(after - before)[0].reshape(60, -1).max(-1)[:48].reshape(8, 6)
        assert moved[0, 0] > 100 * max(moved[-1, -1], 1e-9)


def test_value_and_gradient_of_the_loss_are_those_of_the_reference(network):
    outputs = {key: value.numpy() for key, value in network(IMAGES[:3]).items()}
    label = {key: array[:3] for key, array in LABEL.items()}
    targets, frozen = network.targets(label), as_arrays(outputs)
    numbers = targets.number.numpy()
    assert (numbers >= 0).sum() >= 5 and (numbers[1] < 0).all()
    variables = {key: tf.Variable(value) for key, value in outputs.items()}
    with tf.GradientTape() as tape:
        loss = network.compute_loss(IMAGES, label, variables)
    assert float(loss) == pytest.approx(reference(*frozen, targets), rel=1e-5)
    gradients, step, random = tape.gradient(loss, variables), 1e-5, np.random.default_rng(0)
    rows = {"class_logits": np.argwhere(numbers > -9), "box_logits": np.argwhere(numbers >= 0)}
    for place, key in enumerate(("class_logits", "box_logits")):
        positives = np.argwhere(numbers >= 0)
        chosen = [*random.permutation(rows[key])[:8], *random.permutation(positives)[:4]]
        actual, expected = [], []
        for b, n in chosen:
            index = (b, n, *(random.integers(0, size) for size in outputs[key].shape[2:]))
            values = []
            for sign in (1, -1):
                shifted = [array.copy() for array in frozen]
                shifted[place][index] += sign * step
                values.append(reference(*shifted, targets, frozen=frozen))
            actual.append(gradients[key].numpy()[index])
            expected.append((values[0] - values[1]) / (2 * step))
        assert np.abs(np.subtract(actual, expected)).max() / np.abs(expected).max() < 1e-5


def test_a_batch_without_objects_has_the_loss_of_its_background(network):
    empty = {"boxes": np.zeros((6, 2, 4), "float32"), "classes": np.full((6, 2), -1)}
    outputs = {key: tf.Variable(value) for key, value in network(IMAGES).items()}
    with tf.GradientTape() as tape:
        loss = network.compute_loss(IMAGES, empty, outputs)
    p = 1 / (1 + np.exp(-as_arrays(outputs)[0]))
    assert float(loss) == pytest.approx((p**2 * -np.log(1 - p)).sum(), rel=1e-5)
    gradients = tape.gradient(loss, outputs)
    assert not gradients["box_logits"].numpy().any() and np.isfinite(gradients["class_logits"]).all()


def test_more_padding_changes_nothing(network):
    outputs = network(IMAGES)
    padded = {
        "boxes": np.pad(LABEL["boxes"], ((0, 0), (0, 4), (0, 0))),
        "classes": np.pad(LABEL["classes"], ((0, 0), (0, 4)), constant_values=-1),
    }
    losses = [float(network.compute_loss(IMAGES, label, outputs)) for label in (LABEL, padded)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("first", [3, 2], ids=["equal slices", "unequal slices"])
def test_two_replicas_have_the_loss_of_one(network, first):
    outputs = {key: value.numpy() for key, value in network(IMAGES).items()}
    whole = float(network.compute_loss(IMAGES, LABEL, outputs))
    assert loss_of_two_replicas(network, LABEL, outputs, first) == pytest.approx(whole, rel=1e-5)


def test_a_file_contains_positions_and_loss(network, tmp_path):
    network.save(tmp_path / "detector.keras")
    loaded = keras.models.load_model(tmp_path / "detector.keras")
    outputs = loaded(IMAGES)
    for key, value in network(IMAGES).items():
        np.testing.assert_array_equal(outputs[key], value)
    assert float(loaded.compute_loss(IMAGES, LABEL, outputs)) == float(network.compute_loss(IMAGES, LABEL, outputs))
    detected = loaded.detect(IMAGES, score_threshold=0.001, detections=4)
    assert (detected.boxes.numpy() >= 0).all() and (detected.boxes.numpy() <= [24, 32, 24, 32]).all()
