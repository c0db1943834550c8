"""MGD against NumPy in float64, and its masks."""

import keras
import numpy as np
import pytest

from kd_keras import Distiller
from kd_keras.contracts import TapSpec
from kd_keras.methods import MGD, mgd_loss
from kd_keras.networks.specs import Specs
from tests.support.networks import compiled, convolutional, examples, same, values
from tests.support.reference import Case, random

OPTIONS = {"MGD": {"mask_ratio": 0.0}}  # each replica draws masks for its own examples, so one and two would differ


def reference(student, teacher):
    """The mean of squares, element by element."""
    losses = np.zeros(len(student[0]))
    for student_map, teacher_map in zip(student, teacher, strict=True):
        for place in np.ndindex(student_map.shape):
            losses[place[0]] += (student_map[place] - teacher_map[place]) ** 2 / student_map[0].size
    return losses


def maps(seed, *shapes):
    return [random(*shape, seed=seed + i) for i, shape in enumerate(shapes)]


SHAPES = (5, 4, 3, 2), (5, 2, 2, 7)
CASES = [Case(f"{n} maps", mgd_loss, reference, maps(0, *SHAPES[:n]), (maps(10, *SHAPES[:n]),)) for n in (1, 2)]


def bound(student=(8, 8, 4), teacher=(8, 8, 6), **options):
    method = MGD(student_tap="a", teacher_tap="b", **options)
    method.bind(Specs({"a": TapSpec("s", (None, *student))}), Specs({"b": TapSpec("t", (None, *teacher))}))
    return method


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.65])
def test_the_mask_covers_the_ratio_and_changes(ratio):
    method = MGD(mask_ratio=ratio, seed=1)
    first, second = (np.asarray(method.draw_mask(np.zeros((50, 16, 16, 3), "float32"))) for _ in range(2))
    assert first.shape == (50, 16, 16, 1) and set(np.unique(first)) <= {0.0, 1.0}
    assert 1 - first.mean() == pytest.approx(ratio, abs=0.02)  # of 12800 positions
    assert (first != second).any() == (ratio > 0)
    assert len({mask.tobytes() for mask in first}) == (50 if ratio else 1)  # each example has its own


@pytest.mark.parametrize("options", [{"jit_compile": True}, {"jit_compile": False}, {"run_eagerly": True}])
def test_the_mask_changes_from_step_to_step_and_so_does_the_loss(options):
    method = MGD(seed=1)
    distiller = Distiller(student=convolutional(4), teacher=convolutional(6), methods=[method], hard_weight=0)
    compiled(distiller, optimizer=keras.optimizers.SGD(0.0), **options)  # the networks stand still
    losses = distiller.fit(*examples(), epochs=3, batch_size=32, shuffle=False, verbose=0).history["mgd"]
    assert len(set(losses)) == 3
    assert np.asarray(method.generator.state).tolist() == [1, 3]


def test_masked_positions_reach_the_generator_as_zeros():
    method = bound(teacher=(8, 8, 4), mask_ratio=0.5, seed=7)
    seen = []
    method.map_generators = [lambda x, training: seen.append(np.asarray(x)) or x]
    student_maps = 1 + np.abs(random(2, 8, 8, 4, seed=1))
    method({"a": student_maps}, {"b": student_maps}, None, None)
    expected = MGD(mask_ratio=0.5, seed=7).draw_mask(student_maps)
    np.testing.assert_array_equal(seen[0], student_maps * np.asarray(expected))


def test_the_adapter_and_the_generator():
    shapes = [tuple(variable.shape) for variable in bound().trainable_variables]
    assert shapes == [(1, 1, 4, 6), (6,), (3, 3, 6, 6), (6,), (3, 3, 6, 6), (6,)]
    assert len(bound(teacher=(8, 8, 4)).trainable_variables) == 4  # as wide: no aligner


@pytest.mark.parametrize("student, teacher", [((8, 8, 4), (4, 4, 6)), ((4, 4, 4), (8, 8, 6))])
def test_the_larger_map_is_pooled(student, teacher):
    method = bound(student, teacher)
    assert method({"a": random(2, *student, seed=1)}, {"b": random(2, *teacher, seed=2)}, None, None).shape == (2,)


def test_a_resumed_run_draws_the_next_mask(tmp_path):
    x, y = examples()
    distiller = compiled(Distiller(student=convolutional(4), teacher=convolutional(6), methods=[MGD()]))
    before = values(distiller.methods[0].trainable_variables)
    distiller.fit(x, y, verbose=0)
    assert not any(
        same([a], [b]) for a, b in zip(before, values(distiller.methods[0].trainable_variables), strict=True)
    )
    distiller.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras")
    maps = np.zeros((2, 4, 4, 8), "float32")
    np.testing.assert_array_equal(distiller.methods[0].draw_mask(maps), again.methods[0].draw_mask(maps))


@pytest.mark.parametrize(
    "options, error",
    [({"mask_ratio": 1.0}, ValueError), ({"mask_ratio": -0.1}, ValueError), ({"seed": 1.5}, TypeError)],
)
def test_invalid_arguments_raise(options, error):
    with pytest.raises(error, match=next(iter(options))):
        MGD(**options)
