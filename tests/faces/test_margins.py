"""Margin softmax losses against NumPy: values, gradients, and the edges at which published codes differ."""

import math

import numpy as np
import pytest
import tensorflow as tf

from kd_keras.faces.margins import (
    PUBLISHED,
    Margin,
    adaface_quality,
    center_cosines,
    embedding_norms,
    margin_loss,
    published_margin,
    target_with_margin,
)
from tests.support.reference import Case, random, unit

LABELS = np.array([0, 3, 1, 1, 2])
CENTERS = random(6, 4, seed=1)
QUALITY = np.array([-1.0, -0.3, 0.0, 0.5, 1.0], "float32")


def reference_target(cosine, kind, m, quality):
    """One cosine at a time, in float64."""
    if kind == "cosface":
        return cosine - m
    if kind == "adaface":
        angle = math.acos(min(max(cosine, -0.999), 0.999)) - m * quality
        return math.cos(min(max(angle, 0.001), math.pi - 0.001)) - (m + m * quality)
    angle = math.acos(min(max(cosine, -0.9999), 0.9999))
    if kind == "arcface":
        return math.cos(angle + m) if angle + m < math.pi else cosine - m * math.sin(m)
    k = int(m * angle / math.pi)
    return (-1) ** k * math.cos(m * angle) - 2 * k


def reference(embedding, centers, kind, scale, m):
    cosines = unit(embedding) @ unit(centers, axis=0)
    losses = []
    for row, label, quality in zip(cosines, LABELS, QUALITY, strict=True):
        logits = scale * row
        logits[label] = scale * reference_target(row[label], kind, m, float(quality))
        largest = logits.max()
        losses.append(largest + math.log(np.exp(logits - largest).sum()) - logits[label])
    return np.array(losses)


def loss_of(kind, scale, m):
    return lambda embedding, centers: margin_loss(
        center_cosines(embedding, centers), LABELS, Margin(kind, scale, m), QUALITY
    )


@pytest.mark.parametrize(
    "kind, scale, m", [(kind, *PUBLISHED[kind]) for kind in PUBLISHED] + [("sphereface", 8.0, 4.0)]
)
def test_value_and_gradient(kind, scale, m):
    """The gradient with respect to embeddings and, exchanged, to the centers."""
    embedding = random(5, 6, seed=2)
    of_embedding = Case(
        kind, loss_of(kind, scale, m), lambda e, c: reference(e, c, kind, scale, m), embedding, (CENTERS,), 1e-5
    )
    of_centers = Case(
        kind,
        lambda centers, e: loss_of(kind, scale, m)(e, centers),
        lambda centers, e: reference(e, centers, kind, scale, m),
        CENTERS,
        (embedding,),
        1e-5,
    )
    for case in (of_embedding, of_centers):
        assert case.value_error() < 1e-5 and case.gradient_error() < 1e-5


@pytest.mark.parametrize("kind", ["arcface", "sphereface", "cosface", "adaface"])
def test_the_target_falls_with_the_angle_everywhere(kind):
    """No easy margin: beyond pi - m, where cos(a + m) rises, the target goes on falling."""
    cosines = np.cos(np.linspace(0.02, np.pi - 0.02, 500)).astype("float32")
    values = np.array(target_with_margin(cosines, published_margin(kind), np.zeros(500, "float32")))
    assert (np.diff(values) < 1e-6).all() and (values < cosines + 1e-6).all()


@pytest.mark.parametrize("kind", PUBLISHED)
@pytest.mark.parametrize("cosine", [1.0, -1.0, 1.0000001])
def test_the_gradient_is_finite_at_cosines_of_one(kind, cosine):
    cosine = tf.Variable([cosine])
    with tf.GradientTape() as tape:
        value = target_with_margin(cosine, published_margin(kind), tf.constant([0.5]))
    assert np.isfinite(value).all() and np.isfinite(tape.gradient(value, cosine)).all()


@pytest.mark.parametrize("kind", ["arcface", "cosface", "sphereface"])
def test_without_a_margin_it_is_the_cross_entropy_of_scaled_cosines(kind):
    embedding = random(5, 6, seed=2)
    cosines = unit(embedding) @ unit(CENTERS, axis=0)
    expected = np.log(np.exp(8 * cosines).sum(-1)) - 8 * cosines[np.arange(5), LABELS]
    softmax = published_margin(kind, scale=8, margin=1 if kind == "sphereface" else 0)
    np.testing.assert_allclose(margin_loss(cosines, LABELS, softmax), expected, rtol=1e-5)


def test_half_precision_embeddings_are_computed_in_float32():
    embedding = random(5, 6, seed=2).astype("float16")
    cosines = center_cosines(embedding, CENTERS)
    assert cosines.dtype == "float32"
    np.testing.assert_allclose(cosines, unit(embedding.astype("float64")) @ unit(CENTERS, axis=0), atol=1e-6)


def test_the_quality_of_adaface():
    norms = np.array([1e-6, 10.0, 20.0, 500.0])
    clipped = np.clip(norms, 1e-3, 100)
    expected = np.clip(0.333 * (clipped - 18.0) / (5.0 + 1e-3), -1, 1)
    embedding = np.stack([norms, np.zeros(4)], -1).astype("float32")
    quality = adaface_quality(embedding_norms(embedding), 18.0, 5.0)
    np.testing.assert_allclose(quality, expected, rtol=1e-6)
    variable = tf.Variable(embedding)
    with tf.GradientTape() as tape:
        value = adaface_quality(embedding_norms(variable), 18.0, 5.0)
    assert tape.gradient(value, variable) is None


def test_a_label_without_a_center_is_not_silently_ignored():
    loss = margin_loss(np.zeros((3, 4), "float32"), np.array([0, 4, -1]), published_margin())
    np.testing.assert_array_equal(np.isnan(loss), [False, True, True])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"kind": "arcfaec"}, "Did you mean arcface"),
        ({"scale": 0}, "scale"),
        ({"margin": -0.1}, "margin"),
        ({"kind": "sphereface", "margin": 0.5}, "at least 1"),
        ({"kind": "arcface", "margin": 28.6}, "at most 1.57"),  # degrees
        ({"kind": "adaface", "margin": 3.5}, "at most 1.57"),
    ],
)
def test_invalid_constants(arguments, message):
    with pytest.raises(ValueError, match=message):
        published_margin(**arguments)


def test_adaface_without_a_quality_raises():
    with pytest.raises(ValueError, match="quality="):
        margin_loss(np.zeros((1, 2), "float32"), np.array([0]), published_margin("adaface"))
