"""Moving statistics of BatchNorm: the momentum of new networks, and the warning before a training that is too short."""

import warnings

import keras
import numpy as np
import pytest

import kd_keras as kd
from kd_keras import data, models
from kd_keras.networks.moving_statistics import warn_of_lag
from kd_keras.runs.images import Images
from kd_keras.runs.recipe import Recipe
from kd_keras.runs.students import build_network


def network(momentum):
    norm = keras.layers.BatchNormalization(momentum=momentum)
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), norm, keras.layers.Dense(10)])


def test_what_is_left_after_some_steps_is_as_the_warning_says():
    model = network(0.99)
    with pytest.warns(UserWarning, match="momentum of 0.99: after 30 steps 74% of their initial statistics is left"):
        warn_of_lag(model, 30)
    images = np.ones((4, 8, 8, 1), "float32")
    for _ in range(30):
        model(images, training=True)
    np.testing.assert_allclose(1 - model.layers[1].moving_mean, 0.99**30, rtol=1e-5)


@pytest.mark.parametrize("momentum, steps", [(0.9, 30), (0.99, 300)])
def test_a_training_that_is_long_enough_has_no_warning(momentum, steps):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_lag(network(momentum), steps)


def test_trained_and_frozen_statistics_have_no_warning():
    trained, frozen = network(0.99), network(0.99)
    trained.layers[1].moving_mean.assign(np.ones(64))
    frozen.layers[1].trainable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_lag(trained, 1)
        warn_of_lag(frozen, 1)


@pytest.mark.parametrize("weights, momentum", [(None, 0.9), ("network.weights.h5", 0.999)])
def test_only_new_networks_of_keras_applications_follow_in_a_few_steps(weights, momentum, data_dir, tmp_path):
    source = data.load("digits", "train[:8]", data_dir.partition("=")[2], image_channels=3)
    images = Images(Recipe(image_size=(32, 32)), source, None)
    if weights is not None:
        weights = tmp_path / weights
        models.build("applications/MobileNetV3Small", (32, 32, 3), 3).save_weights(weights)
    model = build_network("applications/MobileNetV3Small", images, 3, weights)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) > 30 and {layer.momentum for layer in norms} == {momentum}


def test_a_training_warns(data_dir, tmp_path):
    place = {"data": "digits", "data_dir": data_dir.partition("=")[2]}
    with pytest.warns(UserWarning, match="after 2 steps 98%"):
        kd.train(model=network(0.99), **place, train_split="train[:64]", batch_size=32, epochs=1, run=tmp_path / "run")
