"""A student of images without labels has the classes of its teacher, in the teacher's order."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import kd_keras as kd
from kd_keras import data

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")  # not in alphabetical order
OPTIONS = {"batch_size": 50, "epochs": 5, "optimizer": "adam", "learning_rate": 0.01}
MLP = "mlp(hidden=(32,))"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The run of a teacher, images without labels, and a folder of labeled images, whose classes are alphabetical."""
    folder = tmp_path_factory.mktemp("class_names")
    train, test = (data.load("digits", split, folder / "data") for split in ("train", "test[:200]"))
    named = [replace(source, class_names=NAMES) for source in (train, test)]
    teacher = kd.train(model=MLP, data=named[0], test_data=named[1], run=folder / "teacher", **OPTIONS)
    for number, example in enumerate(train.examples.take(400)):
        path = folder / "unlabeled" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(example["image"].numpy()[..., 0]).save(path)
    for number, example in enumerate(test.examples):
        path = folder / "labeled" / "test" / NAMES[int(example["label"])] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(example["image"].numpy()[..., 0]).save(path)
    return teacher, folder / "unlabeled", folder / "labeled"


def test_a_student_of_images_without_labels_knows_its_classes(folders, tmp_path):
    teacher, unlabeled, labeled = folders
    options = {"student": MLP, "data": unlabeled, "hard_weight": 0, **OPTIONS}
    student = kd.distill(teacher=teacher, run=tmp_path / "live", **options)
    assert student.result["data"]["class_names"] == list(NAMES)
    evaluation = kd.evaluate([student], teacher=teacher, data=labeled)
    assert all(findings["accuracy"] > 0.8 for findings in evaluation.findings.values()), evaluation.table


def test_a_recording_knows_its_classes(folders, tmp_path):
    teacher, unlabeled, labeled = folders
    options = {"student": MLP, "data": unlabeled, "hard_weight": 0, **OPTIONS}
    recording = tmp_path / "recording"
    kd.record(teacher=teacher, data=unlabeled, output=recording, batch_size=50)
    assert kd.Teacher.recorded(recording).class_names == list(NAMES)
    student = kd.distill(recording=recording, run=tmp_path / "student", **options)
    assert student.result["data"]["class_names"] == list(NAMES)
    with pytest.raises(ValueError, match=r"(?s)classes of the recording .*zero.*received \['eight'.*Record again"):
        kd.distill(recording=recording, test_data=labeled, run=tmp_path / "refused", **options)
    kd.record(teacher=teacher, data=unlabeled, test_data=labeled, output=tmp_path / "again", batch_size=50)
    tested = kd.distill(recording=tmp_path / "again", test_data=labeled, run=tmp_path / "tested", **options)
    assert tested.result["last"]["val_accuracy"] > 0.8


def test_the_names_of_arrays_are_recorded(folders, tmp_path):
    _, unlabeled, _ = folders
    np.savez(tmp_path / "outputs.npz", logits=np.zeros((400, 10), "float32"), class_names=NAMES)
    arrays = kd.Teacher.arrays(tmp_path / "outputs.npz")
    kd.record(teacher=arrays, data=unlabeled, output=tmp_path / "recording", batch_size=50)
    assert kd.Teacher.recorded(tmp_path / "recording").class_names == list(NAMES)


def test_teachers_with_other_orders_of_classes_are_not_averaged(folders, tmp_path):
    teacher, unlabeled, _ = folders
    train = data.load("digits", "train[:100]", teacher.path.parent / "data")
    other = replace(train, class_names=NAMES[::-1])
    second = kd.train(model=MLP, data=other, run=tmp_path / "second", **OPTIONS | {"epochs": 1})
    with pytest.raises(ValueError, match="All teachers must have their classes in the same order"):
        kd.distill(teacher=[teacher, second], student=MLP, data=unlabeled, hard_weight=0, run=tmp_path / "run")
