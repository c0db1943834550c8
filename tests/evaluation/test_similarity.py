"""CKA compared with the mean over all quadruples of examples and with the biased estimate, and its properties."""

from itertools import permutations

import keras
import numpy as np
import pytest

from kd_keras import Teacher, models
from kd_keras.evaluation import grams, similarity
from kd_keras.evaluation.similarity import centered_gram
from tests.support.networks import SHAPE, convolutional

RANDOM = np.random.default_rng(0)


def cka(x, y):
    return dict(similarity([centered_gram(x)], [centered_gram(y)]))["cka"].item()


def by_quadruples(k, m):
    """The unbiased HSIC as the mean of its kernel over all ordered quadruples of different examples."""
    four = list(permutations(range(len(k)), 4))
    return np.mean([k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in four])


def biased(x, y):
    """Kornblith et al. 2019, from features: ||Y'X||^2 / (||X'X|| ||Y'Y||)."""
    x, y = x - x.mean(0), y - y.mean(0)
    return np.linalg.norm(y.T @ x) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)


def test_the_unbiased_estimate_is_the_mean_over_all_quadruples():
    x, y = RANDOM.normal(size=(8, 3)) + 1, RANDOM.normal(size=(8, 5))
    y[:, 0] += x[:, 0]
    k, m = x @ x.T, y @ y.T
    expected = by_quadruples(k, m) / np.sqrt(by_quadruples(k, k) * by_quadruples(m, m))
    assert cka(x, y) == pytest.approx(expected, rel=1e-9) and abs(expected) > 0.05


def test_many_examples_of_few_dimensions_give_the_biased_value():
    x = RANDOM.normal(size=(1500, 4))
    y = x @ RANDOM.normal(size=(4, 3)) + RANDOM.normal(size=(1500, 3))
    assert cka(x, y) == pytest.approx(biased(x, y), abs=2e-3) and 0.3 < biased(x, y) < 0.95


def test_properties():
    x, y = RANDOM.normal(size=(40, 6)), RANDOM.normal(size=(40, 200))
    turn, _ = np.linalg.qr(RANDOM.normal(size=(6, 6)))
    assert cka(x, x) == pytest.approx(1) and cka(x, 3 * x @ turn + 5) == pytest.approx(1)
    assert cka(x, y) == pytest.approx(cka(y, x)) == pytest.approx(cka(x @ turn, y))
    unrelated = RANDOM.normal(size=(40, 200))
    assert abs(cka(unrelated, y)) < 0.1 < 0.7 < biased(unrelated, y)  # what the biased estimate would show
    assert np.isnan(cka(x, np.ones((40, 3))))
    with pytest.raises(ValueError, match="same images"):
        cka(x, y[:9])
    with pytest.raises(ValueError, match="four"):
        centered_gram(x[:3])


def test_the_stages_of_networks():
    images = RANDOM.integers(0, 256, (20, *SHAPE)).astype("uint8")
    model = convolutional()
    matrices = grams(Teacher(model, preprocess=lambda images: images / 255), images, batch_size=8)
    taps = keras.Model(model.input, [model.get_layer("relu1").output, model.get_layer("relu2").output])
    large, small = (np.array(stage) for stage in taps(images / np.float32(255)))
    large = large.reshape(20, 4, 2, 4, 2, 4).mean((2, 4))  # 8x8 to 4x4
    for gram, stage in zip(matrices, (large, small), strict=True):
        np.testing.assert_allclose(gram, centered_gram(stage.reshape(20, -1)), rtol=1e-4, atol=1e-4)
    other = convolutional(6, shape=(12, 12, 3))
    table = dict(similarity(matrices, grams(Teacher(other, preprocess=lambda images: images / 127.5 - 1), images)))[
        "cka"
    ]
    resized = keras.ops.image.resize(2 * (images / np.float32(255)) - 1, (12, 12))
    features = np.array(keras.Model(other.input, other.get_layer("relu1").output)(resized))
    features = features.reshape(20, 4, 3, 4, 3, 6).mean((2, 4))  # 12x12 to 4x4
    expected = [cka(stage.reshape(20, -1), features.reshape(20, -1)) for stage in (large, small)]
    bare = grams(model, images)
    assert dict(similarity(bare, bare))["cka"].diagonal() == pytest.approx(np.ones(2))
    assert table.shape == (2, 2) and table[:, 0] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="stages"):
        grams(models.build("mlp", SHAPE, 3), images)
    with pytest.raises(ValueError, match="a single network"):
        grams(Teacher([model, model]), images)
