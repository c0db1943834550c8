"""Mosaics and mixup of images with boxes: pixels and boxes agree, and both follow from the seed."""

import numpy as np
import pytest
import tensorflow as tf

from kd_keras import data
from kd_keras.data.box_mixing import mixup_boxes, mosaic

COUNT, HEIGHT, WIDTH = 6, 16, 24
SEEDS = [(seed, 0) for seed in range(8)]


def pictures():
    """Images of one rectangle each, whose brightness is 10 (class + 1), and two rows of labels."""
    random = np.random.default_rng(0)
    images, boxes = np.zeros((COUNT, HEIGHT, WIDTH, 1), "float32"), np.zeros((COUNT, 2, 4), "float32")
    for image, box, number in zip(images, boxes, range(COUNT), strict=True):
        top, left = random.integers(0, HEIGHT - 8), random.integers(0, WIDTH - 12)
        image[top : top + 8, left : left + 12] = 10 * (number + 1)
        box[0] = np.array([top, left, top + 8, left + 12]) / [HEIGHT, WIDTH, HEIGHT, WIDTH]
    classes = np.stack([np.arange(COUNT), np.full(COUNT, -1)], 1)
    return tf.constant(images), {"boxes": tf.constant(boxes), "classes": tf.constant(classes, tf.int64)}


def objects(label, number):
    """The classes and the boxes in pixels of one image."""
    classes, boxes = label["classes"][number].numpy(), label["boxes"][number].numpy()
    np.testing.assert_array_equal(boxes[classes == -1], 0)
    return list(zip(classes[classes >= 0], boxes[classes >= 0] * [HEIGHT, WIDTH, HEIGHT, WIDTH], strict=True))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_box_of_a_mosaic_is_where_its_object_is(seed):
    images, label = mosaic(*pictures(), seed, 1.0)
    assert images.shape == (COUNT, HEIGHT, WIDTH, 1) and label["boxes"].shape == (COUNT, 8, 4)
    for number, image in enumerate(images.numpy()[..., 0]):
        covered = np.zeros((HEIGHT, WIDTH), bool)
        for kind, box in objects(label, number):
            top, left, bottom, right = box
            inner = image[int(np.ceil(top + 1)) : int(bottom - 1), int(np.ceil(left + 1)) : int(right - 1)]
            np.testing.assert_allclose(inner, 10 * (kind + 1), rtol=1e-4)
            covered[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
        # What is bright outside of the boxes are objects of which less than a quarter is in the picture.
        assert (image[~covered] > 1).mean() < 0.3


def test_a_mosaic_of_the_original_scale_shows_pixels_as_they_are(monkeypatch):
    """With the scale 1, a window is a slice of the four images."""
    uniform = tf.random.stateless_uniform
    draw = lambda shape, seed, *bounds: tf.constant(1.0) if bounds else uniform(shape, seed)  # noqa: E731
    monkeypatch.setattr(tf.random, "stateless_uniform", draw)
    images, label = pictures()
    windows = mosaic(images, label, (3, 1), 1.0)[0].numpy()[..., 0]
    assert set(np.unique(windows)) <= set(range(0, 70, 10))


def test_a_share_of_the_images_becomes_mosaics():
    images, label = pictures()
    unchanged = 0
    for seed in SEEDS:
        mixed, boxes = mosaic(images, label, seed, 0.5)
        same = np.all(mixed.numpy() == images.numpy(), axis=(1, 2, 3))
        unchanged += same.sum()
        np.testing.assert_array_equal(boxes["classes"].numpy()[same][:, :2], label["classes"].numpy()[same])
        np.testing.assert_array_equal(boxes["classes"].numpy()[same][:, 2:], -1)
    assert 12 <= unchanged <= 36  # of 48
    np.testing.assert_array_equal(mosaic(images, label, (1, 1), 0.0)[0], images)


def test_mixup_blends_images_and_joins_the_objects_that_can_be_seen():
    images, label = pictures()
    for seed in SEEDS:
        mixed, boxes = mixup_boxes(images, label, seed, 1.5)
        for number in range(COUNT):
            own, partner = images[number].numpy(), images[COUNT - 1 - number].numpy()
            difference = own - partner
            ratio = np.sum((mixed[number].numpy() - partner) * difference) / np.sum(difference**2)
            np.testing.assert_allclose(mixed[number], ratio * own + (1 - ratio) * partner, atol=1e-4)
            expected = [number] * int(ratio >= 0.25) + [COUNT - 1 - number] * int(ratio <= 0.75)
            assert [kind for kind, _ in objects(boxes, number)] == expected
            assert boxes["boxes"].shape == (COUNT, 4, 4)


def source():
    images, label = pictures()
    rows = {"image": tf.cast(images, tf.uint8), "label": label, "index": tf.range(COUNT, dtype=tf.int64)}
    examples = tf.data.Dataset.from_tensor_slices(rows)
    return data.Source(
        examples, name="rectangles", size=COUNT, image_shape=(HEIGHT, WIDTH, 1), classes=COUNT, class_names=None
    )


@pytest.mark.parametrize("options", [{"mosaic": 0.5}, {"mixup": 1.5}, {"mosaic": 1.0, "mixup": 1.5, "flip": True}])
def test_a_pipeline_of_mixed_boxes_starts_at_any_step(options):
    settings = {"batch_size": 3, "augmentation": data.Augmentation(**options), "seed": 1}
    batches = list(data.training(source(), **settings, epochs=2))
    later = next(iter(data.training(source(), **settings, start_epoch=1, start_step=1, epochs=1)))
    tf.nest.map_structure(np.testing.assert_array_equal, later, batches[3])
    rows = 2 * (4 if "mosaic" in options else 1) * (2 if "mixup" in options else 1)
    assert later[1]["boxes"].shape == (3, rows, 4) and later[1]["classes"].dtype == tf.int64


def test_what_boxes_or_classes_cannot_follow_raises():
    with pytest.raises(ValueError, match="labels with boxes as they are for rectangles, but received cutmix"):
        data.training(source(), batch_size=3, augmentation=data.Augmentation(cutmix=1.0))
    black = tf.data.Dataset.range(4).map(lambda i: {"image": tf.zeros((4, 4, 1), tf.uint8), "label": i % 2, "index": i})
    black = data.Source(black, name="black", size=4, image_shape=(4, 4, 1), classes=2)
    with pytest.raises(ValueError, match="images with boxes for mosaic.*Leave mosaic out"):
        data.training(black, batch_size=2, augmentation=data.Augmentation(mosaic=0.5))
    with pytest.raises(ValueError, match="mosaic must be a share of the images from 0 to 1, but received 2"):
        data.Augmentation(mosaic=2)
