"""The coupled weight decay of the published recipes: in NumPy, on every variable, on any number of replicas."""

import contextlib

import keras
import numpy as np
import pytest

from kd_keras import Distiller, methods
from kd_keras.runs.optimization import optimizer
from kd_keras.runs.recipe import Recipe
from kd_keras.training import CoupledSGD
from tests.support.networks import compiled, convolutional, examples, mirrored, same, values

pytestmark = pytest.mark.filterwarnings("ignore:The teacher is right")


def decayed(optimizer, updates=1000):
    """What is left of a weight of 1 after updates without a gradient."""
    weight = keras.Variable([1.0])
    optimizer.build([weight])
    for _ in range(updates):
        optimizer.apply([keras.ops.zeros(1)], [weight])
    return float(weight[0])


def by_hand(weight, gradients, rate, decay, momentum):
    """The rule of the published implementations in float64: g = g + decay w; v = momentum v + g; w = w - rate v."""
    velocity = np.zeros_like(weight)
    for gradient in gradients:
        velocity = momentum * velocity + gradient + decay * weight
        weight = weight - rate * velocity
    return weight


def test_what_is_left_after_a_thousand_updates_of_the_published_recipe():
    recipe = Recipe(schedule="constant", learning_rate=0.05, coupled_weight_decay=5e-4)
    left = decayed(optimizer(recipe, steps=1))
    assert left == pytest.approx(by_hand(1.0, np.zeros(1000), 0.05, 5e-4, 0.9), abs=1e-5)
    assert left == pytest.approx(0.780, abs=5e-4)
    decoupled = decayed(optimizer(Recipe(schedule="constant", learning_rate=0.05, weight_decay=5e-4), steps=1))
    assert decoupled == pytest.approx(0.975, abs=5e-4)
    ten_times = decayed(optimizer(Recipe(schedule="constant", learning_rate=0.05, weight_decay=5e-3), steps=1))
    assert ten_times == pytest.approx(left, abs=2e-3), "as the help of the flag says"


def test_the_rule_with_gradients_a_schedule_and_a_file(tmp_path):
    random = np.random.default_rng(0)
    start, gradients = random.normal(size=(5,)), random.normal(size=(20, 5))
    sgd = CoupledSGD(0.1, momentum=0.9, coupled_weight_decay=0.05)
    sgd = keras.optimizers.deserialize(keras.optimizers.serialize(sgd))
    weight = keras.Variable(start, dtype="float32")
    for gradient in gradients:
        sgd.apply([keras.ops.convert_to_tensor(gradient, "float32")], [weight])
    np.testing.assert_allclose(weight.numpy(), by_hand(start, gradients, 0.1, 0.05, 0.9), atol=1e-5)


@pytest.mark.parametrize("replicas", [1, 2])
def test_student_and_adapters_decay_and_the_teacher_does_not(replicas):
    """With all losses at a weight of 1e-12 nothing but the decay moves a variable."""
    with mirrored(replicas).scope() if replicas > 1 else contextlib.nullcontext():
        teacher, student = convolutional(6, name="teacher"), convolutional(4, normalized=True)
        distiller = Distiller(student=student, teacher=teacher, methods=[methods.VID(weight=1e-12)], hard_weight=1e-12)
        sgd = CoupledSGD(0.1, momentum=0.9, coupled_weight_decay=0.5)
        compiled(distiller, optimizer=sgd, jit_compile=False)
    before, taught = values(distiller.trainable_variables), values(teacher.variables)
    distiller.fit(*examples(32), batch_size=8, verbose=0)
    expected = [by_hand(value.astype(float), np.zeros(4), 0.1, 0.5, 0.9) for value in before]
    assert same(values(distiller.trainable_variables), expected, atol=1e-5)
    assert same(values(teacher.variables), taught)
    adapters = len(distiller.trainable_variables) - len(student.trainable_variables)
    assert adapters == 2 * 4, "three kernels and a variance for each of two stages"


def test_half_precision_decays_by_the_same_rule():
    keras.config.set_dtype_policy("mixed_float16")
    distiller = Distiller(student=convolutional(4), hard_weight=1e-12)
    compiled(distiller, optimizer=CoupledSGD(0.1, coupled_weight_decay=0.5), jit_compile=False)
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    before = values(distiller.trainable_variables)
    distiller.fit(*examples(8), batch_size=8, verbose=0)
    assert same(values(distiller.trainable_variables), [0.95 * value for value in before], atol=1e-5)


def test_other_optimizers_and_values_are_refused():
    with pytest.raises(ValueError, match="needs optimizer='sgd'.*Pass weight_decay instead"):
        Recipe(optimizer="adam", coupled_weight_decay=1e-4)
    with pytest.raises(ValueError, match="coupled_weight_decay"):
        CoupledSGD(0.1, coupled_weight_decay=-1)
    assert type(optimizer(Recipe(), steps=1)) is keras.optimizers.SGD
