"""Labels by a teacher: which images are kept, what is written, and that programs train on it."""

import re

import numpy as np
import pytest
import tensorflow_datasets as tfds

import kd_keras as kd
from kd_keras.models import build
from kd_keras.schemes import label_images
from kd_keras.schemes.pseudo_labels import count_copies
from tests.support.programs import SMALL, program

pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in ("The teacher is right", "After training")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return str(tmp_path_factory.mktemp("datasets"))


def test_copies_equal_those_of_a_plain_loop():
    probabilities = np.random.default_rng(0).dirichlet([0.3] * 4, size=200)
    copies = count_copies(probabilities, 0.7, per_class=30)
    for number in range(4):
        members = [i for i in range(200) if probabilities[i].argmax() == number and probabilities[i].max() >= 0.7]
        queue = sorted(members, key=lambda i: -probabilities[i].max())
        expected = np.bincount([queue[turn % len(queue)] for turn in range(30)], minlength=200)
        np.testing.assert_array_equal(copies * (probabilities.argmax(-1) == number), expected)
    np.testing.assert_array_equal(count_copies(probabilities, 0.7), probabilities.max(-1) >= 0.7)


def test_the_dataset_has_the_images_and_the_labels_of_the_teacher(place):
    teacher = build("mlp", (8, 8, 1), 10, hidden=(8,))
    splits = {"train_split": "train[:120]", "unlabeled_split": "train[200:260]", "data_dir": place}
    labels = label_images(teacher=teacher, **splits, threshold=0.2, name="kept", output=place)
    source = kd.data.load("digits", "train[200:260]", place)
    images, truth = (np.array([example[key] for example in source.examples]) for key in ("image", "label"))
    logits = np.array(teacher(images.astype("float32")))
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    kept = probabilities.max(-1) >= 0.2
    written = list(tfds.as_numpy(tfds.load("kept", split="pseudo", data_dir=place)))
    expected = {
        (image.tobytes(), int(row.argmax())) for image, row in zip(images[kept], probabilities[kept], strict=True)
    }
    assert {(example["image"].tobytes(), int(example["label"])) for example in written} == expected
    assert len(written) == kept.sum() == labels.written.sum() == labels.confident.sum()
    np.testing.assert_allclose(
        sorted(example["confidence"] for example in written), np.sort(probabilities[kept].max(-1)), rtol=1e-5
    )
    assert labels.correct == pytest.approx((probabilities.argmax(-1) == truth)[kept].mean())
    given = kd.data.load("kept", "labeled", place)
    assert (given.size, given.class_names) == (120, source.class_names)
    assert kd.data.load("kept", "test", place).size == kd.data.load("digits", "test", place).size


def test_the_program_balances_the_classes_and_a_student_trains_on_both(teacher, data_dir, tmp_path):
    command = [f"--teacher={teacher.path}", "--train_split=train[:100]", "--unlabeled_split=train[100:400]", data_dir]
    command += ["--threshold=0.1", "--per_class=12", "--name=balanced", f"--output={tmp_path}"]
    lines = program("label", *command).stdout.splitlines()
    assert "of the confident labels are right" in lines[-1]
    numbers = [re.findall(r"(\d+) (?:confident|written)", line) for line in lines[-11:-1]]
    assert all(written == ("12" if int(confident) else "0") for confident, written in numbers)
    assert any(int(confident) for confident, _ in numbers)
    data = ["--data=balanced", f"--data_dir={tmp_path}", "--train_split=labeled+pseudo"]
    flags = [flag for flag in SMALL if not flag.startswith(("--data", "--train_split"))]
    program("train", "--model=mlp(hidden=(4,))", *data, *flags, f"--run={tmp_path / 'run'}")
    assert kd.Run(tmp_path / "run").is_complete


@pytest.mark.parametrize(
    "options, message",
    [
        ({"unlabeled_split": "train[:100]"}, "must differ from the labeled images"),
        ({"unlabeled_split": "train[90:150]"}, r"10 of 'train\[90:150\]' are also in .*train\[:100\]"),
        ({"threshold": 1.0}, "predictions of probability 1.*Lower the threshold"),
        ({"threshold": 1.5}, "threshold"),
        ({"per_class": 0}, r"label_images\(per_class=...\) must be a whole number"),
        ({"name": "With Spaces"}, "lowercase letters"),
        ({"name": "10digits"}, "not start with a digit"),
    ],
    ids=str,
)
def test_what_is_refused(options, message, place):
    given = {"train_split": "train[:100]", "unlabeled_split": "train[100:150]", "data_dir": place, "name": "new"}
    with pytest.raises(ValueError, match=message):
        label_images(teacher=build("mlp", (8, 8, 1), 10, hidden=(8,)), **given | options, output=place)


def test_a_dataset_is_not_overwritten(place, tmp_path):
    (tmp_path / "mine" / "1.0.0").mkdir(parents=True)
    with pytest.raises(ValueError, match="exists already"):
        label_images(teacher="mlp", unlabeled_split="train", name="mine", output=tmp_path)


def test_the_teacher_has_the_classes_and_the_test_images_are_not_labeled(place, tmp_path):
    options = {"data_dir": place, "train_split": "train[:50]", "name": "refused", "output": tmp_path}
    with pytest.raises(ValueError, match="a teacher of the 10 classes of 'digits', but received one of 12 classes"):
        label_images(teacher=build("mlp", (8, 8, 1), 12), unlabeled_split="train[50:80]", **options)
    with pytest.raises(ValueError, match="from the test images, but 797 of 'test' are also in"):
        label_images(teacher=build("mlp", (8, 8, 1), 10), unlabeled_split="test", test_split="test", **options)
    assert not (tmp_path / "refused").exists()
