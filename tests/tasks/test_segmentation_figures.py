"""Masks on images for the report."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from kd_keras.tasks.segmentation.figures import (
    DIFFERENCES,
    choose_examples,
    class_colors,
    color_mask,
    difference_map,
    show_masks,
)

RANDOM = np.random.default_rng(0)
TRUTH = RANDOM.integers(-1, 3, (4, 6, 8))
IMAGES = RANDOM.integers(0, 256, (4, 6, 8, 3)).astype("uint8")


def test_every_class_has_its_own_color():
    colors = class_colors(150)
    assert len({tuple(color) for color in colors.tolist()}) == 150 and (colors.sum(1) > 0).all()


def test_a_mask_is_blended_and_ignored_pixels_stay_gray():
    view = color_mask(IMAGES[0], TRUTH[0], 3, strength=0.5)
    for place in np.ndindex(6, 8):
        gray = IMAGES[0][place].astype(float).mean()
        color = class_colors(3)[TRUTH[0][place]] if TRUTH[0][place] >= 0 else np.full(3, gray)
        np.testing.assert_allclose(view[place], (gray + color) / 2, atol=0.51)
    with pytest.raises(ValueError, match="size"):
        color_mask(IMAGES[0], TRUTH[0][:3], 3)


def test_the_difference_says_who_is_correct():
    teacher, student = RANDOM.integers(0, 3, (2, 6, 8))
    view, colors = difference_map(TRUTH[0], teacher, student), [*DIFFERENCES.values()]
    for place in np.ndindex(6, 8):
        correct = teacher[place] == TRUTH[0][place], student[place] == TRUTH[0][place]
        expected = 4 if TRUTH[0][place] < 0 else {(1, 1): 0, (1, 0): 1, (0, 1): 2, (0, 0): 3}[correct]
        assert tuple(view[place]) == colors[expected]


def test_the_section_shows_all_masks():
    maps = {name: RANDOM.integers(0, 3, TRUTH.shape) for name in ("teacher", "baseline", "student")}
    section = show_masks(IMAGES, TRUTH, maps, ["sky", "road", "car", "lake"])
    (key,) = section.plots
    assert all(name in key.svg for name in ("sky", "road", "car")) and "lake" not in key.svg
    assert len(section.cards) == 4 and "blue where only student is correct" in section.intro
    names = [name for _, name in section.cards[2].images]
    assert names == ["image", "truth", "teacher", "baseline", "student", "difference"]
    shown = section.cards[2].images[3][0].split(",")[1]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown))))
    np.testing.assert_array_equal(pixels, color_mask(IMAGES[2], maps["baseline"][2], 4))
    valid = TRUTH[2] >= 0
    share = 100 * (maps["student"][2] == TRUTH[2])[valid].mean()
    assert dict(section.cards[2].lines)["student"] == f"{share:.1f} % of the pixels"
    with pytest.raises(ValueError, match="a teacher and a student"):
        show_masks(IMAGES, TRUTH, {"teacher": TRUTH}, ["sky"])


def test_examples_range_from_the_worst_to_the_best():
    shares = [0.5, 0.9, 0.1, 0.7, 0.3]
    confusion = np.array([[[10 * share, 10 * (1 - share)], [0, 0]] for share in shares])
    reference = np.array([[[10, 0], [0, 0]]] * 5)
    assert choose_examples(confusion, reference, 3) == [2, 0, 1] and len(choose_examples(confusion, reference)) == 5
