"""Sources from TFDS: real datasets, and small ones with features that those do not have."""

import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from kd_keras import data
from kd_keras.data import downloads
from kd_keras.data.base import Source


def rows(source):
    return list(source.examples.as_numpy_iterator())


class OddNames(tfds.core.GeneratorBasedBuilder):
    """Two labels, two images and a mask with unusual names, in several files."""

    VERSION = tfds.core.Version("1.0.0")
    SUPERVISED = None

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "a_mask": tfds.features.LabeledImage(labels=3, shape=(4, 5, 1)),
                    "number": np.int64,
                    "photo": tfds.features.Image(shape=(4, 5, 3)),
                    "second": tfds.features.Image(shape=(4, 5, 3)),
                    "coarse": tfds.features.ClassLabel(names=["beast", "plant"]),
                    "fine": tfds.features.ClassLabel(num_classes=6),
                }
            ),
            supervised_keys=self.SUPERVISED,
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(6):
            image = np.full((4, 5, 3), number, np.uint8)
            yield (
                number,
                {
                    "a_mask": image[..., :1] % 3,
                    "number": number,
                    "photo": image,
                    "second": 100 + image,
                    "coarse": number % 2,
                    "fine": number,
                },
            )


class OddNamesSupervised(OddNames):
    """The same, with the other label and image as the supervised ones."""

    VERSION = tfds.core.Version("1.0.0")
    SUPERVISED = ("second", "fine")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("tfds"))
    sharded = tfds.download.DownloadConfig(num_shards=3)
    for builder in (OddNames, OddNamesSupervised):
        builder(data_dir=directory).download_and_prepare(download_config=sharded)
    return directory


def test_features_are_found_by_type(directory):
    source = data.load("odd_names", "train", data_dir=directory)
    assert (source.size, source.classes, source.class_names) == (6, 2, ("beast", "plant"))
    assert source.image_shape == (4, 5, 3) and source.has_labels and source.name == "odd_names"
    for row in rows(source):
        assert set(row) == {"image", "label", "index"}
        assert row["image"].max() < 6 and row["label"] == row["image"][0, 0, 0] % 2


def test_supervised_features_come_first(directory):
    source = data.load("odd_names_supervised", "train", data_dir=directory)
    assert source.classes == 6
    assert all(row["image"][0, 0, 0] == 100 + row["label"] for row in rows(source))


def test_the_order_is_that_of_the_files_whatever_the_seed(directory):
    paths = sorted((Path(directory) / "odd_names" / "1.0.0").glob("*.tfrecord*"))
    assert len(paths) == 3
    features = tfds.builder("odd_names", data_dir=directory).info.features
    expected = [
        int(features.deserialize_example_np(record)["number"])
        for path in paths
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]
    for seed in (1, 2):
        tf.random.set_seed(seed)
        read = rows(data.load("odd_names", "train", data_dir=directory))
        assert [row["image"][0, 0, 0] for row in read] == expected
        assert [row["index"] for row in read] == list(range(6))


@pytest.mark.parametrize(
    "name, split, shape",
    [
        ("cifar10", "train[:40]", (32, 32, 3)),
        ("mnist", "test[100:140]", (28, 28, 1)),
        ("imagenette_96", "validation[:5%]", (96, 96, 3)),
    ],
)
def test_prepared_datasets(prepared, name, split, shape):
    source = data.load(name, split, data_dir=prepared)
    assert source.size == 40 and source.classes == 10 and source.image_shape == shape
    read, expected = rows(source), list(tfds.as_numpy(tfds.load(name, split=split, data_dir=prepared, download=False)))
    assert len(read) == 40
    for number, (row, other) in enumerate(zip(read, expected, strict=True)):
        np.testing.assert_array_equal(row["image"], other["image"])
        assert row["label"] == other["label"] and row["index"] == number
    spec = source.examples.element_spec
    assert spec["label"] == tf.TensorSpec((), tf.int64) and spec["index"] == tf.TensorSpec((), tf.int64)


@pytest.mark.parametrize(
    "name, split, message",
    [
        ("odd_nmes", "train", "'odd_nmes'. Did you mean odd_names"),
        ("cifar_10", "train", "Did you mean cifar10"),
        ("qqqqqqqq", "train", "Prepared under .*: odd_names, odd_names_supervised"),
        ("./no_such_folder", "train", "an existing folder of images"),
        ("odd_names:7.0.0", "train", "(?s)odd_names:7.0.0.*1.0.0"),
        ("odd_names", "trian", r"a split of odd_names \(train\), but received 'trian'. Did you mean train"),
        ("odd_names", "train[:x]", r"'train\[:x\]'.*train\[:1000\]"),
        ("odd_names", "train[:0]", "at least one example"),
    ],
)
def test_errors_name_similar_choices(directory, name, split, message):
    with pytest.raises(ValueError, match=message):
        data.load(name, split, data_dir=directory)


@pytest.mark.parametrize("name, features", [("bccd", "'objects': 'Sequence'"), ("camvid", "'segmentation_mask'")])
def test_a_dataset_without_classes_is_rejected(prepared, name, features):
    with pytest.raises(ValueError, match=f"8-bit image and a class label, but received {name}: .*{features}"):
        data.load(name, "train", data_dir=prepared)


def test_a_failed_download_names_the_directory_and_the_prepared_datasets(directory, monkeypatch):
    def unreachable(*_):
        raise RuntimeError("ConnectionError: no route to host")

    monkeypatch.setattr(downloads, "download", unreachable)
    with pytest.raises(FileNotFoundError, match="'cifar100' is neither prepared under") as caught:
        data.load("cifar100", "train", data_dir=directory)
    for part in (directory, "ConnectionError: no route to host", "Prepared there: odd_names, odd_names_supervised"):
        assert part in str(caught.value)


def test_a_download_is_announced_and_given_up_after_a_time_that_can_be_set(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(downloads, "PROGRAM", "import time; time.sleep(60)")
    start = time.monotonic()
    with pytest.raises(FileNotFoundError, match="TimeoutError: no progress for 1 seconds.*Pass the data_dir"):
        data.load("cifar100", "train", data_dir=tmp_path, download_timeout=1)
    assert time.monotonic() - start < 30
    assert f"cifar100 is not prepared under {tmp_path} (prepared there: nothing). A download starts now" in caplog.text


def test_a_download_that_makes_progress_is_not_given_up(tmp_path, monkeypatch):
    program = (
        "import sys, time\nfor n in range(6): open(f'{sys.argv[2]}/{n}', 'w').close(); time.sleep(0.5)\nsys.exit(3)"
    )
    monkeypatch.setattr(downloads, "PROGRAM", program)
    with pytest.raises(RuntimeError, match="exit code 3"):
        downloads.download("cifar100", str(tmp_path), timeout=1.5)
    assert len(list(tmp_path.iterdir())) == 6


def test_gray_and_colors_are_converted_on_request(directory):
    gray = data.load("odd_names", "train", data_dir=directory, image_channels=1)
    assert gray.image_shape == (4, 5, 1) and [row["image"][0, 0, 0] for row in rows(gray)] == [
        row["image"][0, 0, 0] for row in rows(data.load("odd_names", "train", data_dir=directory))
    ]
    colors = data.load("digits", "test[:3]", data_dir=directory, image_channels=3)
    for row, expected in zip(rows(colors), rows(data.load("digits", "test[:3]", data_dir=directory)), strict=True):
        np.testing.assert_array_equal(row["image"], np.repeat(expected["image"], 3, axis=-1))
    assert rows(colors.shards(3)[1])[0]["image"].shape == (8, 8, 3)
    red = tf.data.Dataset.from_tensors({"image": tf.constant([[[255, 0, 0]]], tf.uint8), "index": np.int64(0)})
    assert rows(Source(red, "red", 1, image_shape=(1, 1, 3)).with_channels(1))[0]["image"].item() == 76  # 0.299 * 255
    with pytest.raises(ValueError, match="image_channels=1 for gray images or 3 for colors, but received 2"):
        data.load("digits", "test", data_dir=directory, image_channels=2)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"classes": 2, "class_names": ("cat", "cat")}, r"different class names in 'x', but received \['cat'\]"),
        (
            {"classes": 3, "class_names": ("cat", "dog")},
            "one name for each class of 'x', but received 2 names for classes=3",
        ),
        ({"classes": 0}, "at least one class in 'x'"),
        ({"size": 0}, "at least one example in source 'x', but received size=0"),
        (
            {"image_shape": (4, 4, 3)},
            r"images of image_shape=\(4, 4, 3\), but received a dataset of images \(2, 2, 1\)",
        ),
    ],
)
def test_a_source_rejects_what_does_not_fit_its_examples(options, message):
    examples = tf.data.Dataset.from_tensors({"image": tf.zeros((2, 2, 1), tf.uint8), "index": np.int64(0)})
    with pytest.raises(ValueError, match=message):
        Source(examples, **({"name": "x", "size": 1} | options))


def test_a_source_rejects_batches():
    examples = tf.data.Dataset.from_tensors({"image": tf.zeros((5, 2, 2, 1), tf.uint8), "index": np.int64(0)})
    with pytest.raises(
        ValueError, match=r"images \(H, W, C\) in source 'x', but received images of shape \(5, 2, 2, 1\)"
    ):
        Source(examples, "x", 1)


def test_a_prepared_dataset_is_never_downloaded(directory, monkeypatch):
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", lambda self: pytest.fail("downloads"))
    assert data.load("odd_names", "train", data_dir=directory).size == 6


def test_a_source_rejects_examples_of_another_form():
    with pytest.raises(ValueError, match="'image': 'uint8'.*but received .*'float32'"):
        Source(tf.data.Dataset.from_tensors({"image": tf.zeros((2, 2, 1)), "index": tf.constant(0, tf.int64)}), "x", 1)
    with pytest.raises(ValueError, match="Expected examples"):
        Source(tf.data.Dataset.range(3), "x", 3)
