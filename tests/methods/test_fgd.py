"""FGD against NumPy in float64: masks, focal part and global part."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller
from kd_keras.contracts import Batch, Outputs, TapSpec
from kd_keras.methods import FGD, fgd_loss, fgd_masks, fgd_relation_loss
from tests.support.detectors import plain_gfl, random_boxes, varied_detector
from tests.support.networks import CLASSES
from tests.support.reference import Case, random, softmax

student = teacher = functools.partial(plain_gfl, classes=CLASSES)  # networks for the harness
labels = functools.partial(random_boxes, classes=CLASSES)
LABEL = random_boxes(3, 2, seed=5)


def masks_reference(label, height, width):
    """Cell by cell, box by box."""
    foreground = np.zeros((len(label["classes"]), height, width))
    for image, row in zip(*np.nonzero(label["classes"] >= 0), strict=True):
        y0, x0, y1, x1 = label["boxes"][image, row] * np.array([height, width] * 2, "float32")
        rows = range(int(np.floor(y0)), int(np.ceil(y1)) + 1)
        columns = range(int(np.floor(x0)), int(np.ceil(x1)) + 1)
        for i in rows:
            for j in columns:
                if i < height and j < width:
                    foreground[image, i, j] = max(foreground[image, i, j], 1 / (len(rows) * len(columns)))
    background = (foreground == 0) / np.maximum((foreground == 0).sum((1, 2), keepdims=True), 1)
    return foreground, background


def attention(maps, temperature):
    height, width, channels = maps.shape
    spatial = height * width * softmax((np.abs(maps).mean(-1) / temperature).ravel()).reshape(height, width)
    return spatial, channels * softmax(np.abs(maps).mean((0, 1)) / temperature)


def reference(student, teacher, foreground, background, temperature=0.5, alpha=1e-3, beta=5e-4, gamma=5e-4):
    """An image and an element at a time."""
    losses = np.zeros(len(student))
    for b, (s, t) in enumerate(zip(student, teacher, strict=True)):
        (s_spatial, s_channels), (t_spatial, t_channels) = attention(s, temperature), attention(t, temperature)
        for i, j, c in np.ndindex(*s.shape):
            weight = (alpha * foreground[b, i, j] + beta * background[b, i, j]) * t_spatial[i, j] * t_channels[c]
            losses[b] += weight * (s[i, j, c] - t[i, j, c]) ** 2
        losses[b] += gamma * (np.abs(s_spatial - t_spatial).sum() + np.abs(s_channels - t_channels).sum())
    return losses


MASKS = tuple(mask.astype("float32") for mask in masks_reference(LABEL, 4, 5))
MAPS = random(3, 4, 5, 6, seed=1)
OTHER = {"temperature": 0.8, "alpha": 0.2, "beta": 0.3, "gamma": 0.1}
CASES = [
    Case("published", fgd_loss, reference, random(3, 4, 5, 6), (MAPS, *MASKS), step=1e-6),
    Case(
        "other weights",
        functools.partial(fgd_loss, **OTHER),
        functools.partial(reference, **OTHER),
        random(3, 4, 5, 6, seed=2),
        (MAPS, *MASKS),
        step=1e-6,
    ),
    Case("relation", fgd_relation_loss, lambda s, t: ((s - t) ** 2).sum((1, 2, 3)), random(3, 4, 5, 6), (MAPS,)),
]


@pytest.mark.parametrize("size", [(4, 5), (8, 3), (1, 1)])
def test_masks_are_those_of_the_loops(size):
    label = random_boxes(6, 3, rows=4)
    foreground, background = fgd_masks(label["boxes"], label["classes"], size)
    expected = masks_reference(label, *size)
    np.testing.assert_allclose(foreground, expected[0], rtol=1e-6)
    np.testing.assert_allclose(background, expected[1], rtol=1e-6)
    assert not foreground.numpy()[1].any()  # without objects everything is background
    np.testing.assert_allclose(background.numpy()[1], 1 / np.prod(size), rtol=1e-6)


def test_an_image_full_of_an_object_has_no_background():
    foreground, background = fgd_masks([[[0.0, 0.0, 1.0, 1.0]]], [[0]], (4, 2))
    np.testing.assert_allclose(foreground, np.full((1, 4, 2), 1 / 15), rtol=1e-6)  # 5 rows of 3 cells
    assert not background.numpy().any()


def context_reference(layer, maps):
    """GCNet's block, an image at a time."""
    variables = {
        variable.path.split("/")[-2:][0] + "/" + variable.name: np.array(variable, "float64")
        for variable in layer.variables
    }
    out = np.zeros(maps.shape)
    for b, image in enumerate(maps):
        rows = image.reshape(-1, image.shape[-1])
        weight = softmax((rows @ variables["score/kernel"] + variables["score/bias"])[:, 0])
        hidden = (weight @ rows) @ variables["reduce/kernel"] + variables["reduce/bias"]
        hidden = (hidden - hidden.mean()) / np.sqrt(hidden.var() + 1e-5)
        hidden = np.maximum(hidden * variables["normalize/gamma"] + variables["normalize/beta"], 0)
        out[b] = image + hidden @ variables["expand/kernel"] + variables["expand/bias"]
    return out


def bound(width=6):
    method = FGD(student_tap="a", teacher_tap="b", relation=0.25)
    method.bind({"a": TapSpec("a", (None, 4, 5, width))}, {"b": TapSpec("b", (None, 4, 5, 6))})
    return method


def test_both_global_contexts_are_compared_and_trained():
    method, maps = bound(), random(3, 4, 5, 6, seed=3)
    contexts = method.contexts
    for number, context in enumerate(contexts):
        assert not context.expand.kernel.numpy().any()  # at first the context adds nothing
        context.expand.kernel.assign(random(*context.expand.kernel.shape, seed=number))
    with tf.GradientTape() as tape:
        loss = method.call(Outputs({"a": maps}), Outputs({"b": MAPS}), Batch(np.zeros((3, 16, 20, 3)), LABEL), None)
        mean = tf.reduce_mean(loss)
    student, target = (context_reference(*pair) for pair in zip(contexts, (maps, MAPS), strict=True))
    expected = reference(maps.astype("float64"), MAPS, *MASKS) + 0.25 * ((student - target) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert len(method.trainable_variables) == 16
    gradients = tape.gradient(mean, method.trainable_variables)
    assert all(np.abs(gradient).max() > 0 for gradient in gradients if gradient.shape != (1,))


def test_detectors_of_different_backbones_and_widths():
    shape, label = (32, 32, 3), random_boxes(4, 3)
    student = varied_detector("resnet8", shape, 3, pyramid=(2, 3), depth=1, width=8)
    teacher = varied_detector("mobilenet_v2", shape, 3, seed=1, pyramid=(2, 3), depth=1, width=12, head="gfl")
    method = FGD()
    distiller = Distiller(student=student, teacher=teacher, methods=[method], hard_weight=1)
    distiller.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    images = np.random.default_rng(0).uniform(0, 255, (4, *shape)).astype("float32")
    data = tf.data.Dataset.from_tensors((images, label))
    logged = distiller.fit(data, verbose=0, shuffle=False).history["fgd"][0]
    outputs = (
        Outputs({"stages": [random(4, 8, 8, 8), random(4, 4, 4, 8)]}),
        Outputs({"stages": [random(4, 8, 8, 12), random(4, 4, 4, 12)]}),
    )
    assert logged > 0 and method.call(*outputs, Batch(images, label), None).shape == (4,)
    with pytest.raises(ValueError, match='labels with "boxes".*none'):
        distiller.fit(images, verbose=0)


def test_maps_of_other_sizes_raise():
    method = FGD(student_tap="a", teacher_tap="a")
    with pytest.raises(ValueError, match="same size"):
        method.bind({"a": TapSpec("a", (None, 4, 4, 6))}, {"a": TapSpec("b", (None, 8, 8, 6))})


@pytest.mark.parametrize("name", ["temperature", "alpha", "beta", "gamma", "relation"])
def test_invalid_arguments_raise(name):
    with pytest.raises(ValueError, match=name):
        FGD(**{name: -1})
