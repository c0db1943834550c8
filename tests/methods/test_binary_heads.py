"""Sigmoid heads: KD by units, a binary teacher of one unit, and what is refused."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

from kd_keras import Distiller, Teacher
from kd_keras.methods import DIST, DKD, KD, Logits, kd_loss
from kd_keras.methods.kd import kd_binary_loss
from tests.support.reference import log_softmax

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")


def net(units, activation=None, width=8, seed=0):
    keras.utils.set_random_seed(seed)
    hidden = layers.Dense(width, activation="relu")
    return keras.Sequential([keras.Input((6,)), hidden, layers.Dense(units, activation=activation)])


def logits(model):
    hidden, last = keras.Model(model.inputs, model.layers[-2].output), model.layers[-1]
    return np.array(hidden(X), "float64") @ np.array(last.kernel) + np.array(last.bias)


def reference(student, teacher, temperature):
    """T^2 times the sum over units of p log(p / q) + (1 - p) log((1 - p) / (1 - q)), in float64."""
    p, q = (1 / (1 + np.exp(-z / temperature)) for z in (teacher, student))
    return temperature**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(-1)


def term(student, teacher, method, **options):
    distiller = Distiller(student=student, teacher=teacher, methods=[method], hard_weight=0)
    distiller.compile(keras.optimizers.SGD(0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return distiller.fit(X, batch_size=32, verbose=0, **options).history[method.name][0]


def two_classes(z):
    return np.concatenate([np.zeros_like(z), z], -1)


def kd_reference(student, teacher, temperature):
    log_s, log_t = log_softmax(student / temperature), log_softmax(teacher / temperature)
    return temperature**2 * (np.exp(log_t) * (log_t - log_s)).sum(-1).mean()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_the_sum_of_the_binary_divergences(temperature):
    student, teacher = (5 * np.random.default_rng(s).normal(size=(64, 4)) for s in (1, 2))
    loss = kd_binary_loss(student.astype("float32"), teacher.astype("float32"), temperature=temperature)
    np.testing.assert_allclose(loss, reference(student, teacher, temperature), rtol=1e-4)
    assert np.isfinite(kd_binary_loss(np.array([[400.0]]), np.array([[-400.0]]))).all()


@pytest.mark.parametrize("heads", [("sigmoid", "sigmoid"), (None, "sigmoid"), ("sigmoid", None), (None, None)])
def test_units_with_a_sigmoid_each_follow_the_logits_before_it(heads):
    student, teacher = net(4, heads[0]), net(4, heads[1], width=16, seed=1)
    value = term(student, teacher, KD(binary=True))
    assert value == pytest.approx(reference(logits(student), logits(teacher), 4).mean(), rel=1e-4)


def test_a_teacher_of_one_unit_has_two_classes_for_a_student_of_two():
    student, teacher = net(2), net(1, "sigmoid", width=16, seed=1)
    expected = kd_reference(logits(student), two_classes(logits(teacher)), 4)
    assert term(student, teacher, KD()) == pytest.approx(expected, rel=1e-4)
    assert term(student, Teacher(teacher, class_order=[0, 1]), KD()) == pytest.approx(expected, rel=1e-4)
    swapped = kd_reference(logits(student), two_classes(logits(teacher))[:, ::-1], 4)
    assert term(student, Teacher(teacher, class_order=[1, 0]), KD()) == pytest.approx(swapped, rel=1e-4)


@pytest.mark.parametrize("teacher", [net(1, "sigmoid", width=16, seed=1), net(2, "softmax", width=16, seed=1), net(1)])
def test_a_student_of_one_unit_follows_the_binary_divergence(teacher):
    student, z = net(1, "sigmoid", seed=2), logits(teacher)
    expected = reference(logits(student), z[:, 1:] - z[:, :1] if z.shape[-1] == 2 else z, 4).mean()
    assert term(student, teacher, KD()) == pytest.approx(expected, rel=1e-4)


def test_numbers_of_a_single_unit_are_compared_by_their_square():
    student, teacher = net(1), net(1, seed=1)
    expected = np.square(logits(student) - logits(teacher)).mean()
    assert term(student, teacher, Logits()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "student, teacher, method, match",
    [
        ((4, "sigmoid"), (4, "sigmoid"), KD(), r"Pass KD\(binary=True\)"),
        ((4, "softmax"), (4, "sigmoid"), KD(binary=True), "a softmax over the same classes, or a sigmoid for each"),
        ((4, None), (4, "softmax"), KD(binary=True), r"Pass KD\(\)"),
        ((2, "sigmoid"), (1, "sigmoid"), KD(), "a softmax over the same classes, or a sigmoid for each"),
        ((2, None), (1, "sigmoid"), KD(binary=True), r"Pass KD\(\)"),
        ((1, None), (4, None), KD(), "logits of the same classes"),
        ((1, "softmax"), (1, None), KD(), "a softmax over the same classes, or a sigmoid for each"),
        ((1, None), (1, None), DIST(), "classes with one softmax for method 'dist'"),
        ((4, "sigmoid"), (4, "sigmoid"), DKD(), r"Use KD\(binary=True\)"),
        ((4, "sigmoid"), (4, "sigmoid"), Logits(form="reverse_kl"), r"Use KD\(binary=True\)"),
    ],
)
def test_heads_that_do_not_fit_are_refused_at_construction(student, teacher, method, match):
    with pytest.raises(ValueError, match=match):
        Distiller(student=net(*student), teacher=net(*teacher), methods=[method])


def test_several_sigmoid_teachers_give_the_logit_of_their_mean_probability():
    networks = [net(3, "sigmoid", seed=seed) for seed in (1, 2)]
    p = sum(w / (1 + np.exp(-logits(network))) for w, network in zip((0.25, 0.75), networks, strict=True))
    combined = Teacher(networks, weights=[1, 3]).tapped(["logits"])(X)["logits"]
    np.testing.assert_allclose(combined, np.log(p / (1 - p)), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="all end in a softmax or all in a sigmoid"):
        Teacher([networks[0], net(3, "softmax")]).tapped(["logits"])


@pytest.mark.parametrize("order", [[0, 0], [2, 1, 2]])
def test_a_class_order_with_one_position_twice_is_refused(order):
    with pytest.raises(ValueError, match="different positions"):
        Teacher(net(3), class_order=order)


def test_the_kind_of_the_heads_survives_saving(tmp_path):
    student, teacher = net(4, "sigmoid"), net(4, "sigmoid", width=16, seed=1)
    distiller = Distiller(student=student, teacher=teacher, methods=[KD(binary=True)], hard_weight=0)
    distiller.compile(keras.optimizers.SGD(0.0))
    distiller.save(tmp_path / "d.keras")
    loaded = keras.models.load_model(tmp_path / "d.keras")
    assert loaded.teacher.specs["logits"].activation == "sigmoid"
    loaded.attach(teacher)
    value = loaded.fit(X, batch_size=32, verbose=0).history["kd"][0]
    assert value == pytest.approx(reference(logits(student), logits(teacher), 4).mean(), rel=1e-4)


def test_a_softmax_gives_the_same_value_as_its_logits():
    student, teacher = net(4, "softmax"), net(4, "softmax", width=16, seed=1)
    expected = float(np.mean(kd_loss(logits(student), logits(teacher))))
    assert term(student, teacher, KD()) == pytest.approx(expected, rel=1e-4)
