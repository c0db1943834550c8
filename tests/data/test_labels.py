"""How labels follow views: boxes against pixels that are painted into the image, and against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from kd_keras import data
from kd_keras.contracts import INDEX, INPUTS
from kd_keras.data import augment
from kd_keras.data.augment import Augmentation
from kd_keras.data.base import Source
from kd_keras.data.labels import Window, boxes_in_window, label_in_window, whole_image
from kd_keras.detection.boxes import NO_OBJECT

SIZE = (24, 32)
BOXES = np.array([[6, 8, 18, 16], [3, 20, 9, 28], [0, 0, 4, 6]]) / np.array([24, 32, 24, 32])
LABEL = {
    "boxes": np.concatenate([BOXES, np.zeros((2, 4))]).astype("float32"),
    "classes": np.array([1, 0, 2, -1, -1], np.int64),
}


def painted(size=SIZE):
    """An image with one channel for each box, white inside of the box."""
    image = np.zeros((*size, len(BOXES)), np.uint8)
    for channel, box in enumerate(BOXES):
        y0, x0, y1, x1 = (box * np.array([*size, *size])).round().astype(int)
        image[y0:y1, x0:x1, channel] = 255
    return tf.constant(image)


def label():
    return {key: tf.constant(value) for key, value in LABEL.items()}


def extent(channel):
    """The box of the pixels above one half, as fractions, and their number."""
    rows, columns = np.nonzero(channel > 127)
    if not len(rows):
        return None
    height, width = channel.shape
    edges = (rows.min() / height, columns.min() / width, (rows.max() + 1) / height, (columns.max() + 1) / width)
    return np.array(edges), len(rows)


@pytest.mark.parametrize(
    "augmentation, tolerance",
    [
        (Augmentation(flip=True), 1e-6),
        (Augmentation(crop=6, flip=True), 1e-6),
        (Augmentation(shift=5), 1e-6),
        (Augmentation(resized_crop=True, flip=True), 1.51),
    ],
    ids=["flip", "crop", "shift", "resized crop"],
)
def test_boxes_are_where_their_pixels_are(augmentation, tolerance):
    image, seen, dropped = painted(), 0, 0
    view_with_label = tf.function(augmentation.view_with_label)
    for number in range(60):
        seed = tf.constant([3, number])
        view, moved = view_with_label(image, label(), seed)
        np.testing.assert_array_equal(view, augmentation.view(image, seed))
        for channel in range(len(BOXES)):
            found = extent(view.numpy()[..., channel])
            is_object = moved["classes"][channel] != NO_OBJECT
            assert int(moved["classes"][channel]) in (LABEL["classes"][channel], NO_OBJECT)
            if is_object:
                # A resized edge is blurred over about a pixel of the view.
                limits = tolerance / np.array([*SIZE, *SIZE]) if tolerance > 1 else tolerance
                assert (np.abs(moved["boxes"][channel].numpy() - found[0]) <= limits).all()
                seen += 1
            elif tolerance < 1:
                pixels = np.prod(BOXES[channel][2:] * SIZE - BOXES[channel][:2] * SIZE)
                assert (0 if found is None else found[1]) < 0.25 * pixels
                dropped += 1
        assert (moved["classes"].numpy()[3:] == NO_OBJECT).all() and not moved["boxes"].numpy()[3:].any()
    assert seen > 60 and (dropped > 0 or not (augmentation.crop or augmentation.shift))


@pytest.mark.parametrize("share, stays", [(0.0, True), (0.49, True), (0.5, True), (0.51, False), (1.0, False)])
def test_an_object_stays_by_its_visible_share(share, stays):
    half = {"boxes": tf.constant([[0.0, 0.25, 1.0, 0.75]]), "classes": tf.constant([4], tf.int64)}
    window = Window(tf.constant([0.0, 0.5, 1.0, 1.0]), tf.constant(False))
    moved = boxes_in_window(half, window, visible_share=share)
    assert moved["classes"].numpy().tolist() == [4 if stays else NO_OBJECT]
    np.testing.assert_allclose(moved["boxes"], [[0, 0, 1, 0.5]] if stays else [[0, 0, 0, 0]])


def test_an_object_outside_is_dropped_even_if_no_share_is_required():
    window = Window(tf.constant([0.0, 0.8, 1.0, 1.0]), tf.constant(False))
    assert boxes_in_window(label(), window, visible_share=0.0)["classes"].numpy()[0] == NO_OBJECT


def test_a_class_stays_as_it_is():
    assert int(label_in_window(tf.constant(3), Window(tf.constant([0.2, 0.0, 1.0, 1.0]), tf.constant(True)))) == 3


def test_the_window_of_the_whole_image_changes_nothing():
    moved = boxes_in_window(label(), whole_image())
    for key, value in LABEL.items():
        np.testing.assert_array_equal(moved[key], value)


def source(count=6, boxes=None, classes=None):
    rows = np.tile(LABEL["boxes"], (count, 1, 1)) if boxes is None else boxes
    numbers = np.tile(LABEL["classes"], (count, 1)) if classes is None else classes
    columns = {
        "image": tf.tile(painted()[None], (count, 1, 1, 1)),
        "index": tf.range(count, dtype=tf.int64),
        "label": {"boxes": tf.constant(rows), "classes": tf.constant(numbers)},
    }
    return Source(tf.data.Dataset.from_tensor_slices(columns), "painted", count, 3, image_shape=(*SIZE, 3))


@pytest.mark.parametrize("cache", [True, False])
def test_batches_are_a_function_of_seed_epoch_and_index(cache):
    augmentation = Augmentation(crop=6, flip=True)
    options = {
        "batch_size": 4,
        "augmentation": augmentation,
        "seed": 5,
        "with_index": True,
        "cache": cache,
        "epochs": 2,
    }
    batches = list(data.training(source(), **options))
    assert len(batches) == 4
    for number, (x, y) in enumerate(batches):
        assert y["boxes"].shape[1:] == (5, 4) and y["classes"].shape[1:] == (5,)
        view_seed = tf.random.fold_in(tf.constant([5, 0], tf.int64), tf.constant(number // 2, tf.int64))
        for row, index in enumerate(x[INDEX]):
            seed = tf.random.fold_in(view_seed, index)
            image, moved = augmentation.view_with_label(painted(), label(), seed)
            np.testing.assert_array_equal(x[INPUTS][row], tf.cast(image, tf.float32))
            np.testing.assert_array_equal(y["boxes"][row], moved["boxes"])
            np.testing.assert_array_equal(y["classes"][row], moved["classes"])
    resumed = list(data.training(source(), **{**options, "epochs": 1}, start_epoch=1))
    for (_, y), (_, again) in zip(batches[2:], resumed, strict=True):
        np.testing.assert_array_equal(y["boxes"], again["boxes"])


def test_evaluation_resizes_images_and_keeps_boxes():
    ((images, y),) = data.evaluation(source(3), batch_size=4, image_size=(12, 16))
    assert images.shape == (3, 12, 16, 3)
    np.testing.assert_array_equal(y["boxes"], np.tile(LABEL["boxes"], (3, 1, 1)))
    np.testing.assert_allclose(extent(images.numpy()[0, ..., 0])[0], BOXES[0], atol=1e-6)


@pytest.mark.parametrize(
    "box, number, expected",
    [
        ([0.5, 0.0, 0.4, 1.0], 0, "positive height and width"),
        ([0.0, 0.0, 1.1, 1.0], 0, "0..1"),
        ([0.0, 0.0, 1.0, 1.0], 3, "0 to 2"),
        ([0.0, 0.0, 1.0, 1.0], -2, "0 to 2"),
    ],
)
def test_a_wrong_box_or_class_raises_with_its_example(box, number, expected):
    boxes, classes = np.tile(LABEL["boxes"], (2, 1, 1)), np.tile(LABEL["classes"], (2, 1))
    boxes[1, 0], classes[1, 0] = box, number
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"(?s){expected}.*painted.*at example 1"):
        list(data.evaluation(source(2, boxes, classes), batch_size=2))


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"augmentation": Augmentation(cutmix=0.2)}, "cutmix"),
        ({"augmentation": Augmentation(rand_augment=(2, 9))}, "which the boxes of painted can follow"),
        ({"one_hot": True}, "one_hot"),
    ],
)
def test_what_boxes_cannot_follow_raises(options, expected):
    with pytest.raises(ValueError, match=expected):
        data.training(source(), batch_size=2, **options)
    with pytest.raises(ValueError, match="labels are boxes"):
        source().without([1])


def test_ragged_boxes_are_rejected():
    boxed = source(2).examples
    examples = boxed.map(
        lambda example: {
            **example,
            "label": {"boxes": example["label"]["boxes"][:2], "classes": example["label"]["classes"]},
        }
    )
    with pytest.raises(ValueError, match="one N for all examples.*-1"):
        Source(examples, "ragged", 2, 3, image_shape=(*SIZE, 3))


def test_views_without_boxes_are_slices_of_the_padded_image():
    image = tf.constant(np.random.default_rng(0).integers(0, 256, (12, 10, 3)), tf.uint8)
    draws = tf.random.stateless_uniform((3,), (7, 3)).numpy()
    for function, pad, flip in ((augment.pad_crop_flip, 4, True), (augment.shift, 2, False)):
        top, left = np.floor(draws[:2] * (2 * pad + 1)).astype(int)
        view = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))[top : top + 12, left : left + 10]
        np.testing.assert_array_equal(function(image, (7, 3)), view[:, ::-1] if flip and draws[2] < 0.5 else view)
