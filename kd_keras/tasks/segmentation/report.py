"""Writes the page about segmentation networks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from kd_keras.contracts import as_batch
from kd_keras.evaluation.verdict import Requirement
from kd_keras.files import write_text
from kd_keras.primitives import resize_bilinear
from kd_keras.report.page import Subject, name_networks, render_page
from kd_keras.report.sections import Metric, Network, Section, show_training
from kd_keras.tasks.segmentation.counts import logits_of, masks_of
from kd_keras.tasks.segmentation.figures import choose_examples, show_masks
from kd_keras.tasks.segmentation.sections import show_agreement, show_class_iou, show_pixel_calibration

MEAN_IOU = Metric(
    "miou",
    "mean IoU",
    {"fwiou": "IoU weighted by frequency", "pixel_accuracy": "Pixel accuracy", "boundary_f": "Boundary F"},
)


def write_segmentation_report(
    path: str | os.PathLike,
    subjects: Sequence[Subject],
    requirements: Sequence[Requirement] = (),
    *,
    networks: Mapping[str, keras.Model],
    confusion: Mapping[str, np.ndarray],
    images: tf.data.Dataset,
    class_names: Sequence[str] | None = None,
    data: str = "",
    command: str = "",
) -> None:
    """Writes one HTML page that says whether a segmentation network may replace its teacher, and why.

    Args:
        path: the path of the HTML file.
        subjects: the networks with their findings: the teacher first, the judged one last.
        requirements: the requirements on the judged network.
        networks: by the name of each subject, the network.
        confusion: by the name of each subject, `(N, K, K)`, as `PixelCounts` has it.
        images: batches `(x, y)` of the test images in the same order, y masks.
        class_names: the names of the classes; numbers by default.
        data: a sentence about the test images.
        command: the command that repeats the page.

    Raises:
        ValueError: as `render_page`.
        ImportError: if Jinja2, matplotlib or Pillow is not installed.
    """
    named = name_networks(subjects)
    shown, judged, first = list(named.values()), subjects[-1].name, subjects[0].name
    classes = list(class_names or map(str, range(confusion[judged].shape[-1])))
    masks = None
    if judged != first:
        masks = _show_examples(named, networks, choose_examples(confusion[judged], confusion[first]), images, classes)
    sections = {
        "masks": ("Masks on images", masks),
        "classes": ("Classes", show_class_iou(shown, classes)),
        "agreement": ("Agreement with the teacher", show_agreement(shown)),
        "calibration": ("Reliability of pixels", show_pixel_calibration(shown)),
        "training": ("Training curves", show_training(shown, classes, MEAN_IOU)),
    }
    title = f"May {judged} replace {first}?" if judged != first else judged
    html = render_page(
        subjects, requirements, title=title, data=data, command=command, metric=MEAN_IOU, sections=sections
    )
    write_text(path, html)


def _show_examples(
    named: Mapping[str, Network],
    networks: Mapping[str, keras.Model],
    numbers: Sequence[int],
    images: tf.data.Dataset,
    classes: Sequence[str],
) -> Section:
    """The masks of some test images, in the given order."""
    chosen: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    count = 0
    for masks, inputs in masks_of(images):
        places = {number: number - count for number in numbers if count <= number < count + len(masks)}
        chosen |= {number: (np.asarray(inputs[place]), masks[place]) for number, place in places.items()}
        count += len(masks)
    pixels, truth = (np.stack(column) for column in zip(*(chosen[number] for number in numbers), strict=True))
    spec = as_batch(images.element_spec).inputs
    predictions = {
        network.label: np.asarray(
            tf.argmax(resize_bilinear(logits_of(networks[name], spec)(tf.constant(pixels)), truth.shape[1:3]), -1)
        )
        for name, network in named.items()
    }
    return show_masks(pixels.round().astype("uint8"), truth, predictions, classes)
