"""Dense against NumPy in float64, and its resize against bilinear interpolation by hand."""

import functools

import keras
import numpy as np
import pytest

from kd_keras import Distiller
from kd_keras.contracts import TapSpec
from kd_keras.methods import Dense, dense_loss
from tests.support.networks import CLASSES, SHAPE, compiled, convolutional, examples, values
from tests.support.reference import Case, random

pytestmark = pytest.mark.filterwarnings("ignore:Gradients do not exist")


def reference(student, teacher):
    """The mean square of the differences, element by element."""
    return np.array(
        [
            np.mean([(a - b) ** 2 for a, b in zip(s.ravel(), t.ravel(), strict=True)])
            for s, t in zip(student, teacher, strict=True)
        ]
    )


def cosine_reference(student, teacher):
    """Position by position."""
    losses = np.zeros(len(student))
    for b, i, j in np.ndindex(student.shape[:3]):
        s, t = student[b, i, j], teacher[b, i, j]
        losses[b] += (1 - s @ t / np.linalg.norm(s) / np.linalg.norm(t)) / (student.shape[1] * student.shape[2])
    return losses


def smooth_l1_reference(student, teacher):
    def term(d):
        return d**2 / 2 if abs(d) < 1 else abs(d) - 0.5

    return np.array([np.mean([term(d) for d in (s - t).ravel()]) for s, t in zip(student, teacher, strict=True)])


def several(student, teacher):
    return sum(reference(*pair) for pair in zip(student, teacher, strict=True))


def token_reference(student, teacher):
    return cosine_reference(student[:, :, None], teacher[:, :, None])


FORMS = {"cosine": cosine_reference, "smooth_l1": smooth_l1_reference}
CASES = [
    Case(
        form,
        functools.partial(dense_loss, form=form),
        expected,
        random(4, 5, 3, 6, seed=1),
        (random(4, 5, 3, 6, seed=2),),
        step=1e-6,
    )
    for form, expected in FORMS.items()
]
CASES += [
    Case(
        "cosine of tokens",
        functools.partial(dense_loss, form="cosine"),
        token_reference,
        random(4, 7, 6, seed=1),
        (random(4, 7, 6, seed=2),),
        step=1e-6,
    ),
    Case("one map", dense_loss, reference, random(4, 5, 3, 6, seed=1), (random(4, 5, 3, 6, seed=2),)),
    Case(
        "two maps",
        dense_loss,
        several,
        [random(3, 4, 4, 2, seed=1), random(3, 2, 2, 7, seed=2)],
        ([random(3, 4, 4, 2, seed=3), random(3, 2, 2, 7, seed=4)],),
    ),
]


def bound(student, teacher):
    method = Dense()
    sides = (("s", student), ("t", teacher))
    method.bind(*({"stages[-1]": TapSpec(name, (None, *shape))} for name, shape in sides))
    return method


def test_the_loss_is_zero_at_the_teacher_and_needs_equal_numbers_of_maps():
    x = random(2, 3, 3, 4)
    np.testing.assert_array_equal(dense_loss(x, x), [0, 0])
    with pytest.raises(ValueError):
        dense_loss([x], [x, x])


def bilinear(maps, size):
    """Each output pixel from its four neighbors, with the pixels' centers at halves."""
    height, width = maps.shape[1:3]
    out = np.zeros((len(maps), *size, maps.shape[-1]))
    for i in range(size[0]):
        for j in range(size[1]):
            y, x = ((k + 0.5) * old / new - 0.5 for k, old, new in ((i, height, size[0]), (j, width, size[1])))
            top, left = int(np.floor(y)), int(np.floor(x))
            for row, by in ((top, top + 1 - y), (top + 1, y - top)):
                for column, along in ((left, left + 1 - x), (left + 1, x - left)):
                    inside = maps[:, min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
                    out[:, i, j] += by * along * inside
    return out


@pytest.mark.parametrize("sizes", [((4, 4), (7, 5)), ((8, 6), (3, 4)), ((4, 4), (4, 4)), ((1, 1), (2, 3))])
def test_the_adapter(sizes):
    method = bound((*sizes[0], 3), (*sizes[1], 5))
    adapter = method.adapters[0]
    kernel, bias = (np.array(variable) for variable in adapter.trainable_variables)
    assert adapter.output_shape == (None, *sizes[1], 5) and kernel.shape == (3, 5)
    assert 0 < np.abs(bias).max() <= 3**-0.5
    maps = random(2, *sizes[0], 3)
    np.testing.assert_allclose(adapter(maps), bilinear(maps @ kernel + bias, sizes[1]), atol=1e-6)


def test_the_biases_start_as_published():
    kernel, bias = bound((4, 4, 16), (4, 4, 512)).adapters[0].trainable_variables
    assert 0.9 / 4 < np.abs(bias).max() <= 1 / 4  # PyTorch's default: the published heads initialize the kernel alone
    assert np.std(kernel) == pytest.approx(0.02, rel=0.2)


def test_a_student_of_any_size():
    method = bound((None, None, 3), (4, 4, 5))
    assert method.adapters[0](random(2, 7, 9, 3)).shape == (2, 4, 4, 5)


def test_the_adapter_trains_on_images_without_labels_with_xla():
    from kd_keras import Distiller

    method = Dense(student_tap="stages[1]", teacher_tap="stages[0]")  # 4x4 to 8x8
    distiller = Distiller(student=convolutional(4), teacher=convolutional(6), methods=[method], hard_weight=0)
    distiller.compile(optimizer="adam", jit_compile=True)
    before = values(method.trainable_variables)
    history = distiller.fit(examples()[0], epochs=5, verbose=0).history
    assert history["dense"][-1] < history["dense"][0]
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, values(method.trainable_variables), strict=True))


def test_maps_without_a_known_size_and_vectors_raise():
    with pytest.raises(
        ValueError, match=r"(?s)known size.*'s' \(None, 4, 4, 3\).*'t' \(None, None, None, 5\).*Build the teacher"
    ):
        bound((4, 4, 3), (None, None, 5))
    with pytest.raises(ValueError, match=r"(?s)maps.*\(None, 10\).*stages"):
        bound((10,), (4, 4, 5))


def tokens_of_plain_layers(width, patch):
    """Two blocks that act on the tokens of an image."""
    keras.utils.set_random_seed(width)
    inputs = keras.Input(SHAPE)
    x = keras.layers.Conv2D(width, patch, strides=patch)(inputs)
    x = keras.layers.Reshape((-1, width))(x)
    for number in (1, 2):
        x = keras.layers.Dense(width, "gelu", name=f"block{number}")(keras.layers.LayerNormalization()(x))
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(x))


@pytest.mark.parametrize("form", ["mean_square", *FORMS])
def test_blocks_of_transformers_are_compared_token_by_token(form):
    student, teacher = tokens_of_plain_layers(6, patch=4), tokens_of_plain_layers(9, patch=4)
    method = Dense(form=form, student_tap="block1", teacher_tap="block2")
    distiller = compiled(Distiller(student=student, teacher=teacher, methods=[method], hard_weight=0))
    history = distiller.fit(*examples(), epochs=3, verbose=0).history
    assert history["dense"][-1] < history["dense"][0]
    (adapter,) = method.adapters
    assert adapter.input_shape == (None, 4, 6) and adapter.output_shape == (None, 4, 9)


def test_tokens_of_another_number_are_refused():
    student, teacher = tokens_of_plain_layers(6, patch=4), tokens_of_plain_layers(9, patch=2)
    method = Dense(student_tap="block1", teacher_tap="block1")
    with pytest.raises(ValueError, match="Expected maps"):
        compiled(Distiller(student=student, teacher=teacher, methods=[method], hard_weight=0)).fit(*examples())
