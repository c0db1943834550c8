"""KD and Logits of several heads, and hints between vectors and tokens, against NumPy in float64."""

import keras
import numpy as np
import pytest
from keras import layers

from kd_keras import Distiller, Teacher
from kd_keras.methods import KD, FitNet, Logits
from tests.support.reference import log_softmax

X = np.random.default_rng(0).normal(size=(16, 16, 8)).astype("float32")


def network(width, activation=None):
    inputs = keras.Input((16, 8))
    tokens = layers.Dense(width, name="tokens")(inputs)
    face = layers.UnitNormalization(name="face")(layers.GlobalAveragePooling1D()(tokens))
    other = layers.Dense(5, activation=activation, name="other_head")(face)
    return keras.Model(inputs, {"logits": layers.Dense(3, name="head")(face), "other": other})


def loss_of(method, student, teacher):
    distiller = Distiller(student=student, teacher=teacher, methods=[method], hard_weight=0)
    distiller.compile(keras.optimizers.SGD(0.0))
    return distiller.fit(X, batch_size=16, verbose=0).history[method.name][0]


def output(model, layer):
    return np.array(keras.Model(model.input, model.get_layer(layer).output)(X), "float64")


def kl(student, teacher, temperature):
    log_student, log_teacher = (log_softmax(z / temperature) for z in (student, teacher))
    return temperature**2 * (np.exp(log_teacher) * (log_teacher - log_student)).sum(-1).mean()


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize("tap", ["other", "other_head", "logits:other"])
def test_kd_of_a_second_head_reads_its_logits(tap, activation):
    student, teacher = network(8, activation), network(32)
    logits = output(student, "other_head")
    logits = np.log(logits) if activation else logits  # differs from the logits by a constant, which KL does not see
    method = KD(student_tap=tap, teacher_tap="other", temperature=2.0)
    assert method.taps == (("logits:other_head" if tap == "other_head" else "logits:other",), ("logits:other",))
    expected = kl(logits, output(teacher, "other_head"), 2.0)
    np.testing.assert_allclose(loss_of(method, student, teacher), expected, rtol=1e-4)


def test_the_losses_of_several_heads_are_summed():
    student, teacher = network(8), network(32)
    expected = sum(((output(student, h) - output(teacher, h)) ** 2).mean() for h in ("head", "other_head"))
    method = Logits(student_tap=("logits", "other"), teacher_tap=("logits", "other"))
    np.testing.assert_allclose(loss_of(method, student, teacher), expected, rtol=1e-4)
    assert Logits.from_config(method.get_config()).taps == method.taps


def test_heads_of_different_classes_are_rejected():
    with pytest.raises(ValueError, match="logits of the same classes.*'other_head'.*'head'"):
        Distiller(student=network(8), teacher=network(8), methods=[KD(student_tap="other")])
    with pytest.raises(ValueError, match="no tap 'another'"):
        Distiller(student=network(8), teacher=network(8), methods=[KD(student_tap="another")])
    with pytest.raises(ValueError, match=r"\['logits:other'\] needs one teacher"):
        teachers = Teacher([network(8), network(8)])
        Distiller(student=network(8), teacher=teachers, methods=[KD(student_tap="other", teacher_tap="other")])


@pytest.mark.parametrize("tap", ["face", "tokens"])
def test_a_hint_between_vectors_or_tokens_passes_a_linear_layer(tap):
    student, teacher = network(8), network(32)
    method = FitNet(student_tap=tap, teacher_tap=tap, weight=1.0)
    loss = loss_of(method, student, teacher)
    kernel, bias = (np.array(variable, "float64") for variable in method.variables)
    assert kernel.shape == (8, 32)
    expected = ((output(student, tap) @ kernel + bias - output(teacher, tap)) ** 2).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_a_hint_between_vectors_of_one_width_needs_no_layer():
    student, teacher = network(8), network(8)
    method = FitNet(student_tap="face", teacher_tap="face", weight=1.0)
    expected = ((output(student, "face") - output(teacher, "face")) ** 2).mean()
    np.testing.assert_allclose(loss_of(method, student, teacher), expected, rtol=1e-4)
    assert not method.variables


def test_hints_of_different_kinds_are_rejected():
    with pytest.raises(ValueError, match=r"two vectors \(B, D\).*'face' \(None, 8\).*'tokens' \(None, 16, 8\)"):
        hint = FitNet(student_tap="face", teacher_tap="tokens")
        Distiller(student=network(8), teacher=network(8), methods=[hint])


def test_a_network_with_one_named_output_has_logits():
    def single(width):
        inputs = keras.Input((16, 8))
        return keras.Model(inputs, {"output_0": layers.Dense(3)(layers.Flatten()(layers.Dense(width)(inputs)))})

    student, teacher = single(2), single(4)
    expected = kl(*(np.array(net(X)["output_0"], "float64") for net in (student, teacher)), 4.0)
    np.testing.assert_allclose(loss_of(KD(), student, teacher), expected, rtol=1e-4)
