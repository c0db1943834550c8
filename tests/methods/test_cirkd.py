"""CIRKD against NumPy in float64, and its memories."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras.contracts import Batch, Outputs, TapSpec
from kd_keras.methods import CIRKD, cirkd_loss, cirkd_memory_loss
from kd_keras.methods.cirkd import pool_valid
from kd_keras.methods.class_memory import ClassMemory, means_per_class, sample_per_class
from tests.support.reference import Case, log_softmax, random, unit

SMALL = {"pixels": 12, "regions": 4, "added": 3, "drawn_pixels": 20, "drawn_regions": 8, "seed": 0}
OPTIONS = {"CIRKD": {"classes": 5, **SMALL}}
RANDOM = np.random.default_rng(0)
VALID = RANDOM.random((3, 2, 3)) < 0.6


def kl(student, teacher):
    log_student, log_teacher = log_softmax(student), log_softmax(teacher)
    return (np.exp(log_teacher) * (log_teacher - log_student)).sum(-1)


def reference(student, teacher, valid=None, temperature=0.1):
    """A position and an image at a time."""
    valid = np.ones(student.shape[:3], bool) if valid is None else valid.astype(bool)
    out = np.zeros(valid.shape)
    for place in np.argwhere(valid):
        losses = []
        for j in range(len(student)):
            scores = [unit(maps[j][valid[j]]) @ unit(maps[tuple(place)]) / temperature for maps in (student, teacher)]
            losses.append(kl(*scores) if valid[j].any() else 0.0)
        out[tuple(place)] = np.mean(losses)
    return out


def memory_reference(student, teacher, memory, temperature=0.1, kd_temperature=1.0):
    sides = [unit(side) @ memory.T / temperature / kd_temperature for side in (student, teacher)]
    return kd_temperature**2 * kl(*sides)


ROWS = unit(random(7, 4, seed=9)).astype("float32")
CASES = [
    Case("the mini-batch", cirkd_loss, reference, random(3, 2, 3, 5), (random(3, 2, 3, 4, seed=1),), step=1e-6),
    Case(
        "the mini-batch without ignored positions",
        functools.partial(cirkd_loss, temperature=0.5),
        functools.partial(reference, temperature=0.5),
        random(3, 2, 3, 5, seed=2),
        (random(3, 2, 3, 4, seed=3), VALID.astype("int32")),
        step=1e-5,
    ),
    Case("a memory", cirkd_memory_loss, memory_reference, random(6, 4), (random(6, 4, seed=1), ROWS), step=1e-6),
    Case(
        "a memory, other temperatures",
        functools.partial(cirkd_memory_loss, temperature=0.3, kd_temperature=2.0),
        functools.partial(memory_reference, temperature=0.3, kd_temperature=2.0),
        random(3, 2, 2, 4, seed=4),
        (random(3, 2, 2, 4, seed=5), ROWS),
        step=1e-5,
    ),
]


def test_rows_that_are_not_filled_take_no_part():
    student, teacher = random(5, 4), random(5, 4, seed=1)
    is_filled = np.array([True, False, True, True, False, False, True])
    loss = cirkd_memory_loss(student, teacher, ROWS, is_filled)
    np.testing.assert_allclose(loss, cirkd_memory_loss(student, teacher, ROWS[is_filled]), rtol=1e-5)
    assert not cirkd_memory_loss(student, teacher, ROWS, ~is_filled & is_filled).numpy().any()


def test_pooling_is_the_mean_of_valid_positions():
    maps, valid = random(2, 3, 5, 4), RANDOM.random((2, 3, 5)) < 0.5
    pooled, has_valid = pool_valid(maps, valid, 2)
    assert pooled.shape == (2, 2, 3, 4)
    for b, i, j in np.ndindex(2, 2, 3):
        area = (b, slice(2 * i, 2 * i + 2), slice(2 * j, 2 * j + 2))
        cell = maps[area][valid[area]]
        assert bool(has_valid[b, i, j]) == bool(len(cell))
        np.testing.assert_allclose(pooled[b, i, j], cell.mean(0) if len(cell) else np.zeros(4), atol=1e-6)


def test_a_memory_keeps_the_last_rows_of_each_class():
    memory, kept = ClassMemory(3, 5, 2), [[], [], []]
    for step in range(6):
        rows, valid = random(3, 4, 2, seed=step), RANDOM.random((3, 4)) < 0.6
        memory.store(rows, valid)
        for k in range(3):
            kept[k] = (kept[k] + [tuple(row) for row in rows[k][valid[k]]])[-5:]
        stored = np.array(memory.rows).reshape(3, 6, 2)
        for k in range(3):
            count = int(memory.filled[k])
            assert count == len(kept[k])
            assert {tuple(row) for row in stored[k][:count]} == set(kept[k])
            assert not stored[k][-1].any()
    rows, is_filled = memory.draw(50, keras.random.SeedGenerator(0))
    for k in range(3):
        assert is_filled[50 * k] and {tuple(row) for row in rows.numpy()[50 * k : 50 * k + 50]} == set(kept[k])


def test_more_rows_than_a_memory_has_are_cut_and_empty_classes_are_not_drawn():
    memory = ClassMemory(2, 3, 1)
    memory.store(np.arange(10, dtype="float32").reshape(2, 5, 1), np.array([[1] * 5, [0] * 5], bool))
    assert np.array(memory.rows).ravel().tolist() == [0, 1, 2, 0, 0, 0, 0, 0]
    assert memory.draw(2, keras.random.SeedGenerator(0))[1].numpy().tolist() == [True, True, False, False]


def test_samples_and_means_are_those_of_the_class():
    maps, label = random(3, 4, 5, 2), RANDOM.integers(-1, 4, (3, 4, 5)).astype("int32")
    label[0][label[0] == 2] = 1  # no pixel of class 2
    rows, is_filled = sample_per_class(maps, tf.constant(label), 4, 6, keras.random.SeedGenerator(1))
    means, has_class = means_per_class(maps, tf.constant(label), 4)
    assert rows.shape == (4, 18, 2) and means.shape == (4, 3, 2)
    for k, b in np.ndindex(4, 3):
        pixels = maps[b][label[b] == k]
        part = slice(6 * b, 6 * b + 6)
        chosen = rows.numpy()[k, part][is_filled.numpy()[k, part]]
        assert len(chosen) == len({tuple(row) for row in chosen}) == min(6, len(pixels))
        assert {tuple(row) for row in chosen} <= {tuple(row) for row in pixels}
        assert bool(has_class[k, b]) == bool(len(pixels))
        np.testing.assert_allclose(means[k, b], unit(pixels.mean(0)) if len(pixels) else np.zeros(2), atol=1e-6)


def test_the_method_adds_its_terms_without_ignored_pixels_and_with_weights():
    spec = TapSpec("a", (None, 4, 4, 3))
    maps, teacher = random(3, 4, 4, 3), random(3, 4, 4, 3, seed=1)
    label = RANDOM.integers(-1, 3, (3, 8, 8)).astype("int32")
    batch = Batch(None, label, weight=np.array([1.0, 0.0, 2.0], "float32"))

    def loss(**options):
        method = CIRKD(classes=3, student_tap="a", teacher_tap="a", **{**SMALL, **options})
        method.bind({"a": spec}, {"a": spec})
        return float(method.call(Outputs({"a": maps}), Outputs({"a": teacher}), batch, None)), method

    only_batch, method = loss(pixel_weight=0, region_weight=0)
    at = label[:, 1::2, 1::2]
    pooled = [pool_valid(side, at >= 0, 2) for side in (maps, teacher)]
    valid = pooled[0][1].numpy()
    pairs = reference(*(side[0].numpy().astype("float64") for side in pooled), valid)
    assert only_batch == pytest.approx((pairs * np.array([1, 0, 2])[:, None, None]).sum() / valid.sum(), rel=1e-4)
    assert loss(pixel_weight=0.5)[0] > only_batch
    filled = np.array(method.memories[1].filled)
    np.testing.assert_array_equal(filled, [(at == k).any((1, 2)).sum() for k in range(3)])


@pytest.mark.parametrize("label", [np.array([[[0, -1, 5]]]), np.array([5, 1])], ids=["mask", "classes"])
def test_labels_beyond_the_classes_raise_before_training(label):
    with pytest.raises(ValueError, match=r"0 to 4.*classes=5.*the label 5"):
        CIRKD(classes=5, **SMALL).check_batch(Batch(None, label=label))


def test_invalid_arguments_raise():
    with pytest.raises(ValueError, match="classes"):
        CIRKD(classes=1)
    with pytest.raises(ValueError, match="temperature"):
        CIRKD(classes=3, temperature=0)
