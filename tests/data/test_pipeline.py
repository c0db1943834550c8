"""Batches: every example once with its index, pixels from 0 to 255, and one view for each (seed, epoch, index)."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kd_keras import data
from kd_keras.contracts import INDEX, INPUTS
from kd_keras.data import Augmentation, Source, examples

CROP = Augmentation(crop=2, flip=True)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="module")
def digits(directory):
    return data.load("digits", "test", data_dir=directory)


@pytest.fixture(scope="module")
def arrays(digits):
    rows = list(digits.examples.as_numpy_iterator())
    return np.stack([row["image"] for row in rows]), np.array([row["label"] for row in rows])


def make_source(images, labels=None, classes=None, counted=None):
    """A source of the given images, which appends to `counted` the number of every example that is read."""
    columns = {"image": np.asarray(images, np.uint8), "index": np.arange(len(images))}
    if labels is not None:
        columns["label"] = np.asarray(labels, np.int64)
    examples = tf.data.Dataset.from_tensor_slices(columns)
    if counted is not None:

        def count(index):
            counted.append(int(index))
            return index

        examples = examples.map(
            lambda one: {
                **one,
                "index": tf.ensure_shape(tf.numpy_function(count, [one["index"]], tf.int64, stateful=True), ()),
            }
        )
    return Source(examples, "random", len(images), classes, None, tuple(columns["image"].shape[1:]))


def epoch(dataset, batches):
    """Images, labels and indices of the next `batches`."""
    read = list(itertools.islice(dataset.as_numpy_iterator(), batches))
    x, y = zip(*read, strict=True)
    return tuple(np.concatenate(part) for part in ([b[INPUTS] for b in x], y, [b[INDEX] for b in x]))


def test_evaluation_gives_every_example_once_in_order(digits, arrays):
    images, labels = arrays
    read = list(data.evaluation(digits, batch_size=128, with_index=True))
    assert [len(y) for _, y in read] == [128] * 6 + [29]
    columns = zip(*[(x[INPUTS], y, x[INDEX]) for x, y in read], strict=True)
    x, y, index = (np.concatenate(column) for column in columns)
    np.testing.assert_array_equal(x, images)  # as they are in the dataset, 0 to 255
    assert x.max() == 255
    np.testing.assert_array_equal(y, labels)
    np.testing.assert_array_equal(index, np.arange(797))
    assert x.dtype == np.float32 and y.dtype == index.dtype == np.int64


def test_shapes_are_static_and_labels_may_be_one_hot(digits, arrays):
    for dataset in (
        data.evaluation(digits, batch_size=10, one_hot=True),
        data.training(digits, batch_size=10, one_hot=True, shuffle=False, augmentation=CROP),
    ):
        assert dataset.element_spec[0].shape == (None, 8, 8, 1) and dataset.element_spec[0].dtype == tf.float32
        np.testing.assert_array_equal(next(iter(dataset))[1], np.eye(10, dtype=np.float32)[arrays[1][:10]])


def test_measure_is_the_mean_and_deviation_of_all_pixels(digits, arrays):
    mean, std = data.measure(digits, limit=500)
    first = arrays[0][:500].astype(float)
    assert mean == pytest.approx([first.mean()]) and std == pytest.approx([first.std()])
    colors = np.random.default_rng(0).integers(0, 256, (20, 4, 5, 3))
    colors[..., 2] = 51
    mean, std = data.measure(make_source(colors))
    np.testing.assert_allclose(mean, colors.mean((0, 1, 2)))
    np.testing.assert_allclose(std, [*colors.std((0, 1, 2))[:2], 255])  # a network divides by it
    pixels = np.concatenate(list(data.evaluation(make_source(colors), batch_size=8)))
    np.testing.assert_allclose(((pixels - mean) / std).mean((0, 1, 2)), 0, atol=1e-5)


@pytest.mark.parametrize("cache", [True, False], ids=["kept", "streamed"])
def test_each_epoch_is_a_new_order_of_all_examples(digits, arrays, cache):
    images, labels = arrays
    steps = data.steps_per_epoch(digits, 100)
    dataset = data.training(digits, batch_size=100, epochs=2, cache=cache, with_index=True)
    assert steps == 8 and dataset.cardinality().numpy() == 16
    sizes = [len(y) for _, y in dataset]
    assert sizes == ([100] * 7 + [97]) * 2  # no batch spans two epochs
    x, y, index = epoch(dataset, 16)
    np.testing.assert_array_equal(x, images[index])
    np.testing.assert_array_equal(y, labels[index])
    first, second = index[:797], index[797:]
    for order in (first, second):
        np.testing.assert_array_equal(np.sort(order), np.arange(797))
        assert abs(np.corrcoef(order, np.arange(797))[0, 1]) < 0.15
    assert (first == second).mean() < 0.02
    of_other_seed = epoch(data.training(digits, batch_size=100, cache=cache, with_index=True, seed=5), 8)[2]
    assert (first == of_other_seed).mean() < 0.02


@pytest.mark.parametrize("cache", [True, False], ids=["kept", "streamed"])
def test_a_run_can_start_at_any_epoch_whatever_the_global_seed(digits, cache):
    options = {"batch_size": 100, "cache": cache, "with_index": True, "seed": 3}
    options["augmentation"] = Augmentation(crop=2, flip=True, mixup=0.5, cutmix=0.5)
    tf.random.set_seed(1)
    whole = epoch(data.training(digits, epochs=5, **options), 40)
    tf.random.set_seed(2)
    late = epoch(data.training(digits, start_epoch=3, **options), 16)
    for of_whole, of_late in zip(whole, late, strict=True):
        np.testing.assert_array_equal(of_whole[3 * 797 :], of_late)


def by_index(read):
    x, _, index = read
    return x[np.argsort(index)]


def test_a_view_depends_on_seed_epoch_and_index_only(digits):
    def views(batch_size, **options):
        batches = data.steps_per_epoch(digits, batch_size)
        options = {"augmentation": CROP, "start_epoch": 2, **options}
        return by_index(epoch(data.training(digits, batch_size=batch_size, with_index=True, **options), batches))

    expected = views(128)
    np.testing.assert_array_equal(views(50), expected)
    np.testing.assert_array_equal(views(64, shuffle=False), expected)
    np.testing.assert_array_equal(views(64, cache=False), expected)
    assert (views(128, start_epoch=3) != expected).any((1, 2, 3)).mean() > 0.9
    assert (views(128, seed=1) != expected).any((1, 2, 3)).mean() > 0.9


def test_views_of_one_picture_differ_by_index_and_are_crops_of_it():
    image = np.random.default_rng(0).integers(1, 256, (8, 8, 1)).astype(np.uint8)
    source = make_source(np.repeat(image[None], 200, 0), np.zeros(200), 2)
    x, _ = next(iter(data.training(source, batch_size=200, augmentation=Augmentation(shift=1))))
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    allowed = {padded[top : top + 8, left : left + 8].tobytes() for top in range(3) for left in range(3)}
    assert {view.astype(np.uint8).tobytes() for view in x.numpy()} == allowed


def test_images_in_memory_are_read_once_and_streamed_ones_in_every_epoch():
    images, read = np.zeros((10, 4, 4, 1)), []
    list(data.training(make_source(images, counted=read), batch_size=4, epochs=3))
    assert sorted(read) == list(range(10))
    read.clear()
    list(data.training(make_source(images, counted=read), batch_size=4, epochs=3, cache=False))
    assert sorted(read) == sorted([*range(10)] * 3)
    read.clear()
    evaluation = data.evaluation(make_source(images, counted=read), batch_size=4)
    assert [len(list(evaluation)) for _ in range(3)] == [3, 3, 3] and sorted(read) == list(range(10))


def test_a_dataset_that_is_too_large_is_streamed_through_a_buffer(monkeypatch):
    monkeypatch.setattr(examples, "MEMORY_LIMIT", 0)
    monkeypatch.setattr(examples, "BUFFER_SIZE", 20 * 16)  # twenty images
    read = []
    source = make_source(np.zeros((200, 4, 4, 1)), counted=read)
    order = np.concatenate([x[INDEX] for x in data.training(source, batch_size=8, epochs=1, with_index=True)])
    assert sorted(order) == list(range(200)) and sorted(read) == list(range(200))
    assert all(index <= place + 20 for place, index in enumerate(order))  # the buffer holds twenty
    assert (order != np.arange(200)).mean() > 0.8


def test_mixing_makes_soft_labels_that_match_the_images(digits, arrays):
    images, labels = arrays
    dataset = data.training(digits, batch_size=100, augmentation=Augmentation(mixup=1.0), with_index=True)
    x, y = next(iter(dataset))
    index, y = x[INDEX].numpy(), y.numpy()
    target, partner = np.eye(10)[labels[index]], np.eye(10)[labels[index]][::-1]
    differ = (target != partner).any(1)
    ratio = (y * target).sum(1)[differ]
    assert differ.sum() > 50 and 0.4 < ratio.mean() < 0.6
    expected = ratio[:, None] * target[differ] + (1 - ratio)[:, None] * partner[differ]
    np.testing.assert_allclose(y[differ], expected, atol=1e-5)
    weight = ratio[:, None, None, None]  # read from a float32 label, so the tolerance of pixels is 255 times larger
    expected = weight * images[index][differ] + (1 - weight) * images[index][::-1][differ]
    np.testing.assert_allclose(x[INPUTS].numpy()[differ], expected, atol=255e-5)


def test_every_batch_is_mixed_with_other_ratios():
    source = make_source(np.zeros((16, 4, 4, 1)), np.arange(16), 16)
    dataset = data.training(source, batch_size=8, epochs=2, shuffle=False, augmentation=Augmentation(mixup=1.0))
    ratios = [
        y[np.arange(8), np.arange(8) + 8 * (number % 2)] for number, (_, y) in enumerate(dataset.as_numpy_iterator())
    ]
    for first, second in itertools.combinations(ratios, 2):
        assert np.abs(first - second).max() > 0.05


def test_batches_of_images_without_labels():
    source = make_source(np.full((6, 4, 4, 3), 51))
    (batch,) = data.training(source, batch_size=6, epochs=1, augmentation=Augmentation(mixup=1.0))
    np.testing.assert_allclose(batch, np.full((6, 4, 4, 3), 51), atol=255e-6)
    for dataset in (
        data.training(source, batch_size=6, with_index=True),
        data.evaluation(source, batch_size=6, with_index=True),
    ):
        assert set(next(iter(dataset))) == {INPUTS, INDEX}


def halved(image):
    """Half the size with a triangle filter of twice the width, in NumPy: weights 1 3 3 1, only inside the image."""
    size = len(image)
    weights = np.zeros((size // 2, size))
    for row in range(size // 2):
        for offset, weight in zip(range(-1, 3), (1, 3, 3, 1), strict=True):
            if 0 <= 2 * row + offset < size:
                weights[row, 2 * row + offset] = weight
    weights /= weights.sum(1, keepdims=True)
    return np.einsum("ih,jw,hwc->ijc", weights, weights, image)


def test_resizing_is_antialiased_and_the_same_in_training_and_evaluation(digits, arrays):
    expected = np.stack([np.round(halved(image.astype(float))) for image in arrays[0][:30]])
    for dataset in (
        data.evaluation(digits, batch_size=30, image_size=(4, 4)),
        data.training(digits, batch_size=30, image_size=(4, 4), shuffle=False),
    ):
        x, _ = next(iter(dataset))
        np.testing.assert_allclose(x, expected, atol=1.01)
        assert np.abs(x - expected).mean() < 0.255


def test_a_remainder_can_be_dropped(digits):
    assert data.steps_per_epoch(digits, 100, drop_remainder=True) == 7
    assert [len(y) for _, y in data.training(digits, batch_size=100, epochs=2, drop_remainder=True)] == [100] * 14
    assert data.steps_per_epoch(digits, 797) == data.steps_per_epoch(digits, 1000) == 1


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_the_classes_is_reported(label):
    labels = np.zeros(9)
    labels[7] = label
    source = make_source(np.zeros((9, 4, 4, 1)), labels, classes=3)
    for make in (data.training, data.evaluation):
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"(?s)a label of 0 to 2.*{label} at example 7"):
            list(make(source, batch_size=3).take(3))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, but received 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number.*2.5"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1.*0"),
        ({"start_epoch": -1}, "start_epoch must be a whole number of at least 0.*-1"),
        ({"seed": -1}, "seed must be a whole number of at least 0.*-1"),
        ({"image_size": 8}, r"image_size must be \(height, width\), both whole and at least 1, but received 8"),
        ({"image_size": (8, 0)}, "image_size"),
        ({"one_hot": True}, "labels and a number of classes"),
        ({"batch_size": 9, "drop_remainder": True}, "a batch size of at most 4"),
    ],
)
def test_invalid_arguments_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        data.training(make_source(np.zeros((4, 8, 8, 3))), **{"batch_size": 2, **options})


def test_images_of_different_sizes_need_a_size():
    examples = tf.data.Dataset.from_generator(
        lambda: ({"image": np.full((n, 5, 3), 51, np.uint8), "index": n} for n in (3, 4)),
        output_signature={"image": tf.TensorSpec((None, None, 3), tf.uint8), "index": tf.TensorSpec((), tf.int64)},
    )
    source = Source(examples, "odd sizes", 2)
    for make in (data.training, data.evaluation):
        with pytest.raises(ValueError, match="images of one size.*odd sizes.*image_size="):
            make(source, batch_size=2)
        (batch,) = make(source, batch_size=2, image_size=(6, 6)).take(1)
        np.testing.assert_array_equal(batch, np.full((2, 6, 6, 3), 51))


def test_keras_trains_on_the_batches(digits):
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    train = data.training(digits, batch_size=32, augmentation=Augmentation(shift=1))
    history = model.fit(
        train, epochs=2, steps_per_epoch=25, verbose=0, validation_data=data.evaluation(digits, batch_size=100)
    ).history
    assert history["loss"][1] < history["loss"][0] and history["val_accuracy"][1] > 0.5


@pytest.mark.parametrize(
    "name, split, layers", [("cifar10", "test[:100]", (2, 9)), ("imagenette_96", "validation[:100]", None)]
)
def test_photographs(prepared, name, split, layers):
    source = data.load(name, split, data_dir=prepared)
    images = np.stack([row["image"] for row in source.examples.as_numpy_iterator()])
    options = {"batch_size": 64, "epochs": 1, "with_index": True}
    augmentation = Augmentation(resized_crop=True, flip=True, rand_augment=layers)
    x, _, index = epoch(data.training(source, **options), 9)
    mean, std = data.measure(source)
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, images.std((0, 1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(x, images[index])
    first, again = (epoch(data.training(source, augmentation=augmentation, **options), 9) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    assert first[0].shape == images.shape and np.isfinite(first[0]).all()


def test_without_leaves_classes_out_and_numbers_the_rest_again(digits, arrays):
    images, labels = arrays
    rest = digits.without([3, 7])
    rows = list(rest.examples.as_numpy_iterator())
    expected = ~np.isin(labels, [3, 7])
    np.testing.assert_array_equal(np.stack([row["image"] for row in rows]), images[expected])
    assert [row["label"] for row in rows] == labels[expected].tolist()
    assert [row["index"] for row in rows] == list(range(rest.size)) and rest.size == expected.sum()
    assert rest.classes == 10 and rest.version != digits.version
    shuffled = data.training(rest, batch_size=50, epochs=1, with_index=True)
    seen = {int(i): int(y) for x, labels in shuffled for i, y in zip(x[INDEX], labels, strict=True)}
    assert seen == dict(enumerate(labels[expected].tolist()))


def test_without_rejects_what_it_cannot_leave_out(digits):
    with pytest.raises(ValueError, match=r"classes of 'digits' are 0 to 9, but received \[10\]"):
        digits.without([10])
    with pytest.raises(ValueError, match="No example of 'digits' remains"):
        digits.without(range(10))
    with pytest.raises(ValueError, match="which has no labels"):
        make_source(np.zeros((2, 4, 4, 1))).without([0])


def test_measure_sees_all_classes_of_a_folder(tmp_path):
    for name, value in (("dark", 50), ("light", 200)):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(np.full((4, 4), value, "uint8")).save(tmp_path / "train" / name / f"{number}.png")
    source = data.load(tmp_path, "train")
    assert source.read_range is not None and data.measure(source, limit=4) == ((125.0,), (75.0,))


def test_measure_sees_all_classes_of_sorted_examples():
    sorted_by_class = np.repeat([50, 200], 30)[:, None, None, None] * np.ones((1, 2, 2, 1))
    assert data.measure(make_source(sorted_by_class), limit=20) == ((125.0,), (75.0,))
