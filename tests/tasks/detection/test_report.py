"""The page about detectors: its sections, what they say, and the boxes that are drawn."""

import base64
import io
import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kd_keras.evaluation import check_requirements
from kd_keras.report.page import Subject, name_networks
from kd_keras.tasks.detection.drawing import DrawnBox, draw_on_image
from kd_keras.tasks.detection.evaluation import evaluate_detections
from kd_keras.tasks.detection.predictions import BoxPredictions
from kd_keras.tasks.detection.report import AP, detector_sections
from kd_keras.tasks.page import write_page
from tests.support.boxes import SIZE, detections, labels, random_case
from tests.support.pages import Elements

pytest.importorskip("pycocotools", reason="pycocotools is not installed")
COUNT = 9


def write(path, predictions, findings, requirements=(), class_names=None, history=None):
    roles = {"teacher": "teacher", "plain": "baseline", "small": "distilled"}
    subjects = [Subject(name, roles[name], measured, history or {}) for name, measured in findings.items()]
    images = tf.data.Dataset.from_tensor_slices(np.full((COUNT, 50, 100, 3), 128.0, "float32")).batch(4)
    sections = detector_sections(name_networks(subjects), predictions, images, class_names)
    write_page(path, subjects, requirements, metric=AP, sections=sections)
    return path.read_text()


@pytest.fixture(scope="module")
def evaluated():
    truth = random_case(COUNT)[0]
    noise = {"teacher": 1.0, "plain": 6.0, "small": 3.0}
    predictions = {name: BoxPredictions(random_case(COUNT, noise=n)[1], truth, SIZE, 3) for name, n in noise.items()}
    findings = {"teacher": evaluate_detections(predictions["teacher"], resamples=20)}
    findings |= {
        name: evaluate_detections(predictions[name], predictions["teacher"], 20) for name in ("plain", "small")
    }
    return predictions, findings


def test_all_sections_are_shown_and_the_verdict_is_about_the_ap(evaluated, tmp_path):
    predictions, findings = evaluated
    required = check_requirements({"max_ap_drop": 0.01}, findings["small"], findings["teacher"])
    history = {"epoch": [0, 1], "val_ap": [0.1, 0.2], "loss": [2.0, 1.0]}
    html = write(
        tmp_path / "x.html", predictions, findings, requirements=required, class_names=["a", "b", "c"], history=history
    )
    shown = {element["id"] for element in Elements(html).all("section")}
    sections = {"boxes", "misses", "precision", "classes", "agreement", "scores", "training"}
    assert shown == {"verdict", "trade-off", "reproduce", *sections}
    assert "May small replace teacher?" in html and "FAIL" in html and "AP drop" in html
    assert f"AP: {100 * findings['small']['ap']:.1f}\u00a0%" in html and "ccuracy" not in html
    assert not re.search(r"https?://|javascript:|<script", html)
    ids = [attributes["id"] for _, attributes in Elements(html).elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    assert len(pictures) >= 6 * 4 and Image.open(io.BytesIO(base64.b64decode(pictures[0]))).size == (360, 180)


def test_a_single_detector_without_labels_has_its_boxes(tmp_path):
    predictions = {"teacher": BoxPredictions(random_case(COUNT)[1], None, SIZE, 3)}
    html = write(tmp_path / "x.html", predictions, {"teacher": {"parameters": 10}})
    assert {element["id"] for element in Elements(html).all("section")} == {
        "verdict",
        "trade-off",
        "reproduce",
        "boxes",
    }


def test_the_counts_are_those_of_the_threshold(tmp_path):
    objects = [(0, 0, 0, 40, 40), (1, 60, 0, 80, 20)]
    truth = labels(objects, *[[]] * (COUNT - 1))
    rows = [(0.9, 0, 0, 0, 40, 40), (0.8, 1, 60, 0, 80, 20), (0.7, 1, 150, 50, 190, 90), (0.2, 0, 100, 50, 140, 90)]
    teacher = BoxPredictions(detections(rows, *[[]] * (COUNT - 1)), truth, SIZE, 2)
    small = BoxPredictions(detections([rows[0], rows[2]], *[[]] * (COUNT - 1)), truth, SIZE, 2)
    findings = {"teacher": evaluate_detections(teacher), "small": evaluate_detections(small, teacher)}
    html = write(tmp_path / "x.html", {"teacher": teacher, "small": small}, findings)
    assert "teacher: finds 2 of 2, 0 wrong" in html  # from 0.8 on
    assert "distilled: finds 1 of 2, 0 wrong" in html and "Only the teacher finds 50.0\u00a0% of the objects" in html


def test_boxes_are_drawn_in_the_color_of_their_class():
    image = np.full((50, 100), 255, "uint8")
    solid = draw_on_image(image, [DrawnBox((0.2, 0.2, 0.8, 0.8), 1)])
    dashed = draw_on_image(image, [DrawnBox((0.2, 0.2, 0.8, 0.8), 1, is_dashed=True)])
    in_color = [(one == (86, 180, 233)).all(-1) for one in (solid, dashed)]
    rows, columns = np.nonzero(in_color[0])
    assert np.abs(np.array([rows.min(), rows.max(), columns.min(), columns.max()]) - [36, 144, 72, 288]).max() <= 2
    assert 0.3 * in_color[0].sum() < in_color[1].sum() < 0.7 * in_color[0].sum()
