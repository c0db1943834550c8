"""Logits with positions, (B, H, W, K) and (B, N, K): every term is a mean over positions, with weights of any rank."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kd_keras import Distiller
from kd_keras.methods import AT, CTKD, DIST, DKD, KD, LSKD, MLKD, WSLD, Logits
from tests.support.networks import mirrored
from tests.support.reference import log_softmax, softmax

SIDE = COUNT = 6  # as many examples as columns: weights on the wrong axis would pass in silence
CLASSES = 4
random = np.random.default_rng(0)
X = random.random((COUNT, SIDE, SIDE, 3)).astype("float32")
Y = random.integers(0, CLASSES, (COUNT, SIDE, SIDE))
WEIGHT = np.linspace(0, 2, COUNT).astype("float32")
PIXELS = random.random((COUNT, SIDE, SIDE)).astype("float32")
CE = keras.losses.SparseCategoricalCrossentropy
pytestmark = pytest.mark.filterwarnings("ignore:The teacher is right", "ignore:After training")


def network(width, is_sequence=False, side=SIDE):
    inputs = keras.Input((side, side, 3))
    x = layers.Conv2D(width, 3, padding="same", activation="relu", name="hidden")(inputs)
    x = layers.Conv2D(CLASSES, 1, name="logits")(x)
    return keras.Model(inputs, layers.Reshape((-1, CLASSES))(x) if is_sequence else x)


def distiller(*methods, loss=None, **options):
    keras.utils.set_random_seed(0)
    model = Distiller(student=network(4, **options), teacher=network(8, **options), methods=methods, hard_weight=1.0)
    model.compile(keras.optimizers.SGD(0.0), loss or CE(from_logits=True), jit_compile=False)
    return model


def logits(model):
    return [np.array(one(X), "float64") for one in (model.student, model.teacher.networks[0])]


def kd_values(student, teacher, temperature=4.0):
    log_s, log_t = log_softmax(student / temperature), log_softmax(teacher / temperature)
    return temperature**2 * (np.exp(log_t) * (log_t - log_s)).sum(-1)


def hard_values(student, labels):
    return -np.take_along_axis(log_softmax(student), labels[..., None], -1)[..., 0]


def dkd_values(student, teacher, labels, beta=8.0, temperature=4.0):
    """With the definition's probabilities, not with logarithms."""
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    is_target = np.eye(CLASSES, dtype=bool)[labels]
    p_y, q_y = (np.where(is_target, x, 0).sum(-1) for x in (p, q))
    target = p_y * np.log(p_y / q_y) + (1 - p_y) * np.log((1 - p_y) / (1 - q_y))
    others_p, others_q = (np.where(is_target, 1.0, x / (1 - x_y)[..., None]) for x, x_y in ((p, p_y), (q, q_y)))
    others = np.where(is_target, 0, others_p * np.log(others_p / others_q)).sum(-1)
    return temperature**2 * (target + beta * others)


@pytest.mark.parametrize(
    "weight", [None, WEIGHT, WEIGHT[:, None], PIXELS, PIXELS[..., None]], ids=lambda w: str(np.shape(w))
)
@pytest.mark.parametrize("is_sequence", [False, True])
def test_terms_are_means_over_positions(weight, is_sequence):
    model = distiller(KD(), DKD(warmup_epochs=0), Logits(), is_sequence=is_sequence)
    labels = Y.reshape(COUNT, -1) if is_sequence else Y
    if weight is not None and weight.ndim > 2 and is_sequence:
        weight = weight.reshape(COUNT, -1, *weight.shape[3:])
    logs = model.train_on_batch(X, labels, sample_weight=weight, return_dict=True)
    student, teacher = logits(model)
    factor = np.ones(()) if weight is None else np.squeeze(weight)
    factor = factor.reshape(*factor.shape, *[1] * (labels.ndim - factor.ndim))
    expected = {
        "hard": hard_values(student, labels),
        "kd": kd_values(student, teacher),
        "dkd": dkd_values(student, teacher, labels),
        "logits": ((student - teacher) ** 2).mean(-1),
    }
    assert {name: logs[name] for name in expected} == pytest.approx(
        {name: (values * factor).mean() for name, values in expected.items()}, rel=2e-4
    )


def test_evaluation_counts_the_examples_with_a_weight():
    model = distiller(KD())
    values = hard_values(logits(model)[0], Y)
    found = model.evaluate(X, Y, sample_weight=PIXELS, batch_size=3, verbose=0, return_dict=True)["loss"]
    assert found == pytest.approx((values * PIXELS).mean(), rel=1e-5)
    with pytest.raises(ValueError, match="one rank in all calls"):
        model.evaluate(X, Y, sample_weight=WEIGHT, verbose=0)
    model = distiller(KD())
    found = model.evaluate(X, Y, sample_weight=WEIGHT, batch_size=COUNT, verbose=0, return_dict=True)["loss"]
    assert found == pytest.approx((values.mean((1, 2)) * WEIGHT).sum() / (COUNT - 1), rel=1e-5)  # one weight is 0


def test_weights_of_positions_are_averaged_for_a_term_of_examples():
    plain, weighted = (distiller(AT(student_tap="hidden", teacher_tap="hidden")) for _ in range(2))
    constant = np.full_like(PIXELS, 0.5)
    value = weighted.train_on_batch(X, Y, sample_weight=constant, return_dict=True)["at"]
    assert value == pytest.approx(0.5 * plain.train_on_batch(X, Y, return_dict=True)["at"], rel=1e-5)


@pytest.mark.parametrize("shape", [(), (1,), (CLASSES,)])
@pytest.mark.parametrize("kind", [DKD, WSLD])
def test_labels_of_positions_in_every_form(kind, shape):
    options = {"warmup_epochs": 0} if kind is DKD else {}
    one_hot = keras.losses.CategoricalCrossentropy(from_logits=True)
    model = distiller(kind(**options), loss=one_hot if shape == (CLASSES,) else None)
    labels = np.eye(CLASSES, dtype="float32")[Y] if shape == (CLASSES,) else Y.reshape(*Y.shape, *shape)
    reference = distiller(kind(**options))
    expected, found = (
        reference.train_on_batch(X, Y, return_dict=True),
        model.train_on_batch(X, labels, return_dict=True),
    )
    assert found == pytest.approx(expected, rel=1e-5)


def test_ignored_positions_have_no_target():
    ignored = np.where(PIXELS < 0.5, -1, Y)
    model = distiller(DKD(warmup_epochs=0), loss=CE(from_logits=True, ignore_class=-1))
    logs = model.train_on_batch(X, ignored, return_dict=True)
    student, teacher = logits(model)
    assert logs["hard"] == pytest.approx(hard_values(student, Y)[ignored >= 0].mean(), rel=1e-4)
    assert logs["dkd"] == pytest.approx(dkd_values(student, teacher, Y)[ignored >= 0].mean(), rel=1e-4)


@pytest.mark.parametrize("method", [MLKD, LSKD, lambda: LSKD(host=DKD())], ids=["MLKD", "LSKD", "host"])
def test_methods_that_compare_examples_refuse_positions(method):
    with pytest.raises(ValueError, match=r"Expected logits \(B, K\) for method .* use KD\(\)"):
        distiller(method()).fit(X, Y, verbose=0)


@pytest.mark.parametrize("method", [KD, DKD, WSLD, CTKD, Logits])
def test_both_networks_must_have_the_same_positions(method):
    teacher = keras.Sequential([keras.Input((SIDE, SIDE, 3)), layers.Conv2D(CLASSES, SIDE)])  # (None, 1, 1, 4)
    with pytest.raises(ValueError, match="the same positions for method"):
        Distiller(student=network(4), teacher=teacher, methods=[method()])
    vectors = keras.Sequential([keras.Input((SIDE, SIDE, 3)), layers.Flatten(), layers.Dense(CLASSES)])
    with pytest.raises(ValueError, match="the same positions for method"):
        Distiller(student=network(4), teacher=vectors, methods=[method()])


@pytest.mark.parametrize("weight", [np.ones((COUNT, 3, 3)), np.ones((COUNT, SIDE, 3))], ids=lambda w: str(w.shape))
def test_weights_of_other_positions_are_refused(weight):
    with pytest.raises(ValueError, match="Expected sample weights for the examples"):
        distiller(KD()).fit(X, Y, sample_weight=weight.astype("float32"), verbose=0)


@pytest.mark.parametrize("dtype", ["int64", "uint8"])
def test_methods_leave_out_the_class_that_the_loss_ignores(dtype):
    """A mask of uint8 has no -1: its ignored pixels often have 255."""
    ignored = np.random.default_rng(1).random(Y.shape) < 0.4
    void = 255 if dtype == "uint8" else 77
    logs = [
        distiller(
            KD(), DKD(warmup_epochs=0), DIST(positions=True), loss=CE(from_logits=True, ignore_class=number)
        ).train_on_batch(X, np.where(ignored, number, Y).astype(kind), return_dict=True)
        for number, kind in ((-1, "int64"), (void, dtype))
    ]
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)
    model = distiller(KD(), loss=CE(from_logits=True, ignore_class=void))
    student, teacher = logits(model)
    expected = kd_values(student, teacher)[~ignored].mean()
    assert logs[1]["kd"] == pytest.approx(expected, rel=1e-4)


def test_two_replicas_compute_the_same_terms():
    histories = []
    for devices in (1, 2):
        with mirrored(devices).scope():
            model = distiller(KD(), DKD(warmup_epochs=0), loss=CE(from_logits=True, reduction="none"))
        data = tf.data.Dataset.from_tensor_slices((X, Y, WEIGHT)).batch(5)  # slices of 3 and 2 examples
        histories.append(model.fit(data.take(1), verbose=0).history)
    assert histories[0] == {name: pytest.approx(value, rel=1e-5) for name, value in histories[1].items()}


def test_a_structure_of_weights_reaches_each_output():
    inputs = keras.Input((8,))
    student = keras.Model(inputs, [layers.Dense(3, name="a")(inputs), layers.Dense(3, name="b")(inputs)])
    model = Distiller(student=student, hard_weight=1.0)
    model.compile(keras.optimizers.SGD(0.0), [CE(from_logits=True)] * 2)
    x, y, w = random.random((4, 8)).astype("float32"), random.integers(0, 3, 4), np.array([1, 0, 2, 1], "float32")
    logs = model.train_on_batch(x, [y, y], sample_weight=[w, 2 * w], return_dict=True)
    a, b = (hard_values(np.array(out, "float64"), y) for out in student(x))
    assert logs["hard"] == pytest.approx((w * a).mean() + (2 * w * b).mean(), rel=1e-5)
