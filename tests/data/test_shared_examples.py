"""Examples that two sources share."""

import logging

import numpy as np
import pytest
from PIL import Image

import kd_keras as kd
from kd_keras import data
from kd_keras.data.shared_examples import count_shared
from kd_keras.runs.images import load_images


@pytest.mark.parametrize(
    "split, other, shared",
    [
        ("train[:100]", "train[60:]", 40),
        ("train", "train[10:20]+train[50%:60%]", 110),
        ("train[:10]+train[20:30]", "train[5:25]", 10),
        ("train+test", "test[:7]", 7),
        ("train", "test", 0),
    ],
)
def test_splits_of_a_dataset(split, other, shared, tmp_path):
    sources = [data.load("digits", name, tmp_path) for name in (split, other)]
    assert count_shared(*sources) == count_shared(*sources[::-1]) == shared
    assert count_shared(sources[0].without([3]), sources[1]) == 0, "not known"


def test_splits_of_a_folder(tmp_path):
    for name in ("train/a/1.png", "train/b/2.png", "test/a/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4), "uint8")).save(tmp_path / name)
    sources = {name: data.load(tmp_path, name) for name in ("train", "test", "all")}
    assert count_shared(sources["all"], sources["test"]) == 1 and count_shared(sources["train"], sources["test"]) == 0


def test_a_test_on_training_images_is_reported(tmp_path, caplog):
    recipe = {"data": "digits", "data_dir": str(tmp_path)}
    with caplog.at_level(logging.WARNING, "kd_keras"):
        load_images(kd.Recipe(**recipe, train_split="train[:500]", test_split="train[500:]"))
        assert "training images" not in caplog.text
        load_images(kd.Recipe(**recipe, test_split="train[900:]"))
    assert "100 of the 100 test images are training images" in caplog.text
