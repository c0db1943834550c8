"""How well does a network segment images, how similar is it to its teacher, and how certain are the numbers?"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from kd_keras.errors import explain_mismatch
from kd_keras.evaluation.calibration import BINS
from kd_keras.evaluation.intervals import RESAMPLES
from kd_keras.tasks.findings import interval_of
from kd_keras.tasks.segmentation.counts import AgreementCounts, PixelCounts


def segmentation_quality(counts: PixelCounts) -> Iterator[tuple[str, float | np.ndarray]]:
    """Yields the metrics of the classes of pixels, in [0, 1], of one confusion matrix over all images.

    * `miou`, the mean over classes of IoU = n_kk / (sum_j n_kj + sum_j n_jk - n_kk), over the classes that are in the
      truth or in a prediction, and `iou_by_class` `(K,)`, NaN for the others (Everingham et al. 2015, section 4.2);
    * `fwiou`, the mean of IoU weighted by the number of true pixels of each class, and `pixel_accuracy` and
      `mean_accuracy`, the fraction of correct pixels, of all and as a mean over classes (Long et al. 2015, 1411.4038,
      section 5);
    * `boundary_f`, the mean over images of the mean over their classes of F = 2 P R / (P + R) of boundary pixels, and
      `boundary_f_by_class` `(K,)`, the mean over the images with the class (Csurka et al. 2013, BMVC); NaN if no image
      has a boundary.

    >>> counts = PixelCounts(np.array([[[3, 1], [0, 4]]]), np.zeros((1, 2, 4)), np.zeros((15, 3)), 0.0, 0.0)
    >>> round(dict(segmentation_quality(counts))["miou"], 4)  # (3/4 + 4/5) / 2
    0.775
    """
    matrix = counts.confusion.sum(0)
    iou = iou_of(matrix)
    truth, correct = matrix.sum(1), np.diag(matrix)
    share = truth / np.maximum(truth.sum(), 1)
    yield "miou", _mean(iou)
    yield "pixel_accuracy", float(correct.sum() / np.maximum(truth.sum(), 1))
    yield "mean_accuracy", _mean(np.divide(correct, truth, out=np.full(len(truth), np.nan), where=truth > 0))
    yield "fwiou", float(np.nansum(share * iou))
    yield "iou_by_class", iou
    f = boundary_f_of(counts.boundaries)
    has_class = np.isfinite(f)
    of_images = [row[known].mean() for row, known in zip(f, has_class, strict=True) if known.any()]
    yield "boundary_f", float(np.mean(of_images)) if of_images else np.nan
    number = has_class.sum(0)
    total = np.where(has_class, f, 0).sum(0)
    yield "boundary_f_by_class", np.divide(total, number, out=np.full(f.shape[-1], np.nan), where=number > 0)


def iou_of(confusion: np.ndarray) -> np.ndarray:
    """IoU `(..., K)` of confusion matrices `(..., K, K)`, NaN for a class without any pixel.

    >>> iou_of(np.array([[3, 1], [0, 4]])).tolist()
    [0.75, 0.8]
    """
    intersection = np.diagonal(confusion, axis1=-2, axis2=-1).astype("float64")
    union = confusion.sum(-1) + confusion.sum(-2) - intersection
    return np.divide(intersection, union, out=np.full(intersection.shape, np.nan), where=union > 0)


def boundary_f_of(boundaries: np.ndarray) -> np.ndarray:
    """F `(..., K)` of the counts `(..., K, 4)` of `count_boundaries`, NaN for a class without a boundary.

    >>> boundary_f_of(np.array([[1, 2, 1, 1], [0, 0, 0, 0]])).round(4).tolist()  # P = 1/2, R = 1
    [0.6667, nan]
    """
    near_predicted, predicted, near_true, true = np.moveaxis(boundaries.astype("float64"), -1, 0)
    precision, recall = near_predicted / np.maximum(predicted, 1), near_true / np.maximum(true, 1)
    f = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return np.where(predicted + true > 0, f, np.nan)


def pixel_calibration(counts: PixelCounts) -> Iterator[tuple[str, float | np.ndarray]]:
    """Yields how well the probabilities of pixels are calibrated: `nll`, `ece`, `brier` and `reliability` `(15, 3)`.

    As `evaluation.calibration` computes them for images, over all valid pixels.

    >>> bins = np.zeros((15, 3))
    >>> bins[14] = [0.95 * 10, 8, 10]
    >>> counts = PixelCounts(np.array([[[8, 2], [0, 0]]]), np.zeros((1, 2, 4)), bins, 5.0, 2.0)
    >>> {name: round(value, 3) for name, value in pixel_calibration(counts) if name != "reliability"}
    {'nll': 0.5, 'ece': 0.15, 'brier': 0.2}
    """
    confidence, correct, number = counts.bins.T
    pixels = number.sum()
    if not pixels:
        return
    yield "nll", float(counts.nll / pixels)
    yield "ece", float(np.abs(confidence - correct).sum() / pixels)
    yield "brier", float(counts.brier / pixels)
    middle = (np.arange(BINS) + 0.5) / BINS
    mean = np.divide(confidence, number, out=middle, where=number > 0)
    accuracy = np.divide(correct, number, out=np.full(BINS, np.nan), where=number > 0)
    yield "reliability", np.stack([mean, accuracy, number], -1)


def segmentation_agreement(counts: AgreementCounts) -> Iterator[tuple[str, float | np.ndarray]]:
    """Yields how similar a student's class maps are to its teacher's, over all pixels, also ignored ones.

    * `agreement_miou`, the mean IoU with the teacher's classes as truth, and `agreement_by_class` `(K,)`;
    * `agreement`, the fraction of pixels for which both predict the same class;
    * `kl`, the mean KL(teacher || student) in nats.

    >>> dict(segmentation_agreement(AgreementCounts(np.array([[[2, 0], [0, 2]]]), 1.0)))["agreement_miou"]
    1.0
    """
    matrix = counts.confusion.sum(0)
    iou = iou_of(matrix)
    yield "agreement_miou", _mean(iou)
    yield "agreement", float(np.trace(matrix) / matrix.sum())
    yield "kl", counts.kl / float(matrix.sum())
    yield "agreement_by_class", iou


def segmentation_intervals(
    confusion: np.ndarray, reference: np.ndarray | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Iterator[tuple[str, float]]:
    """Yields 95 % bootstrap percentile intervals over images, whose pixels are not independent of each other.

    * `miou_low`, `miou_high`, `pixel_accuracy_low`, `pixel_accuracy_high`;
    * with a reference: `difference`, the mean IoU minus that of the reference, `difference_low` and `difference_high`,
      from the same resamples.

    Frames of one video resemble each other, so that the intervals are too narrow for such data.

    Args:
        confusion: `(N, K, K)`, of `PixelCounts`.
        reference: those of another network for the same images.
        resamples: their number.
        seed: of the resampling.

    Raises:
        ValueError: if the reference has other images or classes.

    >>> dict(segmentation_intervals(np.array([[[1, 0], [0, 1]]] * 5)))["miou_low"]
    1.0
    """
    if reference is not None and (reference.shape != confusion.shape or (reference.sum(-1) != confusion.sum(-1)).any()):
        received = f"confusion matrices {confusion.shape} and {reference.shape} of other pixels"
        raise ValueError(explain_mismatch("two networks on the same images", received))
    images = len(confusion)
    draws = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), resamples)
    names: dict[str, Callable] = {"miou": _miou, "pixel_accuracy": _accuracy}
    matrices = _resampled(draws, confusion)
    for name, measure in names.items():
        yield from interval_of(name, measure(matrices))
    if reference is not None:
        yield "difference", float(_miou(confusion.sum(0)) - _miou(reference.sum(0)))
        yield from interval_of("difference", _miou(matrices) - _miou(_resampled(draws, reference)))


def _resampled(draws: np.ndarray, confusion: np.ndarray) -> np.ndarray:
    """The sums `(R, K, K)` of the matrices of the drawn images."""
    return np.tensordot(draws.astype("float64"), confusion.astype("float64"), 1)


def _miou(matrices: np.ndarray) -> np.ndarray:
    iou = iou_of(matrices)
    known = np.isfinite(iou)
    return np.where(known, iou, 0).sum(-1) / np.maximum(known.sum(-1), 1)


def _accuracy(matrices: np.ndarray) -> np.ndarray:
    return np.trace(matrices, axis1=-2, axis2=-1) / np.maximum(matrices.sum((-2, -1)), 1)


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
