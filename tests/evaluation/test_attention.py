"""Grad-CAM for a network for which it has a closed form, and the comparison of maps."""

import keras
import numpy as np
import pytest
from scipy.stats import spearmanr

from kd_keras import Teacher, models
from kd_keras.evaluation import attention, attention_maps
from tests.support.networks import CLASSES, SHAPE, convolutional

RANDOM = np.random.default_rng(0)
IMAGES, CLASS_OF = RANDOM.integers(0, 256, (10, *SHAPE)).astype("uint8"), RANDOM.integers(0, CLASSES, 10)


def bilinear(image, size):
    """`(h, w)` to `size` with half-pixel centers, one pixel after the other."""
    result = np.zeros(size)
    for row in range(size[0]):
        for column in range(size[1]):
            y, x = (
                (place + 0.5) * old / new - 0.5
                for place, old, new in zip((row, column), image.shape, size, strict=True)
            )
            y, x = (min(max(place, 0), old - 1) for place, old in zip((y, x), image.shape, strict=True))
            top, left = int(y), int(x)
            down, right = (min(place + 1, old - 1) for place, old in zip((top, left), image.shape, strict=True))
            a, b = y - top, x - left
            upper = (1 - b) * image[top, left] + b * image[top, right]
            result[row, column] = (1 - a) * upper + a * ((1 - b) * image[down, left] + b * image[down, right])
    return result


def class_activation(model, images, classes):
    """Zhou et al. 2016: of a network that ends in mean pooling and a dense layer, Grad-CAM is the sum of the maps by
    the class's weights, up to a factor."""
    maps = np.array(keras.Model(model.input, model.get_layer("relu2").output)(images))
    kernel = np.array(model.get_layer("logits").kernel)
    sums = np.maximum(np.einsum("nhwc,cn->nhw", maps, kernel[:, classes]), 0)
    large = np.stack([bilinear(image, SHAPE[:2]) for image in sums])
    return large / np.maximum(large.max((1, 2), keepdims=True), 1e-12)


def test_grad_cam_is_the_class_activation_map_of_a_network_with_mean_pooling():
    model = convolutional(6)
    maps = attention_maps(model, IMAGES, CLASS_OF, batch_size=4)
    assert maps.shape == (10, *SHAPE[:2]) and maps.dtype == np.float32 and maps.min() >= 0
    np.testing.assert_allclose(maps, class_activation(model, IMAGES.astype("float32"), CLASS_OF), atol=1e-5)
    assert set(maps.max((1, 2)).round(5)) <= {0.0, 1.0} and (maps.max((1, 2)) == 1).sum() > 5


def test_softmax_preprocessing_frozen_layers_and_another_order_of_classes():
    model = convolutional(6)
    wrapped = keras.Sequential([keras.Input(SHAPE), model, keras.layers.Softmax()])
    wrapped.trainable = False
    order = [2, 0, 4, 1, 3]
    teacher = Teacher(wrapped, preprocess=lambda images: images / 127.5 - 1, class_order=order)
    expected = class_activation(model, IMAGES / np.float32(127.5) - 1, np.array(order)[CLASS_OF])
    np.testing.assert_allclose(attention_maps(teacher, IMAGES, CLASS_OF), expected, atol=1e-5)


def test_a_last_stage_of_one_pixel_is_skipped_and_a_network_without_maps_is_an_error():
    inputs = keras.Input((8, 8, 1))
    maps = keras.layers.Conv2D(3, 5, activation="relu", name="relu2")(inputs)
    narrow = keras.layers.Conv2D(4, 4, activation="relu")(maps)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(narrow)))
    maps = attention_maps(model, IMAGES[..., :1], np.zeros(10, int))
    assert maps.std((1, 2)).max() > 0.1
    with pytest.raises(ValueError, match="stages"):
        attention_maps(models.build("mlp", SHAPE, CLASSES), IMAGES, CLASS_OF)
    layers = [keras.Input((4, 4, 1)), keras.layers.Conv2D(3, 4), keras.layers.Flatten(), keras.layers.Dense(2)]
    pixel = keras.Sequential(layers)
    with pytest.raises(ValueError, match="a stage with several pixels"):
        attention_maps(pixel, IMAGES[:, :4, :4, :1], np.zeros(10, int))


def test_correlation_and_overlap_by_hand():
    one, other = RANDOM.random((2, 6, 5, 4))
    one[2] = 0  # nothing supports the class: left out
    other[3, :2] = 0  # ties
    findings = dict(attention(one, other))
    remaining = [number for number in range(6) if number != 2]
    expected = [spearmanr(one[number].ravel(), other[number].ravel()).statistic for number in remaining]
    assert findings["attention_correlation"] == pytest.approx(np.mean(expected))
    overlaps = []
    for number in remaining:
        tops = [set(np.argsort(-maps[number].ravel())[:4]) for maps in (one, other)]
        overlaps.append(len(tops[0] & tops[1]) / len(tops[0] | tops[1]))
    assert findings["attention_overlap"] == pytest.approx(np.mean(overlaps)) and 0 < np.mean(overlaps) < 1
    same = dict(attention(one, one))
    assert same["attention_correlation"] == pytest.approx(1) and same["attention_overlap"] == 1
    assert all(np.isnan(value) for value in dict(attention(0 * one, other)).values())
    with pytest.raises(ValueError, match="same images"):
        dict(attention(one, other[:3]))


def test_the_zeros_of_two_maps_do_not_count_as_an_overlap():
    left, right = np.zeros((2, 1, 4, 5))
    left[0, 0, 0], right[0, 3, 4] = 1.0, 1.0
    assert dict(attention(left, right))["attention_overlap"] == 0
