"""A teacher with the statistics of each batch computes what the network computes in training, and never changes."""

import keras
import numpy as np
import pytest
from keras import layers

from kd_keras import Distiller, methods, models
from kd_keras.networks import Tapped, with_batch_statistics
from tests.support.networks import compiled, convolutional, examples, same, values

pytestmark = pytest.mark.filterwarnings("ignore:The teacher is right")


def networks():
    zoo = models.build("resnet8", (16, 16, 3), 5)
    image = keras.Input((16, 16, 3))
    shared = layers.BatchNormalization(name="shared")
    nested = keras.Model(image, shared(zoo(image)) + shared(zoo(image)), name="outer")
    return {"zoo": zoo, "nested": nested, "scaled": models.build("shufflenet_v2", (16, 16, 3), 5)}


@pytest.mark.parametrize("name", ["zoo", "nested", "scaled"])
def test_it_equals_the_network_in_training_and_does_not_change(name):
    network = networks()[name]
    images = np.random.default_rng(0).uniform(0, 255, (16, 16, 16, 3)).astype("float32")
    network(images, training=True)  # moves the statistics away from their initial values
    before = values(network.variables)
    copy = with_batch_statistics(network)
    outputs = np.asarray(copy(images, training=False))
    assert same(values(copy.variables), before) and same(values(network.variables), before)
    assert not copy.trainable_variables and copy.output_shape == network.output_shape
    assert np.abs(outputs - np.asarray(network(images, training=False))).max() > 1e-2
    np.testing.assert_allclose(outputs, network(images, training=True), atol=1e-4, rtol=1e-4)


def test_ofd_with_the_published_teacher():
    teacher = with_batch_statistics(convolutional(6, normalized=True, name="teacher"))
    distiller = compiled(Distiller(student=convolutional(4), teacher=teacher, methods=[methods.OFD()]))
    before = values(teacher.variables)
    assert np.isfinite(distiller.fit(*examples(), verbose=0).history["ofd"]).all()
    assert same(values(teacher.variables), before)
    assert "stages:pre" in Tapped(teacher, ["stages:pre"]).specs


def test_a_subclassed_model_is_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="Functional or Sequential"):
        with_batch_statistics(Own())
