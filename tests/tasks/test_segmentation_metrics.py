"""Metrics of segmentation against independent computations, pixel by pixel."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from kd_keras.tasks.segmentation.boundaries import count_boundaries
from kd_keras.tasks.segmentation.counts import count_pixels
from kd_keras.tasks.segmentation.metrics import (
    boundary_f_of,
    pixel_calibration,
    segmentation_agreement,
    segmentation_intervals,
    segmentation_quality,
)
from tests.support.reference import log_softmax, random, resized, softmax

RANDOM = np.random.default_rng(0)
CLASSES = 5
IMAGES = random(7, 9, 12, 3)
MASKS = RANDOM.integers(-1, CLASSES - 1, (7, 9, 12)).astype("int32")  # class 4 is in no mask


def network(seed, strides=1):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((9, 12, 3))
    options = {"kernel_initializer": "random_normal", "padding": "same", "strides": strides}
    x = 30 * keras.layers.Conv2D(4, 3, **options)(inputs)
    # Class 4 is never predicted; it is left out of the mean.
    x = keras.layers.Concatenate()([x, x[..., :1] - 9.0])
    return keras.Model(inputs, x)


@pytest.fixture(scope="module")
def networks():
    return {"teacher": network(0), "student": network(1)}


@pytest.fixture(scope="module")
def counted(networks):
    return count_pixels(networks, tf.data.Dataset.from_tensor_slices((IMAGES, MASKS)).batch(3))


@pytest.fixture(scope="module")
def logits(networks):
    return {name: net.predict(IMAGES, verbose=0).astype("float64") for name, net in networks.items()}


def test_quality_is_that_of_all_pixels_together(counted, logits):
    findings = dict(segmentation_quality(counted[0]["student"]))
    predicted, valid = logits["student"].argmax(-1)[MASKS >= 0], MASKS[MASKS >= 0]
    ious = []
    for k in range(CLASSES):
        either = ((predicted == k) | (valid == k)).sum()
        ious.append(((predicted == k) & (valid == k)).sum() / either if either else np.nan)
    assert np.isnan(ious[4]) and np.isfinite(ious[:4]).all()
    np.testing.assert_allclose(findings["iou_by_class"], ious)
    assert findings["miou"] == pytest.approx(np.nanmean(ious))
    assert findings["pixel_accuracy"] == pytest.approx((predicted == valid).mean())
    assert findings["fwiou"] == pytest.approx(sum((valid == k).mean() * ious[k] for k in range(4)))
    assert findings["mean_accuracy"] == pytest.approx(np.mean([(predicted == k)[valid == k].mean() for k in range(4)]))


def test_calibration_is_that_of_valid_pixels(counted, logits):
    findings = dict(pixel_calibration(counted[0]["student"]))
    z, label = logits["student"][MASKS >= 0], MASKS[MASKS >= 0]
    p = softmax(z)
    assert findings["nll"] == pytest.approx(-log_softmax(z)[np.arange(len(z)), label].mean(), rel=1e-6)
    assert findings["brier"] == pytest.approx(((p - np.eye(CLASSES)[label]) ** 2).sum(-1).mean(), rel=1e-6)
    confidence, correct, ece = p.max(-1), p.argmax(-1) == label, 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            ece += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    assert findings["ece"] == pytest.approx(ece, rel=1e-5) and findings["reliability"][:, 2].sum() == len(z)


def test_agreement_has_the_teacher_as_truth(counted, logits):
    findings = dict(segmentation_agreement(counted[1]["student"]))
    teacher, student = (logits[name].argmax(-1) for name in ("teacher", "student"))
    ious = [((teacher == k) & (student == k)).sum() / ((teacher == k) | (student == k)).sum() for k in range(4)]
    assert findings["agreement_miou"] == pytest.approx(np.mean(ious))
    assert findings["agreement"] == pytest.approx((teacher == student).mean())
    log_t, log_s = (log_softmax(logits[name]) for name in ("teacher", "student"))
    assert findings["kl"] == pytest.approx((np.exp(log_t) * (log_t - log_s)).sum(-1).mean(), rel=1e-4)
    assert set(counted[1]) == {"student"}


def edges(mask, k):
    """The boundary pixels of a class, pixel by pixel."""
    out = np.zeros(mask.shape, bool)
    for i, j in np.argwhere(mask == k):
        for y, x in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] not in (k, -1):
                out[i, j] = True
    return out


@pytest.mark.parametrize("tolerance", [0.0, 0.07, 0.2])
def test_boundaries_match_within_the_tolerance(tolerance):
    truth = ndimage.zoom(RANDOM.integers(0, 4, (4, 5)), 5, order=0)
    predicted = ndimage.zoom(RANDOM.integers(0, 4, (4, 5)), 5, order=0)
    truth[3:8, 4:9] = -1
    counts = count_boundaries(truth, predicted, 4, tolerance)
    limit = max(1.0, tolerance * np.hypot(20, 25))
    for k in range(4):
        maps = [edges(np.where(truth < 0, -1, mask), k) for mask in (predicted, truth)]
        expected = []
        for own, opposite in (maps, maps[::-1]):
            far = ndimage.distance_transform_edt(~opposite) if opposite.any() else np.full(own.shape, np.inf)
            expected += [(own & (far <= limit + 1e-9)).sum(), own.sum()]
        assert counts[k].tolist() == expected


def test_boundary_f_is_a_mean_over_images(counted):
    findings = dict(segmentation_quality(counted[0]["student"]))
    f = boundary_f_of(counted[0]["student"].boundaries)
    assert findings["boundary_f"] == pytest.approx(np.mean([np.nanmean(row) for row in f]))
    np.testing.assert_allclose(findings["boundary_f_by_class"][:4], np.nanmean(f[:, :4], 0))
    same = count_boundaries(MASKS[0], np.maximum(MASKS[0], 0), CLASSES)
    assert np.nanmean(boundary_f_of(same)) == 1


def test_intervals_resample_images(counted):
    confusion, teachers = counted[0]["student"].confusion, counted[0]["teacher"].confusion
    findings = dict(segmentation_intervals(confusion, teachers, resamples=500))
    random_state = np.random.default_rng(1)
    values, differences = [], []
    for _ in range(500):
        chosen = random_state.integers(0, len(confusion), len(confusion))
        pair = []
        for matrices in (confusion, teachers):
            matrix = matrices[chosen].sum(0)[:4, :4]
            pair.append(np.mean(np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))))
        values.append(pair[0])
        differences.append(pair[0] - pair[1])
    for name, sample in (("miou", values), ("difference", differences)):
        expected = np.quantile(sample, [0.025, 0.975])
        np.testing.assert_allclose([findings[f"{name}_low"], findings[f"{name}_high"]], expected, atol=0.012)
    assert findings["difference_low"] <= findings["difference"] <= findings["difference_high"]
    with pytest.raises(ValueError, match="the same images"):
        dict(segmentation_intervals(confusion, teachers[:-1]))


def test_logits_of_a_smaller_map_are_resized():
    small = network(3, strides=2)
    data = tf.data.Dataset.from_tensors((IMAGES, MASKS[..., None]))
    confusion = count_pixels({"small": small}, data)[0]["small"].confusion.sum(0)
    predicted = resized(small.predict(IMAGES, verbose=0).astype("float64"), (9, 12)).argmax(-1)
    assert np.trace(confusion) == (predicted == MASKS).sum()


def test_wrong_data_raises(networks):
    for label, expected in (
        (np.zeros(7, int), "masks"),
        (MASKS.astype("float32"), "masks"),
        (MASKS + 2, "of the 5 classes"),
    ):
        with pytest.raises(ValueError, match=expected):
            count_pixels(networks, tf.data.Dataset.from_tensors((IMAGES, label)))
    with pytest.raises(ValueError, match="masks.*none"):
        count_pixels(networks, tf.data.Dataset.from_tensors(IMAGES))
    fewer_classes = keras.Sequential([keras.Input((9, 12, 3)), keras.layers.Conv2D(3, 1)])
    with pytest.raises(ValueError, match="same classes"):
        count_pixels(
            {**networks, "other": fewer_classes}, tf.data.Dataset.from_tensors((IMAGES, np.zeros((7, 9, 12), int)))
        )
