"""Which task some data have."""

from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from kd_keras import tasks


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(tmp_path / split / name / "a.png")
    return tmp_path


def test_a_folder_of_classes_is_classification(folder):
    assert tasks.find_task(None, folder).name == "classification"
    (folder / "README.txt").write_text("two animals")
    assert tasks.find_task(None, folder).name == "classification"


@pytest.mark.parametrize(
    "file",
    ["Annotations/a.xml", "a.xml", "annotations/instances_train.json", "train/_annotations.coco.json",
     "labels/train/a.txt", "labels/a.txt", "train/labels/a.txt"],
)  # fmt: skip
def test_a_folder_with_annotations_is_detection(file, tmp_path):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("")
    assert tasks.find_task(None, tmp_path).name == "detection"
    assert tasks.find_task("classification", tmp_path).name == "classification"


def test_images_with_label_files_beside_them_are_detection(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert tasks.find_task(None, tmp_path).name == "classification"
    (tmp_path / "a.txt").write_text("0 0.5 0.5 1 1")
    assert tasks.find_task(None, tmp_path).name == "detection"


class WithBoxes(tfds.core.GeneratorBasedBuilder):
    """An image with objects that have a box and a class."""

    VERSION = tfds.core.Version("1.0.0")
    OTHER: ClassVar = {}

    def _info(self):
        objects = {"bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(num_classes=2)}
        features = {"image": tfds.features.Image(shape=(4, 4, 3)), "objects": tfds.features.Sequence(objects)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({**features, **self.OTHER}))

    def _split_generators(self, _):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        other = dict.fromkeys(self.OTHER, 0)
        yield 0, {"image": np.zeros((4, 4, 3), "uint8"), "objects": [], **other}


class WithBoxesAndClass(WithBoxes):
    """The image has a class, too."""

    OTHER: ClassVar = {"label": tfds.features.ClassLabel(num_classes=2)}


@pytest.mark.parametrize(
    ("name", "task"),
    [("with_boxes", "detection"), ("with_boxes_and_class", "classification"), ("digits", "classification")],
)
def test_a_dataset_of_tfds_has_the_task_of_its_features(name, task, tmp_path):
    assert tasks.find_task(None, name, tmp_path).name == task
