"""The pair-wise term of SKD against NumPy in float64."""

import functools

import numpy as np
import pytest

from kd_keras.contracts import TapSpec
from kd_keras.methods import SKD, skd_loss
from tests.support.reference import Case, random, unit

VALID = np.random.default_rng(0).random((3, 4, 6)) < 0.5
VALID[1, :2, :3] = False  # a patch without any
VALID[2] = False


def patches(maps, share, valid=None):
    height, width = (max(1, int(share * n)) for n in maps.shape[:2])
    for top in range(0, maps.shape[0], height):
        for left in range(0, maps.shape[1], width):
            cell = maps[top : top + height, left : left + width].reshape(-1, maps.shape[-1])
            if valid is not None:
                cell = cell[valid[top : top + height, left : left + width].ravel()]
            yield cell.max(0) if len(cell) else None


def reference(student, teacher, valid=None, patch=0.5):
    """An image and a pair of patches at a time."""
    losses = []
    for i, pair in enumerate(zip(student, teacher, strict=True)):
        sides = [list(patches(maps, patch, None if valid is None else valid[i])) for maps in pair]
        used = [p for p, feature in enumerate(sides[0]) if feature is not None]
        gaps = [
            (unit(sides[1][p]) @ unit(sides[1][q]) - unit(sides[0][p]) @ unit(sides[0][q])) ** 2
            for p in used
            for q in used
        ]
        losses.append(np.mean(gaps) if gaps else 0.0)
    return np.array(losses)


def case(name, patch, *sizes, **others):
    maps = [random(3, *size, seed=seed) for seed, size in enumerate(sizes)]
    functions = (functools.partial(function, patch=patch, **others) for function in (skd_loss, reference))
    return Case(name, *functions, maps[0], (maps[1],), step=1e-5)


CASES = [
    case("the published setting", 0.5, (4, 6, 5), (4, 6, 3)),
    case("other sizes and patches", 0.3, (7, 7, 4), (14, 14, 4)),
    case("odd sizes", 0.5, (5, 4, 3), (5, 4, 2)),
]


def test_ignored_positions_take_part_in_no_patch():
    student, teacher = random(3, 4, 6, 5, seed=4), random(3, 4, 6, 2, seed=5)
    expected = reference(student.astype("float64"), teacher.astype("float64"), VALID)
    np.testing.assert_allclose(skd_loss(student, teacher, VALID), expected, rtol=1e-5, atol=1e-7)
    assert expected[2] == 0 and expected[1] > 0
    everything = skd_loss(student, teacher, np.ones_like(VALID))
    np.testing.assert_allclose(everything, skd_loss(student, teacher), rtol=1e-6)


def test_the_loss_is_zero_at_the_teacher_whatever_its_scale():
    maps = random(2, 4, 4, 3)
    np.testing.assert_allclose(skd_loss(3 * maps, maps), np.zeros(2), atol=1e-12)


def test_maps_with_other_numbers_of_patches_raise():
    specs = [{"stages[-1]": TapSpec(name, (None, *size, 3))} for name, size in (("a", (5, 4)), ("b", (4, 4)))]
    with pytest.raises(ValueError, match=r"the same number of patches.*\(3, 2\) and \(2, 2\)"):
        SKD().bind(*specs)
    with pytest.raises(ValueError, match="patch"):
        SKD(patch=0)
