"""Writes the page about detectors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import tensorflow as tf

from kd_keras.evaluation.verdict import Requirement
from kd_keras.files import write_text
from kd_keras.report.page import Subject, name_networks, render_page
from kd_keras.report.sections import Metric, show_training
from kd_keras.tasks.detection.gallery import show_boxes, show_misses
from kd_keras.tasks.detection.predictions import BoxPredictions
from kd_keras.tasks.detection.sections import (
    show_agreement,
    show_classes_and_sizes,
    show_precision_recall,
    show_scores,
)

AP = Metric("ap", "AP", {"ap50": "AP50", "ap75": "AP75", "ar100": "Recall with 100 boxes (AR)"})


def write_detection_report(
    path: str | os.PathLike,
    subjects: Sequence[Subject],
    requirements: Sequence[Requirement] = (),
    *,
    predictions: Mapping[str, BoxPredictions],
    images: tf.data.Dataset,
    class_names: Sequence[str] | None = None,
    data: str = "",
    command: str = "",
) -> None:
    """Writes one HTML page that says whether a detector may replace its teacher, and why.

    Args:
        path: the path of the HTML file.
        subjects: the networks with the findings of `evaluate_detections`, `cost` and `latency`: the teacher first, the
            judged one last.
        requirements: the requirements on the judged network, as `check_requirements` returns them.
        predictions: by the name of each subject, its detections in the test images.
        images: batches `(x, y)` or `x` of the test images in the same order, pixel values from 0 to 255.
        class_names: the names of the classes; numbers by default.
        data: a sentence about the test images.
        command: the command that repeats the page.

    Raises:
        ValueError: as `render_page`.
        ImportError: if Jinja2, matplotlib or Pillow is not installed.
    """
    named = name_networks(subjects)
    shown = list(named.values())
    first = predictions[subjects[0].name]
    classes = list(class_names or map(str, range(first.classes)))
    judged = subjects[-1].name
    teacher = subjects[0].name if subjects[0].role == "teacher" else judged
    sections = {
        "boxes": ("Boxes on images", show_boxes(named, predictions, images, classes)),
        "misses": ("Missed objects", show_misses(named, predictions, images, classes) if teacher != judged else None),
        "precision": ("Precision and recall", show_precision_recall(shown, classes)),
        "classes": ("Classes and sizes", show_classes_and_sizes(shown, classes)),
        "agreement": ("Agreement with the teacher", show_agreement(shown)),
        "scores": ("Scores", show_scores(shown)),
        "training": ("Training curves", show_training(shown, classes, AP)),
    }
    title = f"May {judged} replace {teacher}?" if teacher != judged else judged
    html = render_page(subjects, requirements, title=title, data=data, command=command, metric=AP, sections=sections)
    write_text(path, html)
