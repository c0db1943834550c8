"""Embedding against NumPy in float64, and its adapter."""

import functools

import keras
import numpy as np
import pytest

from kd_keras import Distiller
from kd_keras.contracts import TapSpec
from kd_keras.methods import Embedding, embedding_loss
from tests.support.networks import convolutional, examples
from tests.support.reference import Case, random, unit

OPTIONS = {"Embedding": {"weight": 1.0}}  # at the published weight, the harness's rate of 0.1 amplifies rounding
pytestmark = pytest.mark.filterwarnings("ignore:.*shuffle")


def reference(student, teacher, form="cosine"):
    if form == "mean_square":
        return ((student - teacher) ** 2).mean(-1)
    if form == "smooth_l1":
        terms = [[d**2 / 2 if abs(d) < 1 else abs(d) - 0.5 for d in row] for row in student - teacher]
        return np.mean(terms, -1)
    distance = np.array([1 - s @ t for s, t in zip(unit(student), unit(teacher), strict=True)])
    return distance**2 if form == "squared_cosine" else distance


CASES = [
    Case(
        form,
        functools.partial(embedding_loss, form=form),
        functools.partial(reference, form=form),
        random(5, 7, seed=1),
        (random(5, 7, seed=2),),
    )
    for form in ("cosine", "squared_cosine", "mean_square", "smooth_l1")
]


def bound(widths, **options):
    method = Embedding(**options)
    method.bind(*({"embedding": TapSpec(side, (None, width))} for side, width in zip("st", widths, strict=True)))
    return method


def test_equal_widths_have_no_adapter_and_others_a_linear_one():
    assert bound((6, 6)).variables == []
    (kernel,) = bound((6, 9)).variables
    assert kernel.shape == (6, 9)


def test_the_length_counts_only_in_the_mean_square():
    x = random(4, 6)
    np.testing.assert_allclose(embedding_loss(3 * x, x), np.zeros(4), atol=1e-6)
    assert (np.array(embedding_loss(3 * x, x, form="mean_square")) > 0.1).all()


def test_maps_and_unknown_forms_raise():
    with pytest.raises(ValueError, match=r"vectors \(B, D\)"):
        Embedding().bind(*({"embedding": TapSpec(side, (None, 4, 4, 3))} for side in "st"))
    with pytest.raises(ValueError, match="Did you mean cosine"):
        Embedding(form="cosin")


def test_it_trains_on_images_without_labels():
    keras.utils.set_random_seed(0)
    student, teacher = convolutional(6), convolutional(6, name="teacher")
    distiller = Distiller(student=student, teacher=teacher, methods=[Embedding(weight=1.0)], hard_weight=0)
    distiller.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    images, _ = examples()
    losses = distiller.fit(images, epochs=20, verbose=0).history["embedding"]
    assert losses[-1] < 0.5 * losses[0]
    networks = (student, teacher)
    taps = [keras.Model(network.input, network.get_layer("pool").output)(images) for network in networks]
    cosines = (unit(np.array(taps[0])) * unit(np.array(taps[1]))).sum(-1)
    assert losses[-1] == pytest.approx(1 - cosines.mean(), abs=0.05)
