"""Corruptions: what they keep, what grows with severity, and some against closed forms."""

import colorsys

import numpy as np
import pytest
from scipy import ndimage

from kd_keras.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt


def pictures(size=(16, 20), channels=3, count=12):
    """Smooth pictures in 0..255 with some structure."""
    random = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(random.normal(size=(count, *size, channels)), (0, 1.5, 1.5, 0))
    low, high = smooth.min((1, 2), keepdims=True), smooth.max((1, 2), keepdims=True)
    return np.round(255 * (smooth - low) / (high - low)).astype("uint8")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_shape_type_repeatability_and_growth_with_severity(name, channels):
    clean = pictures(channels=channels)
    before = clean.copy()
    corrupted = [corrupt(clean, name, severity) for severity in SEVERITIES]
    np.testing.assert_array_equal(clean, before)
    assert all(images.shape == clean.shape and images.dtype == np.uint8 for images in corrupted)
    np.testing.assert_array_equal(corrupted[2], corrupt(clean, name, 3))
    distances = [np.square(images.astype(float) - clean).mean() for images in corrupted]
    assert distances == sorted(distances) and distances[-1] > 1.5 * distances[0] > 0
    if name in ("gaussian_noise", "impulse_noise", "shot_noise", "fog", "motion_blur"):
        assert (corrupted[2] != corrupt(clean, name, 3, seed=1)).any()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_black_white_and_tiny_images(name):
    for value in (0, 255):
        for size in ((1, 1), (2, 3), (8, 8)):
            corrupted = corrupt(np.full((2, *size, 3), value, "uint8"), name, 5).astype(int)
            if name in ("contrast", "gaussian_blur", "motion_blur", "jpeg", "pixelate"):  # these keep a constant image
                assert abs(corrupted - value).max() <= 1
            if name == "shot_noise" and value == 0:
                assert not corrupted.any()


def test_against_closed_forms():
    clean = pictures()
    scaled = clean / 255
    mean = scaled.mean((1, 2), keepdims=True)
    expected = np.round(255 * np.clip(mean + 0.4 * (scaled - mean), 0, 1))
    assert abs(expected - corrupt(clean, "contrast", 3)).max() <= 1
    lit = corrupt(clean, "brightness", 4)[0, :4, :4].reshape(-1, 3)
    for (r, g, b), pixel in zip(scaled[0, :4, :4].reshape(-1, 3), lit, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(r, g, b)
        rgb = colorsys.hsv_to_rgb(hue, saturation if value else 0, min(1, value + 0.2))
        assert abs(pixel - 255 * np.array(rgb)).max() <= 1
    flat = np.full((40, 32, 32, 1), 128, "uint8")
    assert corrupt(flat, "gaussian_noise", 1).std() == pytest.approx(0.04 * 255, rel=0.02)
    assert corrupt(flat, "shot_noise", 2).std() == pytest.approx(255 * np.sqrt(128 / 255 / 250), rel=0.02)
    struck = corrupt(flat, "impulse_noise", 5)
    assert [(struck == end).mean() for end in (0, 255)] == pytest.approx([0.035, 0.035], rel=0.1)
    blocks = corrupt(pictures((20, 20), 1), "pixelate", 5)[..., 0]
    assert max(len(np.unique(image)) for image in blocks) <= 13 * 13 and (blocks[:, :, 0] == blocks[:, :, 1]).all()


def test_motion_blur_keeps_the_position_of_an_object_and_smears_it_along_a_line():
    dot = np.zeros((6, 31, 31, 1), "uint8")
    dot[:, 15, 15] = 255
    for image in corrupt(dot, "motion_blur", 5)[..., 0].astype(float):
        rows, columns = np.nonzero(image)
        weight = image[rows, columns]
        center = np.average(rows, weights=weight), np.average(columns, weights=weight)
        assert center == pytest.approx((15, 15), abs=0.1)
        spread = np.linalg.eigvalsh(np.cov(np.stack([rows, columns]), aweights=weight))
        assert spread[1] > 8 * spread[0]


def test_invalid_arguments_are_rejected():
    clean = pictures()
    for images, name, severity, message in (
        (clean / 255, "contrast", 1, "uint8"), (clean[..., :2], "contrast", 1, "1 or 3"),
        (clean, "contrasts", 1, "Did you mean contrast"), (clean, "contrast", 6, "1 to 5"),
    ):
        with pytest.raises(ValueError, match=message):
            corrupt(images, name, severity)
