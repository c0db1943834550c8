"""FT and the paraphraser's first stage against NumPy in float64, and the two stages together."""

import functools

import keras
import numpy as np
import pytest

from kd_keras import Distiller
from kd_keras.contracts import TapSpec
from kd_keras.methods import FT, Paraphrase, ft_loss
from kd_keras.networks.specs import Specs
from tests.support.networks import compiled, convolutional, examples, same, values
from tests.support.reference import Case, pooled, random


def reference(student, teacher, form="paper"):
    """The vectors of one example after the other."""
    size = tuple(np.minimum(student.shape[1:3], teacher.shape[1:3]))
    student, teacher = pooled(student, size), pooled(teacher, size)
    losses = []
    for pair in zip(student, teacher, strict=True):
        if form == "attention":
            pair = [np.array([[np.mean(place**2) for place in row] for row in factor]) for factor in pair]
        student_vector, teacher_vector = (factor.ravel() / np.sqrt(np.sum(factor**2)) for factor in pair)
        losses.append(
            sum(abs(a - b) for a, b in zip(student_vector, teacher_vector, strict=True)) / len(student_vector)
        )
    return np.array(losses)


def case(name, form, student_shape, teacher_shape):
    loss, expected = functools.partial(ft_loss, form=form), functools.partial(reference, form=form)
    return Case(name, loss, expected, random(*student_shape, seed=1), (random(*teacher_shape, seed=2),), step=1e-6)


# At the published weight of 500 and the rate of 0.1 of the harness, six updates multiply rounding: replicas differ by
# 1.8e-5, by 4e-6 at a weight of 50 and by 1e-7 at 5.
OPTIONS = {"FT": {"weight": 50.0}}
CASES = [
    case(f"{form}, {name}", form, *sizes)
    for form in ("paper", "attention")
    for name, sizes in {
        "equal sizes": ((5, 4, 3, 6), (5, 4, 3, 6)),
        "a larger student": ((5, 6, 5, 3), (5, 3, 3, 3)),
        "a larger teacher": ((5, 2, 2, 4), (5, 4, 3, 4)),
    }.items()
]


def test_the_loss_is_zero_for_equal_directions():
    factor = random(3, 2, 2, 4, seed=0)
    for form in ("paper", "attention"):
        np.testing.assert_allclose(ft_loss(factor, 3 * factor, form=form), np.zeros(3), atol=1e-7)
    assert np.min(ft_loss(factor, -factor)) > 0
    np.testing.assert_allclose(ft_loss(factor, -factor, form="attention"), np.zeros(3), atol=1e-7)


def bound(student=(4, 4, 5), teacher=(4, 4, 8), **options):
    method = FT(student_tap="a", teacher_tap="b", **options)
    method.bind(Specs({"a": TapSpec("s", (None, *student))}), Specs({"b": TapSpec("t", (None, *teacher))}))
    return method


def trained(teacher, **options):
    """A paraphraser after the first stage, and the losses of that stage."""
    student, method = convolutional(4), Paraphrase(**options)
    distiller = Distiller(student=student, teacher=teacher, methods=[method], hard_weight=0)
    distiller.compile(optimizer=keras.optimizers.Adam(0.01), jit_compile=False)
    before = values(student.variables)
    losses = distiller.fit(examples()[0], epochs=20, verbose=0).history["paraphrase"]
    assert same(before, values(student.variables))  # it never moves the student
    return method.paraphraser, losses


@pytest.mark.filterwarnings("ignore:Gradients do not exist", "ignore:.*gradients")
def test_training_in_two_stages(tmp_path):
    teacher = convolutional(6, name="teacher")
    paraphraser, losses = trained(teacher)
    assert losses[-1] < 0.8 * losses[0]
    student, method = convolutional(4), FT(paraphraser=paraphraser)
    distiller = compiled(Distiller(student=student, teacher=teacher, methods=[method]), jit_compile=False)
    frozen, moving = values(paraphraser.variables), values(student.trainable_variables)
    assert len(frozen) == 12 and not paraphraser.trainable_variables
    x, y = examples()
    history = distiller.fit(x, y, epochs=5, shuffle=False, verbose=0).history["ft"]
    assert same(frozen, values(paraphraser.variables)) and history[-1] < history[0]
    assert not same(moving, values(student.trainable_variables))
    distiller.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras")
    assert again.methods[0].frozen and same(frozen, values(again.methods[0].paraphraser.variables))
    again.attach(teacher)
    student_maps, teacher_maps = (d.fit(x, y, shuffle=False, verbose=0).history["ft"] for d in (distiller, again))
    np.testing.assert_allclose(student_maps, teacher_maps, rtol=1e-5)


def test_the_first_stage_resumes_from_a_file(tmp_path):
    teacher, x = convolutional(6, name="teacher"), examples()[0]
    distiller = Distiller(student=convolutional(4), teacher=teacher, methods=[Paraphrase()], hard_weight=0)
    distiller.compile(optimizer="sgd", jit_compile=False)
    distiller.fit(x, shuffle=False, verbose=0)
    distiller.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras")
    again.attach(teacher)
    student_maps, teacher_maps = (
        d.fit(x, epochs=2, shuffle=False, verbose=0).history["loss"] for d in (distiller, again)
    )
    np.testing.assert_allclose(student_maps, teacher_maps, rtol=1e-5)
    assert same(values(distiller.variables), values(again.variables), atol=1e-6)


def test_the_translator_follows_the_given_factor():
    paraphrase = Paraphrase(rate=0.75)
    paraphrase.bind(Specs({}), Specs({"stages[-1]": TapSpec("map", (None, 4, 4, 8))}))
    method = bound(paraphraser=paraphrase.paraphraser)
    assert method.translator.output_shape == (None, 4, 4, 6)
    student_maps, teacher_maps = random(3, 4, 4, 5, seed=1), random(3, 4, 4, 8, seed=2)
    factor = method.paraphraser.get_layer("encoder")(teacher_maps)
    expected = ft_loss(method.translator(student_maps, training=True), factor)
    np.testing.assert_allclose(method({"a": student_maps}, {"b": teacher_maps}, None, None), expected)


def test_the_layers():
    shapes = [tuple(variable.shape) for variable in bound().paraphraser.trainable_variables]
    kernels = [(3, 3, 8, 8), (3, 3, 8, 4), (3, 3, 4, 4), (3, 3, 4, 4), (3, 3, 8, 4), (3, 3, 8, 8)]
    assert shapes[::2] == kernels and all(len(shape) == 1 for shape in shapes[1::2])  # with bias, no BatchNorm
    shapes = [tuple(variable.shape) for variable in bound().translator.trainable_variables]
    assert shapes[::3] == [(3, 3, 5, 5), (3, 3, 5, 4), (3, 3, 4, 4)] and len(shapes) == 9  # with BatchNorm
    encoder = bound().paraphraser.get_layer("encoder")
    assert np.min(encoder(random(2, 4, 4, 8, seed=1))) < 0  # LeakyReLU


def test_the_paraphraser_starts_as_in_pytorch():
    method = FT(student_tap="a", teacher_tap="b")
    method.bind(Specs({"a": TapSpec("a", (None, 4, 4, 5))}), Specs({"b": TapSpec("b", (None, 4, 4, 64))}))
    encoder, decoder = (method.paraphraser.get_layer(name) for name in ("encoder", "decoder"))
    inputs = [64, 64, 32, 32, 64, 64]  # of a transposed convolution, PyTorch counts the output
    layers = [layer for part in (encoder, decoder) for layer in part.layers if layer.weights]
    for layer, channels in zip(layers, inputs, strict=True):
        limit = (9 * channels) ** -0.5
        for start in layer.get_weights():
            assert 0.8 * limit < np.abs(start).max() <= limit


def test_without_a_first_stage_only_the_reconstruction_trains_the_paraphraser():
    import tensorflow as tf

    method = bound(reconstruction=0.25)
    student_maps, teacher_maps = random(3, 4, 4, 5, seed=1), random(3, 4, 4, 8, seed=2)
    with tf.GradientTape(persistent=True) as tape:
        loss = method({"a": student_maps}, {"b": teacher_maps}, None, None)
        error = 0.25 * tf.reduce_mean(tf.square(method.paraphraser(teacher_maps) - teacher_maps), axis=(1, 2, 3))
    variables = method.paraphraser.trainable_variables
    for gradient, expected in zip(tape.gradient(loss, variables), tape.gradient(error, variables), strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)


def test_the_loss_of_the_first_stage_is_the_mean_square():
    paraphrase = Paraphrase()
    paraphrase.bind(Specs({}), Specs({"stages[-1]": TapSpec("map", (None, 4, 4, 8))}))
    maps = random(3, 4, 4, 8, seed=2)
    expected = ((np.asarray(paraphrase.paraphraser(maps)) - maps) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(paraphrase({}, {"stages[-1]": maps}, None, None), expected, rtol=1e-5)


def test_a_paraphraser_that_does_not_fit_raises():
    with pytest.raises(TypeError, match="paraphraser"):
        FT(paraphraser="trained")
    with pytest.raises(ValueError, match=r'(?s)"encoder".*relu1.*Paraphrase'):
        FT(paraphraser=convolutional())
    paraphrase = Paraphrase()
    paraphrase.bind(Specs({}), Specs({"stages[-1]": TapSpec("map", (None, 4, 4, 8))}))
    with pytest.raises(ValueError, match=r"(?s)'t' \(None, 4, 4, 9\).*\(None, 4, 4, 8\).*Train one"):
        bound(teacher=(4, 4, 9), paraphraser=paraphrase.paraphraser)


@pytest.mark.parametrize(
    "options, error", [({"form": "code"}, ValueError), ({"rate": 0}, ValueError), ({"reconstruction": "x"}, TypeError)]
)
def test_invalid_arguments_raise(options, error):
    with pytest.raises(error, match=next(iter(options))):
        FT(**options)


def test_several_maps_raise():
    with pytest.raises(ValueError, match=r"(?s)one map.*stages\[-1\]"):
        Distiller(student=convolutional(4), teacher=convolutional(6), methods=[Paraphrase(teacher_tap="stages")])
    with pytest.raises(ValueError, match="one tap of each side"):
        method = FT(student_tap="stages", teacher_tap="stages")
        Distiller(student=convolutional(4), teacher=convolutional(6), methods=[method])
