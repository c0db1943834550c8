"""Views and mixed batches against NumPy, and repeated from the same seed."""

import numpy as np
import pytest
import tensorflow as tf

from kd_keras.data import augment, rand_augment
from kd_keras.data.augment import Augmentation

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.integers(0, 256, (12, 10, 3)).astype(np.uint8)
VIEWS = {
    "pad_crop_flip": augment.pad_crop_flip,
    "shift": augment.shift,
    "random_resized_crop": lambda image, seed: augment.random_resized_crop(image, seed, (12, 10)),
    "rand_augment": rand_augment.rand_augment,
}


def seeds(count):
    return [(7, number) for number in range(count)]


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("image", [IMAGE, (IMAGE / 255).astype(np.float32)], ids=["uint8", "float32"])
def test_a_view_follows_from_its_seed(view, image):
    results, compiled = {}, tf.function(view)
    for seed in seeds(8):
        tf.random.set_seed(seed[1])
        one = view(tf.constant(image), tf.constant(seed)).numpy()
        tf.random.set_seed(99)
        again = compiled(tf.constant(image), tf.constant(seed)).numpy()
        assert one.dtype == image.dtype and one.shape == image.shape
        assert one.min() >= 0 and one.max() <= (255 if image.dtype == np.uint8 else 1)
        np.testing.assert_allclose(one.astype(float), again, atol=1e-6 if image.dtype != np.uint8 else 1)
        np.testing.assert_array_equal(one, view(tf.constant(image), tf.constant(seed)).numpy())
        results[one.tobytes()] = seed
    assert len(results) >= 6


def crops(image, pad):
    """Every crop of the padded image by its corner, in plain slicing."""
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    height, width = image.shape[:2]
    return {
        padded[top : top + height, left : left + width].tobytes(): (top, left)
        for top in range(2 * pad + 1)
        for left in range(2 * pad + 1)
    }


def test_pad_crop_flip_is_a_crop_of_the_padded_image_or_its_flip():
    plain, places = crops(IMAGE, 2), []
    for seed in seeds(400):
        view = augment.pad_crop_flip(tf.constant(IMAGE), seed, pad=2).numpy()
        is_flipped = view.tobytes() not in plain
        places.append((plain[view[:, ::-1].tobytes() if is_flipped else view.tobytes()], is_flipped))
    corners, counts = np.unique([corner for corner, _ in places], axis=0, return_counts=True)
    assert len(corners) == 25 and ((counts - 16) ** 2 / 16).sum() < 52  # chi square, 24 degrees, p = 0.001
    assert 160 < sum(is_flipped for _, is_flipped in places) < 240
    for axis in (0, 1):  # flips do not depend on the position
        assert 0.35 < np.mean([is_flipped for corner, is_flipped in places if corner[axis] < 2]) < 0.65


def test_shift_moves_without_flipping():
    plain = crops(IMAGE, 1)
    corners = {plain[augment.shift(tf.constant(IMAGE), seed, pixels=1).numpy().tobytes()] for seed in seeds(120)}
    assert len(corners) == 9


def test_resized_crop_without_a_change_of_size_is_a_slice():
    square = RANDOM.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    parts = {square[top : top + 8, left : left + 8].tobytes() for top in range(9) for left in range(9)}
    seen = set()
    for seed in seeds(40):
        view = augment.random_resized_crop(square, seed, (8, 8), area=(0.25, 0.25), ratio=(1, 1), flip=False)
        assert view.numpy().tobytes() in parts
        seen.add(view.numpy().tobytes())
    assert len(seen) > 20


def test_resized_crop_stays_within_its_area_and_ratio():
    rows, columns = np.meshgrid(np.arange(64.0), np.arange(64.0), indexing="ij")
    ramp = tf.constant(np.stack([rows, columns], -1) / 64, tf.float32)  # a crop's extent can be read off its pixels
    for seed in seeds(40):
        view = augment.random_resized_crop(ramp, seed, (64, 64), area=(0.1, 0.5), flip=False).numpy()
        height, width = ((view[..., axis].max() - view[..., axis].min()) * 64 + 1 for axis in (0, 1))
        assert 0.08 < height * width / 64**2 < 0.55 and 0.7 < width / height < 1.4


def test_rand_augment_at_magnitude_0_changes_only_contrast_and_histogram():
    image = tf.constant(IMAGE)
    plain = [IMAGE.tobytes(), rand_augment.equalize(image / 255, 0.0), rand_augment.auto_contrast(image / 255, 0.0)]
    same = sum(
        rand_augment.rand_augment(image, seed, layers=1, magnitude=0).numpy().tobytes() == plain[0]
        for seed in seeds(100)
    )
    assert same >= 70  # 12 of 14 operations change nothing then; solarize at threshold 1 keeps what is below


GRAY = RANDOM.uniform(0, 1, (20, 20, 1)).astype(np.float32)
COLOR = RANDOM.uniform(0, 1, (20, 20, 3)).astype(np.float32)
BITS = (RANDOM.integers(0, 256, (20, 20, 3)) / 255).astype(np.float32)


def moved(image, rows, columns):
    """The image moved up by `rows` and left by `columns`, filled with zeros."""
    result = np.zeros_like(image)
    height, width = image.shape[:2]
    result[max(0, -rows) : height - max(0, rows), max(0, -columns) : width - max(0, columns)] = image[
        max(0, rows) : height - max(0, -rows), max(0, columns) : width - max(0, -columns)
    ]
    return result


def sharpened(image, factor):
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), "edge")
    weight = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    blurred = sum(weight[i, j] * padded[i : i + 20, j : j + 20] for i in range(3) for j in range(3))
    return blurred + factor * (image - blurred)


def equalized(image):
    result = np.empty_like(image)
    for channel in range(3):
        values = np.round(image[..., channel] * 255).astype(int)
        below = np.array([(values <= value).sum() for value in range(256)])
        lowest = below[values.min()]
        result[..., channel] = ((below - lowest) / (values.size - lowest))[values]
    return result


def colored(image, factor):
    gray = image @ np.array([0.2989, 0.587, 0.114])
    return gray[..., None] * (1 - factor) + factor * image


@pytest.mark.parametrize(
    "operation, image, level, expected",
    [
        (rand_augment.identity, COLOR, 0.5, COLOR),
        (rand_augment.translate_x, COLOR, 1 / 3, moved(COLOR, 0, 3)),  # 0.45 * 20 / 3 = 3 pixels
        (rand_augment.translate_x, COLOR, -1 / 3, moved(COLOR, 0, -3)),
        (rand_augment.translate_y, COLOR, 1 / 3, moved(COLOR, 3, 0)),
        (rand_augment.rotate, COLOR, 3.0, np.rot90(COLOR)),  # three times 30 degrees
        (rand_augment.rotate, COLOR, -6.0, COLOR[::-1, ::-1]),
        (rand_augment.solarize, COLOR, -0.4, np.where(COLOR < 0.6, COLOR, 1 - COLOR)),
        (rand_augment.posterize, BITS, 0.5, (np.round(BITS * 255).astype(np.uint8) & 0b11111100) / 255),
        (rand_augment.brightness, COLOR, -0.5, COLOR * 0.55),
        (rand_augment.contrast, GRAY, 0.5, GRAY.mean() + 1.45 * (GRAY - GRAY.mean())),
        (rand_augment.color, COLOR, -1.0, colored(COLOR, 0.1)),
        (rand_augment.color, GRAY, -1.0, GRAY),
        (rand_augment.sharpness, COLOR, 0.5, sharpened(COLOR, 1.45)),
        (rand_augment.auto_contrast, GRAY, 1.0, (GRAY - GRAY.min()) / (GRAY.max() - GRAY.min())),
        (rand_augment.auto_contrast, GRAY * 0 + 0.3, 1.0, GRAY * 0 + 0.3),
        (rand_augment.equalize, BITS, 1.0, equalized(BITS)),
        (rand_augment.equalize, BITS * 0 + 0.3, 1.0, BITS * 0 + 0.3),
    ],
)
def test_operations(operation, image, level, expected):
    result = operation(tf.constant(image), tf.constant(level)).numpy()
    np.testing.assert_allclose(result, expected, atol=2e-4)


def test_shear_moves_each_row_by_its_distance_from_the_middle():
    image = np.zeros((21, 21, 1), np.float32)
    image[:, 10] = 1
    sheared = rand_augment.shear_x(tf.constant(image), tf.constant(1.0)).numpy()[..., 0]
    centers = (sheared * np.arange(21)).sum(1) / sheared.sum(1)
    np.testing.assert_allclose(centers, 10 - 0.3 * (np.arange(21) - 10), atol=1e-4)
    turned = rand_augment.shear_y(tf.constant(image.transpose(1, 0, 2)), tf.constant(1.0)).numpy()[..., 0]
    np.testing.assert_allclose(turned, sheared.T, atol=1e-5)


def batch(count, size=(6, 5, 2)):
    return RANDOM.uniform(0, 1, (count, *size)).astype(np.float32), np.eye(count, dtype=np.float32)


def test_mixup_blends_image_and_label_with_one_ratio():
    images, labels = batch(6)
    mixed, soft = (value.numpy() for value in augment.mixup(images, labels, (3, 4), alpha=0.7))
    ratio = np.diag(soft)
    assert len(set(ratio.tolist())) == 6
    for one in range(6):
        partner = 5 - one
        expected = np.zeros(6)
        expected[one], expected[partner] = ratio[one], 1 - ratio[one]
        np.testing.assert_allclose(soft[one], expected, atol=1e-6)
        np.testing.assert_allclose(mixed[one], ratio[one] * images[one] + (1 - ratio[one]) * images[partner], atol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_blending_ratios_are_beta_distributed(alpha):
    count = 20000
    images = np.zeros((count, 1, 1, 1), np.float32)
    images[: count // 2] = 1  # partners are in the other half: a mixed image has the value of its ratio
    mixed = augment.mixup(images, None, (1, 2), alpha)[0].numpy()[: count // 2, 0, 0, 0]
    assert mixed.min() >= 0 and mixed.max() <= 1
    assert mixed.mean() == pytest.approx(0.5, abs=0.02)
    assert mixed.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)  # the variance of Beta(alpha, alpha)


def test_cutmix_inserts_a_box_of_the_partner_and_labels_by_its_area():
    boxes, clipped = [], 0
    for seed in seeds(20):
        images, labels = batch(4, (9, 11, 1))
        mixed, soft = (value.numpy() for value in augment.cutmix(images, labels, seed, alpha=1.0))
        for one in range(4):
            foreign = (mixed[one] == images[3 - one])[..., 0]
            np.testing.assert_array_equal(mixed[one], np.where(foreign[..., None], images[3 - one], images[one]))
            rows, columns = foreign.any(1), foreign.any(0)
            np.testing.assert_array_equal(foreign, rows[:, None] & columns[None])  # one rectangle
            assert soft[one, one] == pytest.approx(1 - foreign.mean(), abs=1e-6)
            assert soft[one, 3 - one] == pytest.approx(foreign.mean(), abs=1e-6)
            boxes.append(foreign.mean())
            clipped += rows[[0, -1]].any() or columns[[0, -1]].any()
    assert len(set(boxes)) > 20 and clipped > 10 and max(boxes) > 0.4


@pytest.mark.parametrize("function", [augment.mixup, augment.cutmix])
def test_mixing_follows_from_its_seed_and_labels_may_be_missing(function):
    images, labels = batch(5)
    first, soft = function(images, labels, (1, 2), 1.0)
    again, _ = function(images, labels, (1, 2), 1.0)
    without_labels, no_labels = function(images, None, (1, 2), 1.0)
    other, _ = function(images, labels, (1, 3), 1.0)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, without_labels)
    assert no_labels is None and np.abs(first - other).max() > 0.01
    np.testing.assert_allclose(first[2], images[2], atol=1e-6)  # the third of five images is its own partner
    np.testing.assert_allclose(soft.numpy().sum(1), 1, atol=1e-6)


def test_a_batch_takes_mixup_or_cutmix_at_random():
    images, labels = batch(4)
    augmentation, kinds = Augmentation(mixup=1.0, cutmix=1.0), []
    for seed in seeds(60):
        mixed, _ = augmentation.mix(images, labels, tf.constant(seed))
        whole = (mixed.numpy() == images) | (mixed.numpy() == images[::-1])
        kinds.append(bool(whole.all()))  # with cutmix, each pixel is that of one of the two images
        np.testing.assert_array_equal(mixed, augmentation.mix(images, None, tf.constant(seed))[0])
    assert 15 < sum(kinds) < 45


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        Augmentation(flip=True),
        Augmentation(crop=2, flip=True),
        Augmentation(shift=1),
        Augmentation(resized_crop=True, flip=True),
        Augmentation(shift=1, rand_augment=(2, 5)),
    ],
    ids=str,
)
def test_an_augmentation_keeps_shape_and_type(augmentation):
    views = [augmentation.view(tf.constant(IMAGE), tf.constant(seed)).numpy() for seed in seeds(12)]
    assert all(view.shape == IMAGE.shape and view.dtype == np.uint8 for view in views)
    assert (len({view.tobytes() for view in views}) > 1) == augmentation.changes_images


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"crop": -1}, "crop must be a whole number of pixels, 0 for none, but received -1"),
        ({"shift": 1.5}, "shift must be a whole number of pixels.*1.5"),
        ({"mixup": -0.1}, "mixup must be a finite alpha.*-0.1"),
        ({"cutmix": float("nan")}, "cutmix must be a finite alpha.*nan"),
        (
            {"crop": 4, "resized_crop": True},
            "one of crop, shift, resized_crop and scale is.*received crop and resized_crop",
        ),
        ({"rand_augment": (0, 9)}, "rand_augment must be .layers, magnitude., layers from 1.*0, 9"),
        ({"rand_augment": (2, 11)}, "magnitude from 0 to 10.*2, 11"),
        ({"rand_augment": 2}, "such as .2, 9., but received 2"),
    ],
)
def test_invalid_fields_are_rejected(fields, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**fields)
