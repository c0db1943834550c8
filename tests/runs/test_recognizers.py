"""Faces as a task of runs: people of the test are in no training image, and verification is the metric."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import kd_keras as kd
from kd_keras import data
from kd_keras.runs.images import load_images
from kd_keras.runs.recipe import Recipe
from kd_keras.tasks.faces.embeddings import embed
from kd_keras.tasks.faces.evaluation import verification
from kd_keras.tasks.faces.evaluator import FaceEvaluator
from kd_keras.tasks.faces.export import load_embedder
from kd_keras.tasks.faces.splits import parse_split

SHARED = Path(__file__).parents[3] / "shared" / "data"
RECOGNIZER = "embedder/resnet8(dimension=8, scale=16.0)"
SHAPE = (16, 16, 1)


def people(numbers, images=4):
    """Images of people, each a pattern with noise, and the number of the person."""
    random = np.random.default_rng(0)
    patterns = random.uniform(40, 215, (10, *SHAPE))
    labels = np.repeat(numbers, images)
    noisy = patterns[labels] + random.normal(0, 30, (len(labels), *SHAPE))
    return noisy.clip(0, 255).astype("uint8"), labels


def source(numbers, name):
    images, labels = people(numbers)
    rows = {"image": images, "index": np.arange(len(labels)), "label": labels - min(numbers)}
    names = tuple(f"p{number}" for number in numbers)
    return data.Source(tf.data.Dataset.from_tensor_slices(rows), name, len(labels), len(numbers), names, SHAPE)


@pytest.fixture(scope="module")
def known():
    return source(range(6), "known")


@pytest.fixture(scope="module")
def strangers():
    return source(range(6, 10), "strangers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("folder")
    for split, numbers in (("train", range(6)), ("test", range(6, 10))):
        for place_in_list, (image, number) in enumerate(zip(*people(numbers), strict=True)):
            (place / split / f"p{number}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(place / split / f"p{number}" / f"{place_in_list:02}.png")
    return place


def test_the_people_of_a_folder_are_those_of_each_split(folder):
    images = load_images(Recipe(data=str(folder), task="faces"))
    assert (images.train.classes, images.test.classes) == (6, 4)
    assert images.test.class_names == ("p6", "p7", "p8", "p9")
    assert sorted({int(row["label"]) for row in images.test.examples}) == [0, 1, 2, 3]


def test_people_are_selected_by_number(folder):
    chosen = {"train_split": "train/identities[:4]", "test_split": "train/identities[4:]"}
    images = load_images(Recipe(data=str(folder), task="faces", **chosen))
    assert (images.train.size, images.train.class_names) == (16, ("p0", "p1", "p2", "p3"))
    assert (images.test.size, images.test.class_names) == (8, ("p4", "p5"))
    with pytest.raises(ValueError, match="no training image, but received 2 people in both, such as 'p2'"):
        load_images(Recipe(data=str(folder), task="faces", **{**chosen, "test_split": "train/identities[2:4]"}))
    with pytest.raises(ValueError, match="some of the 6 identities of .*, but received those from 6 to None"):
        load_images(Recipe(data=str(folder), task="faces", **{**chosen, "test_split": "train/identities[6:]"}))
    with pytest.raises(ValueError, match="the form 'train.test/identities"):
        parse_split("train/people[3:]")


@pytest.mark.skipif(not (SHARED / "orl_faces").is_dir(), reason="orl_faces is not prepared beside this repository")
def test_the_people_of_a_dataset_are_selected_across_its_splits():
    named = {"data": "orl_faces", "data_dir": str(SHARED), "task": "faces"}
    splits = {"train_split": "train+test/identities[:30]", "test_split": "train+test/identities[30:]"}
    images = load_images(Recipe(**named, **splits))
    assert (images.train.size, images.train.classes, images.test.size, images.test.classes) == (300, 30, 100, 10)
    with pytest.raises(ValueError, match="no training image, but received 40 people in both"):
        load_images(Recipe(**named))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "resnet8"}, "a recognizer of identities, but received resnet8.* Write embedder/resnet8"),
        ({"task": None}, "loss of its own. Pass images with labels of that kind, task="),
        ({"label_smoothing": 0.1}, "one identity for each image, but received label_smoothing=0.1"),
        ({"ignored": (3,)}, None),
    ],
)
def test_wrong_requests_are_rejected(known, strangers, folder, options, message, tmp_path):
    request = {"model": RECOGNIZER, "data": known, "test_data": strangers, "task": "faces", **options}
    if message is None:
        request |= {"data": str(folder), "test_data": None}
        message = "which has no masks, but received ignored=3"
    if request["task"] is None:
        request["test_data"] = known
    with pytest.raises(ValueError, match=message):
        kd.train(epochs=1, run=tmp_path / "run", **request)
    assert not (tmp_path / "run" / "result.json").exists()


def test_images_without_genuine_pairs_are_refused_before_the_training(known, tmp_path):
    images, labels = people(range(6, 10), images=1)
    rows = {"image": images, "index": np.arange(4), "label": labels - 6}
    single = data.Source(tf.data.Dataset.from_tensor_slices(rows), "single", 4, 4, ("a", "b", "c", "d"), SHAPE)
    with pytest.raises(ValueError, match="'single' cannot be verified.* 0 genuine and 6 impostor pairs of 4 images"):
        kd.train(model=RECOGNIZER, task="faces", data=known, test_data=single, epochs=1, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def runs(known, strangers, folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    options = {"task": "faces", "batch_size": 12, "optimizer": "adam", "learning_rate": 0.003}
    named = {"data": str(folder), "test_every": 2}
    teacher = kd.train(model=RECOGNIZER, run=place / "teacher", epochs=3, **named, **options)
    options |= {"data": known, "test_data": strangers, "teacher": teacher}
    student = kd.distill(student=RECOGNIZER, methods=["embedding"], run=place / "student", epochs=1, **options)
    return teacher, student


def accuracy(network):
    images, labels = people(range(6, 10))
    pairs = data.all_pairs(labels)
    return dict(verification(embed(network, images, flip=False), pairs))["verification_accuracy"]


def test_verification_of_strangers_decides_which_epoch_is_the_best(runs):
    result, history = runs[0].result, runs[0].history
    assert (result["task"], result["metric"]) == ("faces", "verification_accuracy")
    assert [np.isnan(value) for value in history["val_verification_accuracy"]] == [True, False, False]
    assert result["best_val_verification_accuracy"] == np.nanmax(history["val_verification_accuracy"])
    assert result["last"]["val_verification_accuracy"] == pytest.approx(accuracy(runs[0].model()), abs=1e-6)
    assert "val_loss" not in history  # the head has no centers of these people


def test_a_student_follows_embeddings(runs):
    teacher, student = runs
    expected = accuracy(teacher.model())
    assert student.result["teacher_verification_accuracy"] == pytest.approx(expected, abs=1e-6)
    assert {"embedding", "hard", "val_auc"} <= student.history.keys()


def test_a_teacher_of_other_people_teaches_embeddings(runs, known, strangers, tmp_path):
    teacher, _ = runs
    options = {"teacher": teacher, "data": strangers, "test_data": known, "task": "faces", "batch_size": 12}
    student = kd.distill(student=RECOGNIZER, methods=["embedding"], run=tmp_path / "student", epochs=1, **options)
    assert student.model().head.identities == 4 and np.isfinite(student.history["embedding"]).all()
    with pytest.raises(ValueError, match=r"must have all classes.*lacks \['p6', 'p7', 'p8', 'p9'\]"):
        kd.distill(student=RECOGNIZER, methods=["proxylesskd"], run=tmp_path / "centers", epochs=1, **options)


def test_networks_of_faces_are_evaluated_on_strangers(runs, strangers, tmp_path):
    teacher, student = runs
    page = tmp_path / "page.html"
    limits = {"max_verification_accuracy_drop": 1.0}
    result = kd.evaluate([student], teacher=teacher, data=strangers, requirements=limits, report=page)
    text = page.read_text()
    assert "Hardest pairs" in text and "Verification accuracy drop" in text and "Rank-1" in text
    findings = result.findings[str(student.path)]
    assert findings["verification_accuracy"] == pytest.approx(accuracy(student.model()), abs=1e-6)
    before = result.findings[str(teacher.path)]["verification_accuracy"]
    assert findings["difference"] == pytest.approx(findings["verification_accuracy"] - before, abs=1e-9)
    assert findings["parameters"] == student.model().embedder.count_params() < student.model().count_params()
    assert result.verdict.passed and "| rank1 |" in result.table and "24 genuine and 96 impostor" in str(result)
    with pytest.raises(ValueError, match="no questions that take more time, for faces, but received similarity"):
        kd.evaluate(teacher, data=strangers, questions=["similarity"])
    with pytest.raises(ValueError, match="a network of faces to evaluate"):
        kd.evaluate(kd.models.build("resnet8", SHAPE, 4), data=strangers, task="faces")


PAIRS = """2 2
p6 0 1
p7 4 5
p6 0 p7 4
p8 8 p9 12
p8 8 9
p9 12 13
p6 1 p9 13
p7 5 p8 9
"""  # images 2 and 3 of each person are in no pair


def test_networks_are_verified_on_the_pairs_of_a_file(runs, folder, tmp_path):
    file, page = tmp_path / "pairs.txt", tmp_path / "page.html"
    file.write_text(PAIRS)
    result = kd.evaluate([runs[1]], teacher=runs[0], pairs=file, report=page)
    first, second = np.array([0, 4, 0, 8, 8, 12, 1, 5]), np.array([1, 5, 4, 12, 9, 13, 13, 9])
    pairs = data.Pairs(first, second, first // 4 == second // 4, np.repeat([0, 1], 4))
    images = people(range(6, 10))[0]
    for run in runs:
        expected = dict(verification(embed(run.model(), images, flip=False), pairs))
        findings = result.findings[str(run.path)]
        for name in ("verification_accuracy", "auc", "equal_error_rate"):
            assert findings[name] == pytest.approx(expected[name], abs=1e-6)
    assert "8 test images of 4 people" in result.data and "4 genuine and 4 impostor pairs of a file." in result.data
    assert "The same answer to all of them has a verification accuracy of 0.5000." in result.data
    assert "Hardest pairs" in page.read_text()


@pytest.mark.parametrize(
    ("options", "text", "message"),
    [
        ({"data": "digits", "task": None}, PAIRS, "the task 'faces' to verify pairs of images, but received pairs="),
        ({"data": "digits"}, PAIRS, "a folder of images, whose files the lines of .* name, but received 'digits'"),
        ({"test_split": "test/identities[1:]"}, PAIRS, "a split with all identities"),
        ({}, "1 1\np6 0 1\np6 0 p7 4\n", "two or more folds in .*, but received one. Begin the file with"),
        ({}, PAIRS.replace("p9 12 13", "p9 12 99"), "Image 99 of 'p9', in line 7 of"),
    ],
    ids=["classification", "dataset", "part of the people", "one fold", "missing image"],
)
def test_pairs_that_do_not_fit_the_images_are_refused(folder, tmp_path, options, text, message):
    (tmp_path / "pairs.txt").write_text(text)
    network = kd.models.build("embedder/resnet8", SHAPE, 4, dimension=8)
    options = {"data": str(folder), "task": "faces", **options}
    with pytest.raises(ValueError, match=message):
        kd.evaluate(network, pairs=tmp_path / "pairs.txt", **options)


def test_given_pairs_that_contradict_the_labels_are_refused(strangers):
    pairs = data.Pairs(np.array([0, 0]), np.array([1, 4]), np.array([True, True]), np.array([0, 1]))
    with pytest.raises(ValueError, match="'strangers' have them, but received labels that contradict 1 of 2 pairs"):
        FaceEvaluator(strangers, pairs=pairs)


def test_runs_are_compared_by_their_verification_accuracy(runs):
    (row,) = kd.compare([runs[0]]).rows
    assert row["metric"] == "verification_accuracy"
    assert row["last"] == 100 * runs[0].result["last"]["val_verification_accuracy"]


def test_a_network_is_exported_with_unit_embeddings(runs, tmp_path):
    (exported,) = kd.export(runs[0], ["litert"], output=tmp_path)
    assert exported.path == tmp_path / "model.tflite"
    table = json.loads((tmp_path / "export.json").read_text())
    assert table["source_verification_accuracy"] == pytest.approx(accuracy(runs[0].model()), abs=1e-6)
    images, _ = people(range(6, 10))
    run, _ = load_embedder(exported.path)
    cosines = (run(images) * embed(runs[0].model(), images, flip=False)).sum(-1)
    assert cosines.min() > 1 - 1e-5
    with pytest.raises(ValueError, match="'score' is not a tolerance of faces"):
        kd.export(runs[0], ["litert"], output=tmp_path, tolerance={"score": 1.0})


def test_too_few_pairs_for_the_metric_keep_the_exports(runs, tmp_path, caplog):
    images, labels = people(range(6, 10), images=1)
    rows = {"image": images, "index": np.arange(4), "label": labels - 6}
    few = data.Source(tf.data.Dataset.from_tensor_slices(rows), "few", 4, 4, ("a", "b", "c", "d"), SHAPE)
    (exported,) = kd.export(runs[0], ["litert"], output=tmp_path, data=few)
    table = json.loads((tmp_path / "export.json").read_text())
    assert exported.path.exists() and table["source_verification_accuracy"] is None
    assert "verification_accuracy of the source is left out" in caplog.text
