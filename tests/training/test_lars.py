"""LARS against its equations in NumPy, on vectors, after a file, on two replicas, and in a recipe."""

import keras
import numpy as np
import pytest

from kd_keras import Distiller
from kd_keras.runs.optimization import optimizer
from kd_keras.runs.recipe import Recipe, make_recipe
from kd_keras.training import LARS
from tests.support.networks import compiled, convolutional, examples, mirrored, same, values

pytestmark = pytest.mark.filterwarnings("ignore:The teacher is right")


def by_hand(weight, gradients, rate, decay, trust, momentum):
    """Algorithm 1 in float64; vectors have plain SGD."""
    velocity = np.zeros_like(weight)
    for gradient in gradients:
        if weight.ndim > 1:
            length, steepness = np.sqrt((weight**2).sum()), np.sqrt((gradient**2).sum())
            ratio = trust * length / (steepness + decay * length) if length * steepness else 1.0
            gradient = ratio * (gradient + decay * weight)
        velocity = momentum * velocity + gradient
        weight = weight - rate * velocity
    return weight


@pytest.mark.parametrize("shape", [(3, 4), (2, 2, 3, 1), (5,)])
def test_updates_are_those_of_algorithm_1_after_serialization(shape):
    random = np.random.default_rng(0)
    start, gradients = random.normal(size=shape), random.normal(size=(20, *shape))
    lars = LARS(2.0, momentum=0.9, coupled_weight_decay=0.05, trust=0.01)
    lars = keras.optimizers.deserialize(keras.optimizers.serialize(lars))
    weight = keras.Variable(start, dtype="float32")
    for gradient in gradients:
        lars.apply([keras.ops.convert_to_tensor(gradient, "float32")], [weight])
    np.testing.assert_allclose(weight.numpy(), by_hand(start, gradients, 2.0, 0.05, 0.01, 0.9), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("start", "gradient"), [(0.0, 1.0), (1.0, 0.0)])
def test_a_norm_of_zero_leaves_the_gradient_as_it_is(start, gradient):
    kernel = keras.Variable(np.full((2, 2), start), dtype="float32")
    LARS(0.5, coupled_weight_decay=0.1).apply([keras.ops.full((2, 2), gradient)], [kernel])
    np.testing.assert_allclose(kernel.numpy(), start - 0.5 * (gradient + 0.1 * start), atol=1e-6)


def test_two_replicas_change_the_weights_as_one_does():
    """The norms are those of the summed gradient, and not of each replica's."""
    trained = []
    for replicas in (1, 2):
        keras.utils.set_random_seed(0)
        with mirrored(replicas).scope():
            distiller = Distiller(student=convolutional(4), hard_weight=1.0)
            compiled(distiller, optimizer=LARS(0.5, momentum=0.9, trust=0.02), jit_compile=False)
        distiller.fit(*examples(32), batch_size=8, shuffle=False, verbose=0)
        trained.append(values(distiller.student.trainable_variables))
    assert same(*trained, atol=1e-5)


def test_a_recipe_with_lars_has_its_decay_in_the_steps():
    lars = optimizer(Recipe(optimizer="lars", learning_rate=1.8, coupled_weight_decay=1e-6, clip_norm=1.0), steps=1)
    assert type(lars) is LARS and lars.coupled_weight_decay == 1e-6
    assert lars.momentum == 0.9 and lars.global_clipnorm == 1.0 and lars.weight_decay is None
    with pytest.raises(ValueError, match="weight_decay=0.1 needs another optimizer than 'lars'"):
        Recipe(optimizer="lars", weight_decay=0.1)
    with pytest.raises(ValueError, match="first_layer_rate"):
        Recipe(optimizer="lars", first_layer_rate=0.5)
    with pytest.raises(ValueError, match="optimizer='lars' needs a learning_rate"):
        make_recipe(optimizer="lars")
    with pytest.raises(ValueError, match="trust"):
        LARS(trust=0)
