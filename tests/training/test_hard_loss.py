"""The compiled loss as a term: every reduction, functions and names, and labels of the wrong kind."""

import keras
import numpy as np
import pytest
from keras import layers

from kd_keras import Distiller
from kd_keras.methods import KD
from tests.support.networks import mirrored
from tests.support.reference import log_softmax

random = np.random.default_rng(0)
X, Y = random.random((32, 8)).astype("float32"), random.integers(0, 4, 32)
WEIGHT = np.linspace(0, 4, 32).astype("float32")
CE = keras.losses.SparseCategoricalCrossentropy
pytestmark = pytest.mark.filterwarnings("ignore:The teacher is right")


def network(width):
    return keras.Sequential([keras.Input((8,)), layers.Dense(width, activation="relu"), layers.Dense(4)])


def distiller(loss):
    keras.utils.set_random_seed(0)
    model = Distiller(student=network(4), teacher=network(8), methods=[KD()], hard_weight=1.0)
    model.compile(keras.optimizers.SGD(0.0), loss)
    return model


def plain(y_true, y_pred):
    return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)


def scalar(y_true, y_pred):
    return keras.ops.mean(plain(y_true, y_pred))


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean", "none", None, "sum", "mean_with_sample_weight"])
def test_reductions_keep_their_meaning(reduction):
    model = distiller(CE(from_logits=True, reduction=reduction))
    values = -log_softmax(np.array(model.student(X), "float64"))[np.arange(32), Y]
    weighted = (WEIGHT * values).sum()
    expected = {"sum": weighted, "mean_with_sample_weight": weighted / WEIGHT.sum()}.get(reduction, weighted / 32)
    logs = model.train_on_batch(X, Y, sample_weight=WEIGHT, return_dict=True)
    assert logs["hard"] == pytest.approx(expected, rel=1e-5)
    of_rows = expected if reduction in ("sum", "mean_with_sample_weight") else weighted / 31  # one weight is 0
    logs = model.evaluate(X, Y, sample_weight=WEIGHT, verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(of_rows, rel=1e-5)


@pytest.mark.parametrize("loss", [plain, scalar])
def test_a_function_as_loss(loss):
    model = distiller(loss)
    values = -log_softmax(np.array(model.student(X), "float64"))[np.arange(32), Y]
    expected = (WEIGHT * values).mean() if loss is plain else values.mean() * WEIGHT.mean()
    assert model.train_on_batch(X, Y, sample_weight=WEIGHT, return_dict=True)["hard"] == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("loss", [plain, CE(from_logits=True, reduction="none"), CE(from_logits=True)])
def test_replicas_do_not_change_the_loss(loss):
    histories = []
    for devices in (1, 2):
        with mirrored(devices).scope():
            model = distiller(loss)
        histories.append(model.fit(X, Y, sample_weight=WEIGHT, verbose=0).history)
    assert histories[0] == {name: pytest.approx(value, rel=1e-5) for name, value in histories[1].items()}


def test_a_sum_over_several_replicas_is_refused():
    with mirrored(2).scope():
        model = distiller(CE(from_logits=True, reduction="sum"))
    with pytest.raises(ValueError, match="reduction='sum' on 2 replicas. Use reduction="):
        model.fit(X, Y, verbose=0)


def test_labels_of_another_kind_than_the_loss():
    with pytest.raises(ValueError, match="(?s)labels of rank 1, .*Use CategoricalCrossentropy for one-hot"):
        distiller(CE(from_logits=True)).fit(X, np.eye(4)[Y], verbose=0)
    with pytest.raises(ValueError, match="(?s)labels of rank 2, .*Use SparseCategoricalCrossentropy"):
        distiller(keras.losses.CategoricalCrossentropy(from_logits=True)).fit(X, Y, verbose=0)


def test_a_compiled_distiller_is_saved_with_its_own_loss(tmp_path):
    model = distiller(CE(from_logits=True, reduction="none"))
    before = model.evaluate(X, Y, verbose=0)
    model.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    assert loaded.evaluate(X, Y, verbose=0) == pytest.approx(before) and loaded.loss.reduction == "none"


LOGITS, PROBABILITIES = (
    keras.losses.SparseCategoricalCrossentropy(from_logits=value, name="given") for value in (True, False)
)


@pytest.mark.parametrize(
    "activation, loss, advice",
    [
        (None, "sparse_categorical_crossentropy", r"SparseCategoricalCrossentropy\(from_logits=True\)"),
        (None, PROBABILITIES, r"SparseCategoricalCrossentropy\(from_logits=True\)"),
        ("softmax", LOGITS, r"SparseCategoricalCrossentropy\(\)"),
        (None, LOGITS, ""),
        ("softmax", PROBABILITIES, ""),
        ("softmax", "sparse_categorical_crossentropy", ""),
        (None, "mse", ""),
    ],
)
def test_logits_taken_for_probabilities_are_refused(activation, loss, advice):
    image = keras.Input((4,))
    student = keras.Model(image, keras.layers.Dense(3, activation=activation)(image))
    teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    distiller = Distiller(student=student, teacher=teacher, methods=[KD()])
    distiller.compile("sgd", loss, jit_compile=False)
    data = np.zeros((4, 4), "float32"), np.zeros((4, 3) if loss == "mse" else 4, "float32")
    if advice:
        for call in (distiller.fit, distiller.evaluate):
            with pytest.raises(ValueError, match=f"(?s)student that returns .*{advice}"):
                call(*data, verbose=0)
    else:
        assert np.isfinite(distiller.fit(*data, verbose=0).history["loss"]).all()
