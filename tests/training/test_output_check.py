"""Probabilities where logits are expected are reported in the first batches, and nothing else is."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kd_keras import Distiller, Teacher
from kd_keras.contracts import INPUTS, RECORDED
from kd_keras.methods import KD, Logits

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y = np.arange(32) % 4


def net(units=4, *after):
    return keras.Sequential([keras.Input((6,)), layers.Dense(units), *after])


class Subclassed(keras.Model):
    def __init__(self, activation):
        super().__init__()
        self.inner, self.activation = net(), activation

    def call(self, inputs):
        return self.activation(self.inner(inputs))


def subclassed(activation):
    model = Subclassed(activation)
    model(X)
    return model


def exported(activation, directory):
    net(4, layers.Activation(activation)).export(directory, verbose=False)
    return keras.Sequential([keras.Input((6,)), layers.TFSMLayer(directory, call_endpoint="serve")])


def average():
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Average()([layers.Dense(4, activation="softmax")(inputs) for _ in range(2)]))


def reports(student, teacher, method=None, data=None):
    distiller = Distiller(student=student, teacher=teacher, methods=[method or KD()], hard_weight=0)
    distiller.compile("sgd")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        distiller.fit(X if data is None else data, verbose=0)
    return [str(w.message) for w in caught if "probabilities" in str(w.message)]


HIDDEN = {
    "Lambda": lambda directory: net(4, layers.Lambda(keras.ops.softmax)),
    "subclassed": lambda directory: subclassed(keras.ops.softmax),
    "SavedModel": lambda directory: exported("softmax", directory),
    "average": lambda directory: average(),
    "percent": lambda directory: net(4, layers.Lambda(lambda z: 100 * keras.ops.softmax(z))),
}


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("side", ["teacher", "student"])
def test_a_hidden_softmax_is_reported_once(name, side, tmp_path):
    hidden = HIDDEN[name](tmp_path / "m")
    if name == "SavedModel" and side == "student":
        pytest.skip("a SavedModel cannot be trained")
    found = reports(*((net(), hidden) if side == "teacher" else (hidden, net())))
    assert len(found) == 1 and f"Expected logits from the {side}" in found[0] and "of a softmax" in found[0]


def test_a_hidden_sigmoid_is_reported(tmp_path):
    (found,) = reports(net(), exported("sigmoid", tmp_path / "m"))
    assert "probabilities of a sigmoid" in found


def test_probabilities_within_an_ensemble_and_in_a_recording_are_reported():
    ensemble = Teacher([subclassed(keras.ops.softmax), subclassed(keras.ops.softmax)])
    assert len(reports(net(), ensemble)) == 1
    teacher = subclassed(lambda z: z)
    recorded = {"logits": np.array(keras.ops.softmax(net()(X)))}
    data = tf.data.Dataset.from_tensor_slices({INPUTS: X, RECORDED: recorded}).batch(16)
    assert len(reports(net(), teacher, data=data)) == 1


def test_the_remedy_of_the_message_is_right():
    hidden = subclassed(keras.ops.softmax)
    (found,) = reports(net(), hidden)
    code = found.split("or pass ")[1].rstrip(".")
    x = keras.Input((6,))
    fixed = eval(code, {"keras": keras, "x": x, "network": hidden})  # the text that users will paste
    student = net()
    assert not reports(student, fixed)
    values = []
    for teacher in (fixed, hidden.inner):
        distiller = Distiller(student=student, teacher=teacher, methods=[KD()], hard_weight=0)
        distiller.compile(keras.optimizers.SGD(0.0))
        values.append(distiller.fit(X, verbose=0).history["kd"][0])
    assert values[0] == pytest.approx(values[1], rel=1e-3)


def test_logits_are_not_reported():
    zeros = net()
    zeros.layers[-1].kernel.assign(np.zeros((6, 4)))
    small = net(4, layers.BatchNormalization())
    for teacher in (net(), zeros, small, subclassed(lambda z: z), subclassed(keras.ops.log_softmax)):
        assert not reports(net(), teacher)
    assert not reports(net(), net(), Logits())


def test_the_accuracy_of_a_single_unit_is_that_of_its_sign():
    z = 10.0 * (X[:, :1] - X[:, 1:2])
    labels = (z[:, 0] > 0).astype("int32")
    teacher = net(1, layers.Activation("sigmoid"))
    teacher.layers[0].set_weights([np.array([[10.0], [-10], [0], [0], [0], [0]], "float32"), np.zeros(1, "float32")])

    def warned(y, student, method):
        distiller = Distiller(student=student, teacher=teacher, methods=[method])
        distiller.compile("sgd", keras.losses.MeanSquaredError())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            distiller.fit(X, y, verbose=0)
        return [str(w.message) for w in caught if "chance" in str(w.message)]

    assert not warned(labels[:, None], net(1, layers.Activation("sigmoid")), KD())
    (message,) = warned(1 - labels[:, None], net(1, layers.Activation("sigmoid")), KD())
    assert "right on 0.0% of the first 32 examples; chance is 50.0%" in message
    assert not warned(X[:, :1], net(1), Logits())


def test_each_network_of_an_ensemble_is_looked_at():
    hidden = net(4, layers.Lambda(keras.ops.softmax))
    for members, count in (([net(), hidden], 1), ([net(4, layers.Softmax()), hidden, hidden], 1), ([net(), net()], 0)):
        assert len(reports(net(), Teacher(members))) == count


def test_a_generator_and_a_loop_of_ones_own_are_looked_at():
    hidden = net(4, layers.Lambda(keras.ops.softmax))
    assert len(reports(net(), hidden, data=((X[k : k + 8],) for k in (0, 8, 16)))) == 1
    distiller = Distiller(student=net(), teacher=hidden, methods=[KD()], hard_weight=0)
    distiller.compile("sgd")
    with pytest.warns(UserWarning, match="probabilities of a softmax"):
        distiller.train_on_batch(X)


def test_a_generator_is_trained_on_from_its_first_batch():
    histories = []
    for data in (X, ((X[k : k + 8],) for k in range(0, 32, 8))):
        keras.utils.set_random_seed(1)
        distiller = Distiller(student=net(), teacher=net(), methods=[KD()], hard_weight=0)
        distiller.compile(keras.optimizers.SGD(0.1))
        histories.append(distiller.fit(data, batch_size=None if histories else 8, shuffle=False, verbose=0).history)
    np.testing.assert_allclose(histories[1]["kd"], histories[0]["kd"], rtol=1e-5)


def test_layers_that_are_unfrozen_later_do_not_train_the_teacher():
    teacher = net()
    teacher.layers[0].trainable = False
    student = keras.Sequential([keras.Input((6,)), teacher.layers[0], layers.Dense(4)])
    distiller = Distiller(student=student, teacher=teacher, methods=[KD()], hard_weight=0)
    teacher.layers[0].trainable = True
    distiller.compile("sgd")
    with pytest.raises(ValueError, match="share 2 variables"):
        distiller.fit(X, verbose=0)
