"""How certain is an average precision, and the difference between two detectors, given the test images?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kd_keras.evaluation.box_matches import Matches, average_precision_of
from kd_keras.tasks.findings import interval_of

RESAMPLES = 1000


def intervals(
    model: Matches, reference: Matches | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Iterator[tuple[str, float]]:
    """Yields 95 % bootstrap percentile intervals over images (Efron and Tibshirani 1993, section 13.3).

    * `ap_low`, `ap_high`, `ap50_low`, `ap50_high`;
    * compared with another detector: `difference`, the AP of `model` minus that of `reference`, with `difference_low`
      and `difference_high` from the same resamples of images for both.

    Detections are matched with objects before resampling, because the matches of an image do not depend on the others.
    A resample draws n images with replacement; a class without an object in it does not count. The intervals cover the
    choice of the test images only: they do not say how much another training would differ. They yield nothing if there
    are no objects.

    Args:
        model: the detector's matches (`match_detections`).
        reference: those of another detector in the same images.
        resamples: the number of resamples, 1000 by default.
        seed: of the resampling.

    Raises:
        ValueError: if the two are not matches of the same objects.

    >>> from kd_keras.detection.decoding import Detections
    >>> from kd_keras.evaluation.box_matches import match_detections
    >>> labels = {"boxes": np.array([[[0.0, 0.0, 0.5, 0.5]]]), "classes": np.array([[0]])}
    >>> detections = Detections(np.array([[[0.0, 0.0, 50.0, 50.0]]]), np.array([[0.9]]), np.array([[0]]), np.array([1]))
    >>> perfect = match_detections(labels, detections, (100, 100), 1)
    >>> {name: round(value, 3) for name, value in intervals(perfect, perfect, resamples=10)}["difference_high"]
    0.0
    """
    if not len(model.object_images):
        return
    if reference is not None:
        _check_same_objects(model, reference)
    compared = [model] if reference is None else [model, reference]
    images = model.shape[0]
    draws = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), resamples)
    # (detectors, resamples, 2); a resample of images without an object has no value
    values = np.array([[average_precision_of(matches, weights) for weights in draws] for matches in compared])
    for index, name in enumerate(("ap", "ap50")):
        yield from interval_of(name, values[0, :, index])
    if reference is not None:
        yield "difference", average_precision_of(model)[0] - average_precision_of(reference)[0]
        yield from interval_of("difference", values[0, :, 0] - values[1, :, 0])


def _check_same_objects(model: Matches, reference: Matches) -> None:
    names = ("object_images", "object_rows", "object_classes")
    same = model.shape == reference.shape
    same = same and all(np.array_equal(getattr(model, name), getattr(reference, name)) for name in names)
    if not same:
        raise ValueError(
            "Two detectors are compared on the same objects, but one was matched with"
            f" {len(model.object_images)} objects in {model.shape[0]} images and the other with"
            f" {len(reference.object_images)} in {reference.shape[0]}, or these are others. Match both with the same"
            " labels."
        )
