"""DOT step by step against NumPy in float64, alone and in a Distiller, on any number of replicas."""

import keras
import numpy as np
import pytest

import kd_keras as kd
from kd_keras import Distiller, methods
from kd_keras.runs.optimization import optimizer
from kd_keras.runs.recipe import Recipe
from kd_keras.training import DOT, Checkpoint, CoupledSGD
from tests.support.networks import compiled, convolutional, examples, mirrored, same, values
from tests.support.reference import softmax

pytestmark = pytest.mark.filterwarnings("ignore:The teacher is right")
RATE, MOMENTUM, DELTA, DECAY = 0.1, 0.9, 0.075, 0.02
SETTINGS = {"momentum": MOMENTUM, "delta": DELTA, "coupled_weight_decay": DECAY}


class Reference:
    """The algorithm of the paper for one variable, in float64."""

    def __init__(self, weight):
        self.weight, self.task, self.distillation = weight.astype("float64"), 0.0, 0.0

    def step(self, task=None, distillation=None):
        if task is None or distillation is None:
            gradient = distillation if task is None else task
            self.task = MOMENTUM * self.task + gradient + DECAY * self.weight
            self.weight = self.weight - RATE * self.task
            return
        self.task = (MOMENTUM - DELTA) * self.task + task + DECAY * self.weight
        self.distillation = (MOMENTUM + DELTA) * self.distillation + distillation
        self.weight = self.weight - RATE * (self.task + self.distillation)


def test_the_rule_with_two_gradients_with_one_and_after_reloading():
    random = np.random.default_rng(0)
    starts = [random.normal(size=(5,)), random.normal(size=(2, 3))]
    both, single = (keras.Variable(start, dtype="float32") for start in starts)
    dot, references = DOT(RATE, **SETTINGS), [Reference(start) for start in starts]
    dot = keras.optimizers.deserialize(keras.optimizers.serialize(dot))
    for _ in range(20):
        task, distillation, only = random.normal(size=5), random.normal(size=5), random.normal(size=(2, 3))
        gradients = [np.stack([task, distillation]), only]
        dot.apply([keras.ops.convert_to_tensor(gradient, "float32") for gradient in gradients], [both, single])
        references[0].step(task, distillation)
        references[1].step(distillation=only)
        for variable, reference in zip((both, single), references, strict=True):
            np.testing.assert_allclose(variable.numpy(), reference.weight, atol=1e-5)


def linear(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="logits")], name=f"linear{seed}")


def test_a_distiller_follows_the_gradients_of_the_hard_loss_and_of_the_distillation():
    """Of a linear student the gradients are known: x^T (p - y) / B, and of KD T x^T (p_s - p_t) / B."""
    student, teacher, temperature = linear(1), linear(2), 2.0
    kd_method = methods.KD(temperature=temperature, weight=0.7)
    distiller = Distiller(student=student, teacher=teacher, methods=[kd_method], hard_weight=0.4)
    compiled(distiller, optimizer=DOT(RATE, **SETTINGS))
    random = np.random.default_rng(0)
    kernel, bias = (Reference(np.array(variable)) for variable in student.trainable_variables)
    t_kernel, t_bias = (np.array(variable, "float64") for variable in teacher.trainable_variables)
    for _ in range(8):
        x, y = random.normal(size=(6, 4)).astype("float32"), random.integers(0, 3, 6)
        z_s, z_t = x @ kernel.weight + bias.weight, x @ t_kernel + t_bias
        task = 0.4 * (softmax(z_s) - np.eye(3)[y]) / 6
        distillation = 0.7 * temperature * (softmax(z_s / temperature) - softmax(z_t / temperature)) / 6
        distiller.train_on_batch(x, y)
        kernel.step(x.T @ task, x.T @ distillation)
        bias.step(task.sum(0), distillation.sum(0))
        for variable, reference in zip(student.trainable_variables, (kernel, bias), strict=True):
            np.testing.assert_allclose(variable.numpy(), reference.weight, atol=1e-5)


def distilled(kind, settings, replicas=1):
    keras.utils.set_random_seed(0)
    with mirrored(replicas).scope():
        teacher, student = convolutional(6, name="teacher"), convolutional(4)
        distiller = Distiller(student=student, teacher=teacher, methods=[methods.FitNet(weight=1.0)], hard_weight=0.5)
        compiled(distiller, optimizer=kind(**settings), jit_compile=False)
    distiller.fit(*examples(20), batch_size=8, epochs=2, shuffle=False, verbose=0)
    return values(distiller.trainable_variables)


def test_without_a_difference_it_is_sgd_also_for_adapters():
    settings = {"learning_rate": RATE, "momentum": 0.9, "coupled_weight_decay": DECAY}
    dot = distilled(DOT, {**settings, "delta": 0.0})
    assert same(dot, distilled(CoupledSGD, settings), atol=1e-5)
    assert not same(dot, distilled(DOT, {**settings, "delta": DELTA}), atol=1e-3)


def test_one_replica_equals_two():
    settings = {"learning_rate": RATE, **SETTINGS}
    assert same(distilled(DOT, settings), distilled(DOT, settings, replicas=2), atol=1e-5)


def test_half_precision_scales_both_losses():
    keras.config.set_dtype_policy("mixed_float16")
    half = distilled(DOT, {"learning_rate": 0.02, **SETTINGS})
    keras.config.set_dtype_policy("float32")
    whole = distilled(DOT, {"learning_rate": 0.02, **SETTINGS})
    moved = distilled(DOT, {"learning_rate": 0.0, **SETTINGS})
    for a, b, start in zip(half, whole, moved, strict=True):
        assert np.abs(a - b).max() < 0.1 * np.abs(b - start).max() + 1e-3


def test_both_momenta_are_in_a_checkpoint(tmp_path):
    def ready():
        keras.utils.set_random_seed(0)
        distiller = Distiller(student=linear(1), teacher=linear(2), methods=[methods.KD()])
        return compiled(distiller, optimizer=DOT(RATE, **SETTINGS))

    x, y = np.random.default_rng(0).normal(size=(8, 4)).astype("float32"), np.arange(8) % 3
    whole, first, resumed = ready(), ready(), ready()
    whole.fit(x, y, epochs=4, shuffle=False, verbose=0)
    first.fit(x, y, epochs=2, shuffle=False, verbose=0, callbacks=[Checkpoint(tmp_path)])
    start = Checkpoint(tmp_path).restore(resumed)
    resumed.fit(x, y, epochs=4, initial_epoch=start.epoch, shuffle=False, verbose=0)
    assert same(values(whole.trainable_variables), values(resumed.trainable_variables))


def test_a_loss_of_one_kind_is_refused():
    for options in ({"hard_weight": 0}, {"methods": []}):
        arguments = {"student": linear(1), "teacher": linear(2), "methods": [methods.KD()], **options}
        arguments["teacher"] = arguments["teacher"] if arguments["methods"] else None
        distiller = compiled(Distiller(**arguments), optimizer=DOT(RATE))
        with pytest.raises(ValueError, match="DOT needs a hard loss and a method"):
            distiller.fit(np.ones((4, 4)), np.zeros(4, "int32"), verbose=0)


def test_invalid_arguments_are_refused():
    for options, message in (
        ({"delta": 0.1}, r"momentum \+ delta"), ({"delta": -0.1}, "delta"), ({"momentum": 0.01}, "delta"),
        ({"clipnorm": 1.0}, "supports no clipnorm"), ({"gradient_accumulation_steps": 2}, "supports no gradient"),
        ({"coupled_weight_decay": -1}, "coupled_weight_decay"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            DOT(RATE, **options)
    with pytest.raises(ValueError, match="needs optimizer='dot'"):
        Recipe(dot_delta=0.09)


def test_a_recipe_trains_with_it(data_dir, tmp_path):
    made = optimizer(Recipe(optimizer="dot", dot_delta=0.09, coupled_weight_decay=1e-3, schedule="constant"), steps=1)
    assert (type(made), made.momentum, made.delta, made.coupled_weight_decay) == (DOT, 0.9, 0.09, 1e-3)
    small = {"data": "digits", "data_dir": data_dir.partition("=")[2], "train_split": "train[:64]", "epochs": 1}
    small |= {"test_split": "test[:64]", "optimizer": "dot"}
    teacher = kd.models.build("mlp", (8, 8, 1), 10, hidden=(8,))
    run = kd.distill(teacher=teacher, student="mlp(hidden=(4,))", **small, run=tmp_path / "run")
    assert run.is_complete and run.settings["optimizer"] == "dot"
    with pytest.raises(ValueError, match="DOT needs"):
        kd.train(model="mlp(hidden=(4,))", **small, run=tmp_path / "other")
    assert not (tmp_path / "other").exists()
