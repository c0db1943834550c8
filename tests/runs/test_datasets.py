"""A user's own tf.data.Dataset as a source."""

import numpy as np
import pytest
import tensorflow as tf

import kd_keras as kd
from kd_keras.data.unlabeled import without_labels
from kd_keras.runs.datasets import source_from

IMAGES = np.arange(6 * 4 * 4 * 1).reshape(6, 4, 4, 1)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def labeled(labels):
    return tf.data.Dataset.from_tensor_slices((IMAGES.astype("uint8"), np.array(labels))).batch(2)


def examples(source):
    return [{key: value.numpy() for key, value in example.items()} for example in source.examples]


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int32"])
@pytest.mark.parametrize("batch", [None, 4])
def test_examples_and_batches_of_any_type(dtype, batch):
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES.astype(dtype), LABELS))
    source = source_from(dataset.batch(batch) if batch else dataset)
    assert (source.size, source.classes, source.image_shape) == (6, 3, (4, 4, 1))
    for number, example in enumerate(examples(source)):
        np.testing.assert_array_equal(example["image"], IMAGES[number])
        assert (example["index"], example["label"]) == (number, LABELS[number])


@pytest.mark.parametrize("labels", [np.eye(5)[LABELS], LABELS[:, None]])
def test_one_hot_labels_and_columns_of_labels(labels):
    source = source_from(tf.data.Dataset.from_tensor_slices((IMAGES.astype("uint8"), labels)).batch(2))
    assert source.classes == (5 if labels.shape[1] == 5 else 3)
    assert [example["label"] for example in examples(source)] == LABELS.tolist()


def test_dictionaries_and_images_without_labels():
    images = IMAGES.astype("uint8")
    keyed = source_from(tf.data.Dataset.from_tensor_slices({"image": images, "label": LABELS, "id": LABELS}))
    assert keyed.has_labels and keyed.classes == 3
    plain = source_from(tf.data.Dataset.from_tensor_slices(images).batch(3))
    assert not plain.has_labels and plain.classes is None and plain.size == 6


@pytest.mark.parametrize(
    "dataset, message",
    [
        (tf.data.Dataset.from_tensor_slices(IMAGES.astype("float32") / 255), "0..255"),
        (tf.data.Dataset.from_tensor_slices(IMAGES.astype("float32") - 1), "0..255"),
        (tf.data.Dataset.from_tensor_slices(IMAGES.astype("uint8")).repeat(), "no end"),
        (tf.data.Dataset.from_tensor_slices(IMAGES.astype("uint8")).take(0), "no examples"),
        (tf.data.Dataset.range(3), "must give images"),
        (tf.data.Dataset.from_tensor_slices({"img": IMAGES, "lbl": LABELS}), r"keys \['img', 'lbl'\]. Map it to"),
        (
            tf.data.Dataset.from_tensor_slices(np.full((6, 4, 4, 1), np.nan, "float32")),
            "0..255, but received values in nan",
        ),
        (
            tf.data.Dataset.from_tensor_slices(IMAGES.astype("uint8").astype(str)),
            "images of numbers, but it gives string",
        ),
        (tf.data.Dataset.from_tensor_slices(np.zeros((6, 8, 8), "uint8")).batch(2), "must give images"),
        (labeled([0.5, 1, 0, 1, 0, 1]), "whole numbers or one-hot, but one differs from that by 0.5"),
        (labeled([np.nan, 1, 0, 1, 0, 1]), "whole numbers or one-hot, but one differs from that by nan"),
        (labeled([-1, 1, 0, 1, 0, 1]), "labels from 0, but received -1"),
        (labeled(np.full((6, 4), 0.25)), "whole numbers or one-hot, but one differs from that by 0.75"),
        (labeled(["cat"] * 6), "whole numbers or one-hot, but it gives TensorSpec"),
        (labeled(np.zeros((6, 2, 2), int)), "whole numbers or one-hot, but it gives TensorSpec"),
    ],
)
def test_what_is_no_dataset_of_images(dataset, message):
    with pytest.raises(ValueError, match=message):
        source_from(dataset)


def test_labels_that_count_from_1_are_said():
    with pytest.warns(UserWarning, match="no example has a label below 1.*Subtract 1"):
        assert source_from(labeled(LABELS + 1)).classes == 4


def test_whole_numbers_may_be_floats():
    assert source_from(labeled(LABELS.astype("float32"))).classes == 3


def test_other_images_or_labels_are_another_version():
    images, labels = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1)).astype("uint8"), np.arange(6) % 3

    def version(images, labels):
        return source_from(tf.data.Dataset.from_tensor_slices((images, labels))).version

    first = version(images, labels)
    assert first == version(images, labels) and len(first) == 16
    assert (
        len({first, version(images[::-1], labels), version(255 - images, labels), version(images, labels[::-1])}) == 4
    )
    source = source_from(tf.data.Dataset.from_tensor_slices((images, labels)))
    assert first in source.without([1]).version and first in source.with_channels(3).version


def shuffled(**options):
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1)).astype("uint8")
    return tf.data.Dataset.from_tensor_slices((images, np.arange(40) % 3)).shuffle(40, **options)


@pytest.mark.parametrize(
    "dataset",
    [
        labeled(LABELS),
        shuffled(reshuffle_each_iteration=False),
        shuffled(seed=0, reshuffle_each_iteration=False).batch(8),
        shuffled().cache(),
    ],
    ids=["plain", "shuffled once", "shuffled once with a seed", "cached"],
)
def test_one_order_is_accepted(dataset, recwarn):
    assert source_from(dataset).has_one_order and not recwarn.list


NOISE = np.random.default_rng(0)


def with_noise(image, label):
    noise = tf.numpy_function(lambda: NOISE.integers(0, 4, image.shape, dtype="uint8"), [], tf.uint8)
    return tf.ensure_shape(tf.bitwise.bitwise_xor(image, noise), image.shape), label


@pytest.mark.parametrize(
    "dataset",
    [shuffled(), shuffled(seed=0).batch(8), shuffled(reshuffle_each_iteration=False).map(with_noise)],
    ids=["shuffled", "shuffled with a seed", "changed at random"],
)
def test_another_order_in_each_pass_is_reported(dataset):
    with pytest.warns(UserWarning, match=r"another order of them, in its second pass. Remove shuffle\(\)"):
        source = source_from(dataset)
    assert not source.has_one_order
    for derived in (source.with_channels(3), source.without([1]), without_labels(source)):
        assert not derived.has_one_order


def test_only_the_first_examples_are_compared(monkeypatch):
    monkeypatch.setattr("kd_keras.runs.datasets.COMPARED", 10)
    read = []

    def numbers():
        for number in range(30):
            read.append(number)
            yield np.full((4, 4, 1), number, "uint8")

    signature = tf.TensorSpec((4, 4, 1), tf.uint8)
    assert source_from(tf.data.Dataset.from_generator(numbers, output_signature=signature)).has_one_order
    assert 40 <= len(read) < 45


@pytest.mark.filterwarnings("ignore:tf.data.Dataset gives other examples")
def test_recordings_refuse_a_dataset_without_one_order(tmp_path):
    network = kd.models.build("mlp", (4, 4, 1), 3)
    message = r"the same order in each pass, for a recording, .*. Remove shuffle\(\)"
    with pytest.raises(ValueError, match=message):
        kd.record(teacher=network, data=shuffled(seed=0), output=tmp_path / "none", batch_size=8)
    asked = []
    with pytest.raises(ValueError, match=message):
        kd.record(teacher=lambda images: asked.append(len(images)), data=shuffled(), output=tmp_path / "none")
    assert not asked and not (tmp_path / "none").exists()
    options = {"student": "mlp(hidden=(4,))", "epochs": 1, "batch_size": 8}
    cached = shuffled().cache()
    kd.record(teacher=network, data=cached, output=tmp_path / "recording", batch_size=8)
    with pytest.raises(ValueError, match=message):
        kd.distill(recording=tmp_path / "recording", data=shuffled(seed=0), run=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    kd.distill(recording=tmp_path / "recording", data=cached, run=tmp_path / "run", **options)
