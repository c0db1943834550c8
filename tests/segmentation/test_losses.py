"""The loss of segmentation against NumPy, value and gradient; its reduction in a Distiller and on two devices."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller, models
from kd_keras.methods import KD
from kd_keras.segmentation import SegmentationLoss
from kd_keras.segmentation.losses import dice_loss
from tests.support.networks import mirrored, values
from tests.support.reference import log_softmax, random, softmax

RANDOM = np.random.default_rng(0)
LOGITS = random(3, 4, 5, 6, seed=1)
LABEL = RANDOM.integers(-1, 6, (3, 4, 5)).astype("int32")
LABEL[1] = -1  # an image without a valid pixel
WEIGHTS = [0.5, 1.0, 2.0, 0.0, 3.0, 1.5]


def reference(logits, label=LABEL, class_weights=None, dice=0.0, pixel_weights=None):
    """One pixel after the other."""
    total, count = 0.0, 0
    logp = log_softmax(np.asarray(logits, "float64"))
    for place in np.ndindex(*label.shape):
        if label[place] >= 0:
            weight = 1.0 if class_weights is None else class_weights[label[place]]
            weight *= 1.0 if pixel_weights is None else pixel_weights[place]
            total, count = total - weight * logp[(*place, label[place])], count + 1
    loss = total / max(count, 1)
    return loss + dice * np.mean(dice_reference(logits, label)) if dice else loss


def dice_reference(logits, label=LABEL):
    p, images = softmax(np.asarray(logits, "float64")), []
    for image, mask in zip(p, label, strict=True):
        scores = []
        for k in range(p.shape[-1]):
            prediction, truth = image[..., k][mask >= 0], (mask[mask >= 0] == k).astype(float)
            scores.append((2 * (prediction * truth).sum() + 1) / ((prediction**2).sum() + truth.sum() + 1))
        images.append(1 - np.mean(scores))
    return np.array(images)


@pytest.mark.parametrize(
    "options", [{}, {"class_weights": WEIGHTS}, {"dice_weight": 0.7}, {"class_weights": WEIGHTS, "dice_weight": 3.0}]
)
def test_value_and_gradient(options):
    loss = SegmentationLoss(**options)
    arguments = {"class_weights": options.get("class_weights"), "dice": options.get("dice_weight", 0.0)}
    logits = tf.Variable(LOGITS)
    with tf.GradientTape() as tape:
        value = loss(LABEL, logits)
    gradient = tape.gradient(value, logits).numpy()
    assert float(value) == pytest.approx(reference(LOGITS, **arguments), rel=1e-5)
    for place in RANDOM.permutation(LOGITS.size)[:40]:
        changed = [LOGITS.astype("float64") for _ in range(2)]
        for array, step in zip(changed, (1e-4, -1e-4), strict=True):
            array.reshape(-1)[place] += step
        expected = (reference(changed[0], **arguments) - reference(changed[1], **arguments)) / 2e-4
        assert gradient.reshape(-1)[place] == pytest.approx(expected, abs=1e-6)


def test_labels_with_a_last_axis_and_pixel_weights():
    weights = RANDOM.uniform(0, 2, LABEL.shape).astype("float32")
    actual = SegmentationLoss()(LABEL[..., None], LOGITS, weights)
    assert float(actual) == pytest.approx(reference(LOGITS, pixel_weights=weights), rel=1e-5)


def test_dice_alone_and_edge_cases():
    np.testing.assert_allclose(dice_loss(LABEL, LOGITS), dice_reference(LOGITS), rtol=1e-5, atol=1e-7)
    perfect = 400.0 * np.eye(6, dtype="float32")[np.maximum(LABEL, 0)]
    np.testing.assert_allclose(dice_loss(LABEL, perfect), np.zeros(3), atol=1e-6)
    nothing = SegmentationLoss(dice_weight=1.0)(np.full_like(LABEL, -1), LOGITS)
    assert float(nothing) == 0.0
    assert np.isfinite(float(SegmentationLoss()(LABEL, LOGITS * 400)))


def test_the_configuration_is_restored():
    loss = SegmentationLoss(class_weights=WEIGHTS, dice_weight=0.5)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config() and again.class_weights == WEIGHTS


@pytest.mark.parametrize(
    "options, label, expected",
    [
        ({"class_weights": [1.0]}, LABEL, "class_weights of the 6 classes"),
        ({}, LABEL[:, 0], "SegmentationLoss"),
    ],
)
def test_wrong_shapes_raise(options, label, expected):
    with pytest.raises(ValueError, match=expected):
        SegmentationLoss(**options)(label, LOGITS)
    with pytest.raises(ValueError, match="class_weights"):
        SegmentationLoss(class_weights=[-1.0])


def segmenter(seed=0):
    keras.utils.set_random_seed(seed)
    network = models.build("segmenter/resnet8", (12, 16, 3), 4, width=8)
    for layer in network.layers:  # statistics of a slice differ from those of a batch
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    return network


def data(count=6, classes=4):
    images = RANDOM.uniform(0, 255, (count, 12, 16, 3)).astype("float32")
    label = RANDOM.integers(-1, classes, (count, 12, 16)).astype("int32")
    label[0] = -1  # slices differ in their number of valid pixels
    return images, label


def train(devices, images, label):
    with mirrored(devices).scope():
        distiller = Distiller(student=segmenter())
        distiller.compile(keras.optimizers.SGD(0.05), SegmentationLoss(dice_weight=0.3), jit_compile=False)
    batches = tf.data.Dataset.from_tensor_slices((images, label)).batch(len(images))
    history = distiller.fit(batches, epochs=2, verbose=0).history
    return values(distiller.student.trainable_variables), history["loss"]


@pytest.mark.filterwarnings("ignore:.*shuffle")
def test_two_devices_train_as_one():
    images, label = data(7)
    alone, together = train(1, images, label), train(2, images, label)
    for one, two in zip(alone[0], together[0], strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    np.testing.assert_allclose(alone[1], together[1], rtol=1e-5)


def test_the_distiller_checks_labels_and_the_output():
    images, label = data(2)
    distiller = Distiller(student=segmenter())
    distiller.compile("sgd", SegmentationLoss(), jit_compile=False)
    logged = distiller.evaluate(images, label, verbose=0, return_dict=True)["loss"]
    assert logged == pytest.approx(reference(distiller.student(images), label), rel=1e-5)
    label[1, 0, 0] = 4
    with pytest.raises(ValueError, match="0 to 3 for 'segmentation_loss'.*received 4"):
        distiller.fit(images, label, verbose=0)
    network = segmenter()
    softmax_student = keras.Model(network.input, keras.layers.Softmax()(network.output))
    distiller = Distiller(student=softmax_student, teacher=segmenter(1), methods=[KD()])
    distiller.compile("sgd", SegmentationLoss(), jit_compile=False)
    with pytest.raises(ValueError, match="returns probabilities"):
        distiller.fit(*data(2), verbose=0)
