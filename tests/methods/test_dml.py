"""DML against NumPy in float64: value, gradient, and what a step does to each peer."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller, models
from kd_keras.contracts import Batch, Outputs, Step
from kd_keras.methods import DML, KD, dml_loss
from tests.support.networks import compiled, convolutional, examples, same, values
from tests.support.reference import Case, log_softmax, random


def reference(student, teacher, labels, temperature=1.0):
    y, total = np.eye(student[0].shape[-1])[labels] if labels.ndim == 1 else labels, 0.0
    for i, z in enumerate(student):
        total = total - (y * log_softmax(z)).sum(-1)
        for j, other in enumerate(teacher):
            if i != j:
                log_t, log_s = log_softmax(other / temperature), log_softmax(z / temperature)
                total = total + temperature**2 * (np.exp(log_t) * (log_t - log_s)).sum(-1) / (len(student) - 1)
    return total


def case(name, peers=2, scale=1.0, soft=False, **settings):
    loss, expected = functools.partial(dml_loss, **settings), functools.partial(reference, **settings)
    student = [random(16, 10, seed=seed, scale=scale) for seed in range(peers)]
    labels = np.random.default_rng(9).integers(0, 10, 16)
    labels = np.eye(10, dtype="float32")[labels] * 0.9 + np.float32(0.01) if soft else labels
    return Case(name, loss, expected, student, ([array.copy() for array in student], labels))


CASES = [
    case("two peers"),
    case("three peers", peers=3, scale=5.0, temperature=2.0),
    case("smoothed labels", soft=True),
]


def student(width=4, normalized=False):
    """A cohort of two architectures."""
    return models.cohort([convolutional(width, normalized=normalized), convolutional(width + 1, normalized=normalized)])


def test_the_predictions_of_the_others_are_constants():
    logits = [tf.Variable(random(8, 5, seed=seed)) for seed in range(3)]
    labels = np.arange(8) % 5
    with tf.GradientTape() as tape:
        outputs = Outputs({"peer*": list(logits)})
        loss = tf.reduce_sum(DML().call(outputs, Outputs(), Batch(None, labels), Step(0, 0)))
    gradients = tape.gradient(loss, logits)
    p = [np.exp(log_softmax(np.array(z, "float64"))) for z in logits]
    for i, gradient in enumerate(gradients):  # of CE: p_i - y; of KL(p_j || p_i): p_i - p_j
        expected = p[i] - np.eye(5)[labels] + sum(p[i] - p[j] for j in range(3) if j != i) / 2
        np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_a_cohort_predicts_the_mean_and_its_peers_are_its_networks():
    peers = [convolutional(4), convolutional(5)]
    made, (x, _) = models.cohort(peers), examples(8)
    probabilities = [np.exp(log_softmax(np.array(peer(x), "float64"))) for peer in peers]
    np.testing.assert_allclose(np.exp(np.array(made(x), "float64")), sum(probabilities) / 2, atol=1e-6)
    for number, peer in enumerate(peers, start=1):
        single = made.get_layer(f"network{number}")
        np.testing.assert_allclose(single(x), peer(x), atol=1e-6)
        assert same(values(single.weights), values(peer.weights))
    with pytest.raises(ValueError, match="two or more"):
        models.cohort(peers[:1])
    with pytest.raises(ValueError, match="same images and classes"):
        models.cohort([convolutional(4), convolutional(4, classes=7)])


def test_a_step_updates_each_peer_by_its_own_loss():
    """One step of the cohort equals one step of each peer alone, with the predictions of the other one as a teacher."""
    x, y = examples(16)
    made = student()
    starts = [keras.models.clone_model(made.get_layer(f"network{number}")) for number in (1, 2)]
    for start, number in zip(starts, (1, 2), strict=True):
        start.set_weights(made.get_layer(f"network{number}").get_weights())
    others = [keras.models.clone_model(start) for start in starts]
    for other, start in zip(others, starts, strict=True):
        other.set_weights(start.get_weights())
    together = compiled(Distiller(student=made, methods=[DML()], hard_weight=0), optimizer=keras.optimizers.SGD(0.1))
    together.train_on_batch(x, y)
    for number, (start, other) in enumerate(zip(starts, reversed(others), strict=True), start=1):
        method = KD(temperature=1.0, weight=1.0)
        alone = Distiller(student=start, teacher=other, methods=[method], hard_weight=1.0)
        compiled(alone, optimizer=keras.optimizers.SGD(0.1)).train_on_batch(x, y)
        assert same(values(made.get_layer(f"network{number}").weights), values(start.weights), atol=1e-6)


def test_a_teacher_in_addition():
    method = KD(student_tap=("peer1", "peer2"), teacher_tap=("logits", "logits"))
    teacher = convolutional(6, name="teacher")
    distiller = Distiller(student=student(), teacher=teacher, methods=[DML(), method], hard_weight=0)
    history = compiled(distiller).fit(*examples(16), verbose=0).history
    assert {"dml", "kd"} <= set(history)


def test_what_is_no_cohort_is_refused():
    with pytest.raises(ValueError, match="peer"):
        Distiller(student=convolutional(), methods=[DML()], hard_weight=0)
    distiller = compiled(Distiller(student=student(), methods=[DML()], hard_weight=0))
    with pytest.raises(ValueError, match="DML needs labels"):
        distiller.fit(examples(8)[0], verbose=0)
    with pytest.raises(ValueError, match="temperature"):
        DML(temperature=0)


def test_a_cohort_is_made_of_logits_and_of_sequential_models_too():
    with pytest.raises(ValueError, match="networks of logits in a cohort, but received .* ends in a softmax"):
        models.cohort([keras.Sequential([convolutional(), keras.layers.Softmax()]) for _ in range(2)])
    flat = [keras.Input((8, 8, 1)), keras.layers.Flatten()]
    peers = [keras.Sequential([*flat, keras.layers.Dense(3)]) for _ in range(2)]
    assert models.cohort(peers).output_shape == (None, 3)
