"""The images from which all pairs are made, if there are more than that."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras.data import Source, all_pairs
from kd_keras.tasks.faces import Faces
from kd_keras.tasks.faces.embeddings import embed
from kd_keras.tasks.faces.evaluation import verification
from kd_keras.tasks.faces.evaluator import FaceEvaluator
from kd_keras.tasks.faces.monitoring import embed_all
from kd_keras.tasks.faces.pairs import choose_images


def counts_of(labels):
    return np.unique(labels, return_counts=True)[1].tolist()


@pytest.mark.parametrize("size", [1, 999, 1000])
def test_all_images_are_chosen_up_to_the_limit(size):
    assert choose_images(np.arange(size) // 2).tolist() == list(range(size))


def test_evenly_spread_people_keep_all_their_images():
    labels = np.repeat(np.arange(600), 2)
    chosen = choose_images(labels)
    assert counts_of(labels[chosen]) == [2] * 500 and (np.diff(chosen) > 0).all()
    assert np.diff(np.unique(labels[chosen])).max() == 2, "evenly spread"
    assert all_pairs(labels[chosen]).same.sum() == 500
    mixed = np.random.default_rng(0).permutation(labels)
    assert counts_of(mixed[choose_images(mixed)]) == [2] * 500, "in any order"


def test_people_with_one_image_only_fill_up_the_selection():
    labels = np.array([*range(3000), *range(1000, 1020)])
    chosen = labels[choose_images(labels)]
    assert len(chosen) == 1000 and set(range(1000, 1020)) <= set(chosen.tolist())
    assert sorted(counts_of(chosen)) == [1] * 960 + [2] * 20


@pytest.mark.parametrize("people, images, expected", [(2, 2000, [500] * 2), (30, 300, [100] * 10)])
def test_people_with_very_many_images_do_not_displace_all_others(people, images, expected):
    labels = np.repeat(np.arange(people), images)
    chosen = choose_images(labels)
    assert counts_of(labels[chosen]) == expected
    assert len(np.unique(np.diff(chosen[: expected[0]]))) <= 2, "evenly spread images"


def test_monitoring_evaluation_and_export_choose_the_same_images():
    labels, shape = np.repeat(np.arange(600), 2), (2, 2, 1)
    images = np.random.default_rng(0).integers(1, 256, (1200, *shape)).astype("uint8")
    chosen = choose_images(labels)
    rows = {"image": images, "label": labels, "index": np.arange(1200)}
    source = Source(tf.data.Dataset.from_tensor_slices(rows), "people", 1200, 600, image_shape=shape)
    assert FaceEvaluator(source).labels.tolist() == labels[chosen].tolist()
    batches = tf.data.Dataset.from_tensor_slices((images.reshape(1200, 4).astype("float32"), labels)).batch(100)
    embedding, kept = embed_all(lambda batch: batch, batches, "network")
    assert kept.tolist() == labels[chosen].tolist()
    expected = images.reshape(1200, 4)[chosen] / np.linalg.norm(images.reshape(1200, 4)[chosen], axis=-1)[:, None]
    np.testing.assert_allclose(embedding, expected)
    network = keras.Sequential([keras.Input(shape), keras.layers.Flatten(name="embedding")])
    score = dict(verification(embed(network, images[chosen], flip=False), all_pairs(labels[chosen])))
    assert Faces().score(network, images, labels) == score["verification_accuracy"]
