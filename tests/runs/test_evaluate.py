"""kd_keras.evaluate: which images and networks it evaluates, its verdict, and the page."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import kd_keras as kd
from kd_keras import models
from kd_keras.runs.candidates import evaluation_settings, resolve_data, training_images
from tests.support.networks import convolutional, source
from tests.support.pages import SECTIONS, Elements
from tests.support.runs import trained


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs")
    teacher = trained(directory, "teacher", 6, "--train_split=train")
    student = trained(directory, "student", 3, "--method=kd(temperature=4)", "--train_split=train")
    return teacher, student, trained(directory, "baseline", 4, "--train_split=train[:30]")


@pytest.fixture(scope="module")
def evaluated(runs, tmp_path_factory):
    """All questions but memory, which starts processes, about three runs; with the page."""
    page = tmp_path_factory.mktemp("page") / "page.html"
    teacher, student, baseline = runs
    result = kd.evaluate(
        [kd.Run(baseline), student],
        teacher=teacher,
        requirements={"min_agreement": 0.999, "max_parameters_ratio": 1.0},
        report=page,
        examples=24,
        command="python -m experiments.evaluate --report=page.html",
    )
    return result, page


def test_what_a_run_recorded_is_used_unless_other_data_are_passed(runs):
    teacher, student, _ = runs
    recorded = {"data": "digits", "test_split": "test[:200]", "data_dir": str(teacher.parent / "data")}
    reading = dict.fromkeys(("image_channels", "image_bits", "class_names", "ignored"))  # as the run read its images
    reading["download_timeout"] = 60.0
    for data, options, changed in (
        (None, {}, {}),
        ("digits", {}, {}),  # the same data keep their split
        (None, {"test_split": "test[:50]"}, {"test_split": "test[:50]"}),
        ("other", {}, {"data": "other", "test_split": "test"}),
        (None, {"image_size": (4, 4), "data_dir": "/elsewhere"}, {"image_size": (4, 4), "data_dir": "/elsewhere"}),
    ):
        assert resolve_data(data, teacher, options) == {"image_size": None, **reading, **recorded, **changed}
    assert "data" not in evaluation_settings(convolutional(4, 10, (8, 8, 1)))


def test_names_of_other_classes_than_those_of_the_images_are_refused(runs):
    with pytest.raises(ValueError, match="the classes of 'digits', .*'9'.*, but received class_names=a,b. Leave it"):
        kd.evaluate(runs[0], class_names=("a", "b"))


def test_test_images_that_were_a_python_object_are_not_replaced_by_others(runs, tmp_path):
    run = trained(tmp_path, "object", 3, "# --test_data is not a flag of this run: a Source, given from Python")
    with pytest.raises(ValueError, match="are not known.*Pass data="):
        resolve_data(None, run, {})
    named = trained(tmp_path, "named", 3, "--test_data=digits")
    text = (named / "flags.txt").read_text().replace("--data=digits", "# --data is not a flag of this run: a Source")
    (named / "flags.txt").write_text(text)
    assert resolve_data(None, named, {})["data"] == "digits"


def test_networks_that_were_tested_on_different_images_are_named(runs, tmp_path, caplog):
    teacher, student, _ = runs
    other = trained(tmp_path, "other", 3)
    (other / "flags.txt").write_text((student / "flags.txt").read_text().replace("test[:200]", "test[:90]"))
    network = convolutional(4, 10, (8, 8, 1))
    with caplog.at_level("INFO", "kd_keras"):
        result = kd.evaluate([other], teacher=network, data_dir=str(teacher.parent / "data"))
        assert result.findings[str(other)]["confusion"].sum() == 90, "of the first network that knows its images"
        kd.evaluate([other], teacher=teacher)
    warning = f"{other} was tested on data=digits, test_split=test[:90], image_size=None when it was trained"
    assert warning in caplog.text and "(1 of 2)" in caplog.text


def test_the_findings_are_of_the_test_images_of_the_teachers_run(runs, evaluated):
    result, _ = evaluated
    assert list(result.findings) == [str(runs[0]), str(runs[2]), str(runs[1])] and result.teacher == str(runs[0])
    findings = result.findings[str(runs[1])]
    assert findings["confusion"].sum() == 200, "the test split of the run"
    images = kd.data.load("digits", "test[:200]", str(runs[0].parent / "data"))
    pixels, labels = (np.stack([example[key].numpy() for example in images.examples]) for key in ("image", "label"))
    predictions = np.array(kd.Run(runs[1]).model()(pixels.astype("float32"))).argmax(-1)
    assert findings["accuracy"] == pytest.approx(np.mean(predictions == labels))
    assert findings["gap"] == pytest.approx(findings["accuracy_train"] - findings["accuracy"])
    assert findings["kilobytes"] == pytest.approx((runs[1] / "model.keras").stat().st_size / 1000)


def test_the_verdict_is_on_the_last_model(runs, evaluated, tmp_path):
    result, _ = evaluated
    agreement, ratio = result.verdict.requirements
    assert not result.verdict.passed and not agreement.passed and ratio.passed
    assert agreement.value == result.findings[str(runs[1])]["agreement"]
    assert str(result).endswith(f"{agreement.text}\n{ratio.text}") and "| accuracy | agreement |" in str(result)
    assert "200 test images of digits." in str(result)
    result.save(tmp_path / "findings.json")
    saved = json.loads((tmp_path / "findings.json").read_text())[str(runs[1])]
    assert np.shape(saved["confusion"]) == (10, 10) and len(saved["error_jpeg"]) == 5


def test_the_page_shows_the_findings(runs, evaluated):
    result, page = evaluated
    elements = Elements(page.read_text(encoding="utf-8"))
    findings = result.findings[str(runs[1])]
    assert {each["id"] for each in elements.all("section")} == SECTIONS - {"int8"}, "no network was trained for int8"
    assert f"✗ FAIL Agreement at least 99.9 % {100 * findings['agreement']:.1f} %" in elements.text
    assert f"{100 * findings['agreement']:.1f} %" in elements.text.partition("Agreement with the teacher –")[2][:30]
    assert f"mean error {100 * result.findings[str(runs[0])]['corruption_error']:.1f} %" in elements.text
    assert "200 test images of digits. Corruptions, attention and CKA use" in elements.text
    assert "distilled student" in elements.text and "distilled 12.5 % (best 12.5 %)" in elements.text
    assert "python -m experiments.distill --run=NEW --flagfile=" in elements.text
    assert "python -m experiments.train --run=NEW --flagfile=" in elements.text
    assert "python -m experiments.evaluate --report=page.html" in elements.text
    assert len(elements.all("img")) == 8 * 4 + 10 and "▲ baseline" in elements.text


def test_models_that_differ_only_in_their_training_images_get_a_table(runs):
    teacher, _, baseline = runs
    result = kd.evaluate(baseline, teacher=teacher, batch_size=64)
    accuracies = [result.findings[str(run)]["accuracy"] for run in (baseline, teacher)]
    assert [line.split(" | ")[1:] for line in result.by_training_size[0].splitlines()[2:]] == [
        ["30", f"{accuracies[0]:.4f} |"],
        ["1,000", f"{accuracies[1]:.4f} |"],
    ]


def test_keras_models_on_other_images(runs):
    models = [convolutional(name="small"), convolutional(name="small"), convolutional(6, name="large")]
    result = kd.evaluate(models[:2], teacher=models[2], data=source(20), requirements={"min_accuracy": 0.0})
    assert list(result.findings) == ["large", "small", "small 2"] and result.verdict.passed
    assert all(row["confusion"].sum() == 20 and row["kilobytes"] > 1 for row in result.findings.values())
    assert list(kd.evaluate([models[2], models[2]], data=source(20)).findings) == ["large"]
    with pytest.raises(ValueError, match="Pass data="):
        kd.evaluate(models[0])


def test_invalid_requests(runs, tmp_path):
    teacher, student, _ = runs
    for options, error, message in (
        ({"requirements": {"min_acuracy": 0.5}}, ValueError, "did you mean min_accuracy"),
        ({"questions": ["robustnes"]}, ValueError, "did you mean robustness"),
        ({"requirements": {"min_auroc": 0.5}}, ValueError, "other_data="),
        ({"report": tmp_path / "none" / "page.html"}, ValueError, "does not exist"),
        ({"splits": "test"}, TypeError, "splits"),
    ):
        with pytest.raises(error, match=message):
            kd.evaluate(student, teacher=teacher, **options)
    with pytest.raises(ValueError, match="only a teacher"):
        kd.evaluate(teacher=teacher, requirements={"min_accuracy": 0.5})
    with pytest.raises(ValueError, match="at least one model"):
        kd.evaluate()


def test_a_run_names_its_training_and_test_images(runs, tmp_path):
    (tmp_path / "flags.txt").write_text(
        f"--data=digits\n--data_dir={runs[0].parent / 'data'}\n--train_split=train[:30]\n--test_split=test[:9]\n"
        "--image_size=16,12\n--without_classes=0,3\n"
    )
    run = kd.Run(tmp_path)
    labels = {int(example["label"]) for example in training_images(run).examples}
    assert training_images(run).size < 30 and not labels & {0, 3}
    settings = evaluation_settings(run)
    assert (settings["data"], settings["test_split"], settings["image_size"]) == ("digits", "test[:9]", (16, 12))


def test_requirements_on_a_drop_need_a_teacher_and_examples_are_a_number(runs):
    with pytest.raises(ValueError, match="compares a model with its teacher"):
        kd.evaluate(runs[0], requirements={"max_accuracy_drop": 0.0})
    with pytest.raises(ValueError, match=r"evaluate\(examples=...\) must be a whole number of at least 4"):
        kd.evaluate(runs[0], questions=["similarity"], examples=0)
    with pytest.raises(ValueError, match=r"export\(calibration=...\) must be a whole number of at least 1"):
        kd.export(runs[0], ["litert_int8"], calibration=0)


def write_folder(place, splits):
    """Gray images of a single brightness for each class, in folders."""
    for split, names in splits.items():
        for name in names:
            (place / split / name).mkdir(parents=True)
            for number in range(4):
                pixels = np.full((8, 8), 40 * "abc".index(name) + number, "uint8")
                Image.fromarray(pixels).save(place / split / name / f"{number}.png")
    return place


def test_images_of_some_of_the_classes_do_not_hide_the_others(tmp_path):
    every = write_folder(tmp_path / "every", {"train": "abc", "test": "abc"})
    run = kd.train(model="mlp(hidden=(4,))", data=every, epochs=1, run=tmp_path / "run")
    some = write_folder(tmp_path / "some", {"train": "ab", "test": "ab"})
    with pytest.raises(ValueError, match="must have the 2 classes of the images.*, but it has 3 classes"):
        kd.evaluate(run, data=some)
    without_c = write_folder(tmp_path / "without_c", {"train": "abc", "test": "ab"})
    assert kd.evaluate(run, data=without_c).findings[str(run.path)]["confusion"].shape == (3, 3)


def test_a_dataset_without_the_last_class_can_be_evaluated(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)).astype("uint8")
    train = tf.data.Dataset.from_tensor_slices((images, np.arange(20) % 5))
    test = tf.data.Dataset.from_tensor_slices((images, np.arange(20) % 4))
    run = kd.train(model="mlp(hidden=(4,))", data=train, test_data=test, epochs=1, run=tmp_path / "run")
    (findings,) = kd.evaluate(run, data=test).findings.values()
    assert findings["accuracy"] == pytest.approx(run.result["last"]["val_accuracy"])


def test_test_images_that_a_network_was_trained_on_are_reported(runs, caplog):
    teacher, _, baseline = runs
    kd.evaluate(baseline, teacher=teacher, test_split="train[20:60]")
    assert f"40 of the 40 test images are training images of {teacher}, so that" in caplog.text
    assert f"10 of the 40 test images are training images of {baseline}, so that" in caplog.text
    caplog.clear()
    kd.evaluate(baseline, teacher=teacher, test_split="test[:20]")
    assert "training images" not in caplog.text


def test_training_images_that_are_gone_leave_the_evaluation_complete(tmp_path, caplog):
    place = write_folder(tmp_path / "old", {"train": "ab", "more": "ab", "test": "ab"})
    runs = [
        kd.train(model="mlp(hidden=(4,))", data=place, train_split=split, epochs=1, run=tmp_path / split)
        for split in ("train", "more")
    ]
    moved = place.rename(tmp_path / "new")
    result = kd.evaluate(runs, data=moved)
    assert len(result.findings) == 2 and result.by_training_size == ()
    assert "is not in the table of training sizes" in caplog.text


def test_the_page_of_a_single_network_compares_it_with_nothing(tmp_path):
    network = models.build("mlp", (8, 8, 1), 10, hidden=(4,))
    for given, mark in (({"models": network}, "◆ mlp"), ({"teacher": network}, "■ teacher")):
        page, data = tmp_path / "page.html", {"data": "digits", "test_split": "test[:50]", "data_dir": str(tmp_path)}
        requirements = {"min_accuracy": 0.0} if "models" in given else None
        kd.evaluate(**given, **data, questions=["similarity"], requirements=requirements, report=page)
        text = Elements(page.read_text(encoding="utf-8")).text
        assert (
            mark in text
            and "beginning with the lowest accuracy" in text
            and "the same class as the teacher" not in text
        )
        assert ("PASS: the network meets its requirements" in text) == ("models" in given)
