"""What the page about detectors shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from kd_keras.report.sections import Metric, Network, Section, show_training
from kd_keras.tasks.detection.gallery import show_boxes, show_misses
from kd_keras.tasks.detection.predictions import BoxPredictions
from kd_keras.tasks.detection.sections import (
    show_agreement,
    show_classes_and_sizes,
    show_precision_recall,
    show_scores,
)

AP = Metric("ap", "AP", {"ap50": "AP50", "ap75": "AP75", "ar100": "Recall with 100 boxes (AR)"})


def detector_sections(
    networks: Mapping[str, Network],
    predictions: Mapping[str, BoxPredictions],
    images: tf.data.Dataset,
    class_names: Sequence[str] | None = None,
) -> dict[str, tuple[str, Section | None]]:
    """The sections of the page, as `write_page` takes them.

    Args:
        networks: by name, as the page shows them, with the findings of `evaluate_detections`: the teacher first, the
            judged one last.
        predictions: by name, the detections in the test images.
        images: batches `(x, y)` or `x` of the test images in the same order, pixel values from 0 to 255.
        class_names: the names of the classes; numbers by default.
    """
    shown = list(networks.values())
    count = next(iter(predictions.values())).classes
    classes = list(class_names or map(str, range(count)))
    return {
        "boxes": ("Boxes on images", show_boxes(networks, predictions, images, classes)),
        "misses": ("Missed objects", show_misses(networks, predictions, images, classes) if len(shown) > 1 else None),
        "precision": ("Precision and recall", show_precision_recall(shown, classes)),
        "classes": ("Classes and sizes", show_classes_and_sizes(shown, classes)),
        "agreement": ("Agreement with the teacher", show_agreement(shown)),
        "scores": ("Scores", show_scores(shown)),
        "training": ("Training curves", show_training(shown, classes, AP)),
    }
