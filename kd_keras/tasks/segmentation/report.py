"""What the page about segmentation networks shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from kd_keras.contracts import as_batch
from kd_keras.primitives import resize_bilinear
from kd_keras.report.sections import Metric, Network, Section, show_training
from kd_keras.tasks.segmentation.counts import logits_of, masks_of
from kd_keras.tasks.segmentation.figures import choose_examples, show_masks
from kd_keras.tasks.segmentation.sections import show_agreement, show_class_iou, show_pixel_calibration

MEAN_IOU = Metric(
    "miou",
    "mean IoU",
    {"fwiou": "IoU weighted by frequency", "pixel_accuracy": "Pixel accuracy", "boundary_f": "Boundary F"},
)


def segmentation_sections(
    networks: Mapping[str, Network],
    models: Mapping[str, keras.Model],
    confusion: Mapping[str, np.ndarray],
    images: tf.data.Dataset,
    class_names: Sequence[str] | None = None,
) -> dict[str, tuple[str, Section | None]]:
    """The sections of the page, as `write_page` takes them.

    Args:
        networks: by name, as the page shows them: the teacher first, the judged one last.
        models: by name, the Keras model.
        confusion: by name, `(N, K, K)`, as `PixelCounts` has it.
        images: batches `(x, y)` of the test images in the same order, y masks.
        class_names: the names of the classes; numbers by default.
    """
    shown, teacher, judged = list(networks.values()), next(iter(networks)), list(networks)[-1]
    classes = list(class_names or map(str, range(confusion[judged].shape[-1])))
    masks = None
    if judged != teacher:
        numbers = choose_examples(confusion[judged], confusion[teacher])
        masks = _show_examples(networks, models, numbers, images, classes)
    return {
        "masks": ("Masks on images", masks),
        "classes": ("Classes", show_class_iou(shown, classes)),
        "agreement": ("Agreement with the teacher", show_agreement(shown)),
        "calibration": ("Reliability of pixels", show_pixel_calibration(shown)),
        "training": ("Training curves", show_training(shown, classes, MEAN_IOU)),
    }


def _show_examples(
    networks: Mapping[str, Network],
    models: Mapping[str, keras.Model],
    numbers: Sequence[int],
    images: tf.data.Dataset,
    classes: Sequence[str],
) -> Section:
    """The masks of some test images, in the given order."""
    chosen: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    count = 0
    for masks, inputs in masks_of(images):
        indices = {number: number - count for number in numbers if count <= number < count + len(masks)}
        chosen |= {number: (np.asarray(inputs[index]), masks[index]) for number, index in indices.items()}
        count += len(masks)
    pixels, truth = (np.stack(column) for column in zip(*(chosen[number] for number in numbers), strict=True))
    spec = as_batch(images.element_spec).inputs
    predictions = {
        network.label: np.asarray(
            tf.argmax(resize_bilinear(logits_of(models[name], spec)(tf.constant(pixels)), truth.shape[1:3]), -1)
        )
        for name, network in networks.items()
    }
    return show_masks(pixels.round().astype("uint8"), truth, predictions, classes)
