"""The embedded dataset against scikit-learn's arrays, read back through TFDS itself."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from kd_keras import data
from kd_keras.data import digits


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("tfds"))
    digits.prepare(directory)
    return directory


@pytest.fixture(scope="module")
def splits(directory):
    def read_columns(split):
        rows = list(tfds.as_numpy(tfds.load("digits", split=split, data_dir=directory, download=False)))
        numbers = np.array([int(row["id"]) for row in rows])
        return numbers, np.stack([row["image"] for row in rows]), np.array([row["label"] for row in rows])

    return {split: read_columns(split) for split in ("train", "test")}


def test_every_example_is_in_one_split(splits):
    train, test = splits["train"][0], splits["test"][0]
    assert (len(train), len(test)) == (1000, 797)
    assert sorted([*train, *test]) == list(range(1797))


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_and_labels_are_those_of_scikit_learn(splits, split):
    numbers, images, labels = splits[split]
    original = load_digits()
    expected = np.array([[int(value * 255 / 16 + 0.5) for value in row] for row in original.data[numbers]])
    assert images.shape[1:] == (8, 8, 1) and images.dtype == np.uint8
    np.testing.assert_array_equal(images.reshape(-1, 64), expected)
    np.testing.assert_array_equal(labels, original.target[numbers])


def test_the_split_is_stratified_by_class(splits):
    fractions = np.bincount(load_digits().target) / 1797
    for _, _, labels in splits.values():
        assert np.abs(np.bincount(labels, minlength=10) - fractions * len(labels)).max() <= 1


def test_the_split_is_the_same_in_another_directory(splits, tmp_path):
    digits.prepare(tmp_path)
    again = tfds.as_numpy(tfds.load("digits", split="test", data_dir=tmp_path, download=False))
    assert [int(row["id"]) for row in again] == splits["test"][0].tolist()


def test_preparing_is_quiet_and_done_once(tmp_path, capfd, monkeypatch):
    digits.prepare(tmp_path)
    out, err = capfd.readouterr()
    assert out == "" and "Dataset" not in err and "Generating" not in err
    monkeypatch.setattr(digits.Digits, "download_and_prepare", lambda self: pytest.fail("prepared twice"))
    digits.prepare(tmp_path)
    assert data.load("digits", "test[:10]", data_dir=tmp_path).size == 10


def test_a_second_process_that_finishes_first_is_no_error(tmp_path, monkeypatch):
    prepare = digits.Digits.download_and_prepare

    def overtaken(self):
        prepare(digits.Digits(data_dir=tmp_path))  # what the other process does meanwhile
        prepare_again = digits.Digits(data_dir=tmp_path)
        assert prepare_again.is_prepared()
        raise OSError("Directory not empty")

    monkeypatch.setattr(digits.Digits, "download_and_prepare", overtaken)
    digits.prepare(tmp_path)
    assert data.load("digits", "train", data_dir=tmp_path).size == 1000


def test_a_directory_that_is_not_writable_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(OSError, match="digits dataset can be neither read from nor written to .*file/below: .*Pass a data_dir"):
        data.load("digits", "train", data_dir=tmp_path / "file" / "below")

    def refuse(self):
        raise PermissionError("Read-only file system")

    monkeypatch.setattr(digits.Digits, "download_and_prepare", refuse)
    with pytest.raises(OSError, match="PermissionError: Read-only file system"):
        data.load("digits", "train", data_dir=tmp_path)
