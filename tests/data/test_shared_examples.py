"""Examples that two sources share."""

import itertools
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


def write_images(*paths, mode="RGB"):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, (20, 20)).save(path)


def test_splits_of_a_folder_of_boxes(tmp_path):
    for split, names in (("train", "abc"), ("val", "de")):
        for name in names:
            write_images(tmp_path / "images" / split / f"{name}.png")
            (tmp_path / "labels" / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / "labels" / split / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5")
    train, val = (data.load_boxes(tmp_path, split, class_names=("dog",)) for split in ("train", "val"))
    assert (count_shared(train, val), count_shared(train, train), count_shared(val, val)) == (0, 3, 2)


def test_splits_that_list_images_of_one_folder(tmp_path):
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    sets = {"train": "abc", "val": "de", "trainval": "abcde", "test": "cd"}
    for name in "abcde":
        write_images(tmp_path / "JPEGImages" / f"{name}.png")
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        text = f"<filename>{name}.png</filename><object><name>dog</name>{box}</object>"
        (tmp_path / "Annotations" / f"{name}.xml").write_text(f"<annotation>{text}</annotation>")
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    for split, names in sets.items():
        (tmp_path / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names))
    sources = {split: data.load_boxes(tmp_path, split) for split in sets}
    for split, other in itertools.product(sets, sets):
        assert count_shared(sources[split], sources[other]) == len(set(sets[split]) & set(sets[other]))


def test_splits_of_a_folder_of_masks(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for kind, mode in (("images", "RGB"), ("masks", "L")):
            write_images(*(tmp_path / split / kind / f"{number}.png" for number in range(count)), mode=mode)
    train, test = (data.load_masks(tmp_path, split, class_names=("road",)) for split in ("train", "test"))
    assert count_shared(train, test) == 0, "images of the same names in other folders"
    assert (count_shared(train, train), count_shared(test, test)) == (3, 2)


def test_a_test_on_the_masks_of_the_training_is_reported(tmp_path, caplog):
    for kind, mode in (("images", "RGB"), ("masks", "L")):
        write_images(tmp_path / kind / "1.png", mode=mode)
    recipe = {"data": str(tmp_path), "task": "segmentation", "class_names": ("road",)}
    with caplog.at_level(logging.WARNING, "kd_keras"):
        load_images(kd.Recipe(**recipe, train_split="train", test_split="all"))
    assert "1 of the 1 test images are training images" in caplog.text


def test_a_test_on_training_images_is_reported(tmp_path, caplog):
    recipe = {"data": "digits", "data_dir": str(tmp_path)}
    with caplog.at_level(logging.WARNING, "kd_keras"):
        load_images(kd.Recipe(**recipe, train_split="train[:500]", test_split="train[500:]"))
        assert "training images" not in caplog.text
        load_images(kd.Recipe(**recipe, test_split="train[900:]"))
    assert "100 of the 100 test images are training images" in caplog.text
