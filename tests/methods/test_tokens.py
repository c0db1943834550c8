"""Tokens against NumPy in float64."""

import functools

import keras
import numpy as np
import pytest

from kd_keras import Distiller
from kd_keras.contracts import TapSpec
from kd_keras.methods import Queue, Tokens, tokens_loss
from tests.support.networks import convolutional, examples, values
from tests.support.reference import Case, log_softmax, random, unit

pytestmark = pytest.mark.filterwarnings("ignore:.*shuffle", "ignore:Gradients do not exist")
# With the weight 1, plain SGD without clipping moves the linear layer's bias to 100, where the last bit of float32 is
# 1e-5: no two orders of summation agree to that.
OPTIONS = {"Tokens": {"weight": 0.1}}


def reference(student, teacher, temperature=0.07):
    """For each token KL(p_t || p_s) over the other tokens of its image, one after the other."""
    result = []
    for images in zip(student, teacher, strict=True):
        s, t = (unit(image.reshape(-1, image.shape[-1])) for image in images)
        rows = []
        for i in range(len(s)):
            others = [j for j in range(len(s)) if j != i]
            log_s, log_t = (log_softmax(np.array([x[i] @ x[j] for j in others]) / temperature) for x in (s, t))
            rows.append(sum(np.exp(b) * (b - a) for a, b in zip(log_s, log_t, strict=True)))
        result.append(np.mean(rows))
    return np.array(result)


def several(student, teacher):
    return sum(reference(*pair) for pair in zip(student, teacher, strict=True))


def case(name, student, teacher, **options):
    loss, expected = (functools.partial(function, **options) for function in (tokens_loss, reference))
    return Case(name, loss, expected, random(*student, seed=1), (random(*teacher, seed=2),))


CASES = [
    case("published", (3, 4, 4, 24), (3, 4, 4, 24)),
    case("unequal widths, no square", (2, 2, 5, 7), (2, 2, 5, 12)),
    case("a high temperature", (2, 3, 3, 6), (2, 3, 3, 6), temperature=50.0),
    Case(
        "two maps",
        tokens_loss,
        several,
        [random(2, 3, 3, 6, seed=1), random(2, 2, 2, 8, seed=2)],
        ([random(2, 3, 3, 5, seed=3), random(2, 2, 2, 8, seed=4)],),
    ),
]


def bound(student, teacher):
    method = Tokens()
    sides = (("s", student), ("t", teacher))
    method.bind(*({"stages[-1]": TapSpec(name, (None, *shape))} for name, shape in sides))
    return method


def test_the_loss_is_zero_for_equal_similarities():
    maps = random(2, 3, 3, 4)
    rotated = maps @ np.linalg.qr(random(4, 4, seed=1))[0]  # all turned together
    np.testing.assert_allclose(tokens_loss(maps, 3 * rotated), [0, 0], atol=1e-6)
    np.testing.assert_allclose(tokens_loss(random(2, 1, 2, 4), random(2, 1, 2, 4, seed=1)), [0, 0])  # one other


@pytest.mark.parametrize("sizes", [((4, 4), (7, 5)), ((8, 6), (3, 4)), ((4, 4), (4, 4))])
def test_the_adapter(sizes):
    adapter = bound((*sizes[0], 3), (*sizes[1], 5)).adapters[0]
    assert adapter.output_shape == (None, *sizes[1], 5)
    assert [tuple(variable.shape) for variable in adapter.variables] == [(3, 5), (5,)]


def test_the_combined_loss_trains_two_linear_layers_without_labels():
    methods = [Queue(size=24), Tokens(student_tap="stages[1]", teacher_tap="stages[0]")]
    distiller = Distiller(student=convolutional(4), teacher=convolutional(6), methods=methods, hard_weight=0)
    distiller.compile(optimizer=keras.optimizers.Adam(global_clipnorm=1.0), jit_compile=True)
    variables = [variable for method in methods for variable in method.trainable_variables]
    before = values(variables)
    history = distiller.fit(examples(64)[0], epochs=15, batch_size=32, verbose=0).history
    assert history["tokens"][-1] < history["tokens"][0]
    assert len(before) == 4 and all(np.abs(a - b).max() > 0 for a, b in zip(before, values(variables), strict=True))


def test_invalid_temperatures_and_maps_raise():
    with pytest.raises(ValueError, match="temperature"):
        Tokens(temperature=0)
    with pytest.raises(ValueError, match=r"(?s)known size.*'s' \(None, 4, 4, 3\).*'t' \(None, None, None, 5\)"):
        bound((4, 4, 3), (None, None, 5))
    with pytest.raises(ValueError, match=r"(?s)two positions.*\(None, 1, 1, 5\).*earlier"):
        bound((4, 4, 3), (1, 1, 5))
    with pytest.raises(ValueError, match=r"(?s)maps.*\(None, 10\).*stages"):
        bound((10,), (4, 4, 5))
