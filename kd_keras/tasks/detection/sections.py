"""The sections of the report about numbers: curves, classes, sizes, agreement, scores.

Each function takes the networks, the teacher first and the judged one last, and returns a `Section`, or `None` if the
findings contain nothing for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kd_keras.report.figures import MIN_BIN, Series, draw_dots, draw_lines, draw_reliability
from kd_keras.report.sections.base import Network, Plot, Section, Table, decimal, is_missing, percent
from kd_keras.tasks.findings import networks_with, tabulate

MAX_CLASSES = 20
MAX_CURVES = 5  # classes with a figure of their own
SIZES = ("small, below 32² pixels", "medium, up to 96²", "large")


def show_precision_recall(networks: Sequence[Network], classes: Sequence[str]) -> Section | None:
    """Precision over recall at the IoU threshold 0.5: the mean over the classes, and each class if they are few."""
    known = networks_with("precision_by_recall", networks)
    if not known:
        return None
    curves = [network.findings["precision_by_recall"] for network in known]
    columns = [("the mean over the classes", [_mean_over_classes(curve) for curve in curves])]
    with_objects = np.flatnonzero(~np.isnan(curves[-1]).all(0))
    if 1 < len(with_objects) <= MAX_CURVES:
        columns += [(classes[index], [curve[:, index] for curve in curves]) for index in with_objects.tolist()]
    plots = []
    for number, (title, values) in enumerate(columns):
        lines = [
            Series(network.label, network.style, 100 * np.linspace(0, 1, 101), np.where(value > 0, value, np.nan))
            for network, value in zip(known, values, strict=True)
        ]
        lines = [line for line in lines if not is_missing(line.y)]
        if not lines:
            continue
        areas = ", ".join(f"{line.name} {percent(float(np.nansum(line.y)) / 101)}" for line in lines)
        svg = draw_lines(
            f"precision-{number}", f"Precision over recall, {title}; AP50: {areas}", lines, "recall, %", title
        )
        plots.append(Plot(svg, f"Precision over recall, {title}. The area is the AP50: {areas}."))
    intro = (
        "How many of the detections are right (precision) if the threshold of the score is so low that a part of the"
    )
    intro += (
        " objects is found (recall); a detection is right if its IoU with an object is at least 0.5. A line ends at"
    )
    intro += " the largest recall that the network reaches."
    return Section(plots, intro=intro, legend=True) if plots else None


def _mean_over_classes(curve: np.ndarray) -> np.ndarray:
    return np.nanmean(curve[:, ~np.isnan(curve).all(0)], axis=1)


def show_classes_and_sizes(networks: Sequence[Network], classes: Sequence[str]) -> Section | None:
    """AP by class, those that the judged network loses most first, and by the size of objects."""
    known = networks_with("ap_by_class", networks)
    if not known:
        return None
    last = known[-1].findings
    counts, values = last["objects_by_class"], np.stack([network.findings["ap_by_class"] for network in known])
    shown = np.flatnonzero(counts > 0)
    shown = shown[np.argsort(values[-1, shown] - values[0, shown], kind="stable")][:MAX_CLASSES]
    lines = [
        Series(network.label, network.style, value[shown], ()) for network, value in zip(known, values, strict=True)
    ]
    names = [classes[index] for index in shown.tolist()]
    worst = names[0]
    plots = [Plot(draw_dots("ap-classes", f"AP by class; first {worst}", names, lines, "AP"), "AP by class.")]
    heads = [network.label for network in known]
    rows = [[classes[k], f"{counts[k]:,}", *(percent(value[k]) for value in values)] for k in shown.tolist()]
    by_class = Table("By class", ["", "objects", *heads], rows)
    rows = []
    for index, (title, name) in enumerate(zip(SIZES, ("small", "medium", "large"), strict=True)):
        if count := int(last["objects_by_size"][index]):
            rows.append([title, f"{count:,}", *(percent(n.findings.get(f"ap_{name}")) for n in known)])
    by_size = Table("By the size of objects", ["", "objects", *heads], rows)
    limit = f" of the {MAX_CLASSES} largest losses" if (counts > 0).sum() > MAX_CLASSES else ""
    intro = f"The figure and the tables show AP, the mean over the IoU thresholds 0.5 to 0.95, by class{limit} and by"
    intro += " the area of the objects."
    if len(known) > 1:
        intro += f" The classes with the largest loss from {known[0].label} to {known[-1].label} come first."
    return Section(plots, [by_class, by_size], intro=intro, legend=True)


def show_agreement(networks: Sequence[Network]) -> Section | None:
    """How similar the boxes and scores are to the teacher's."""
    known = networks_with("agreement", networks)
    if not known:
        return None
    rows = {
        "agreement": ("AP with the teacher's boxes as objects", percent),
        "agreement50": ("AP50 with the teacher's boxes as objects", percent),
        "matched": ("the teacher's boxes that are found", percent),
        "matched_iou": ("mean IoU with these boxes", decimal),
        "score_correlation": ("rank correlation of the scores", decimal),
    }
    intro = "The teacher's boxes whose score reaches its best threshold are used as the objects."
    return Section(tables=[tabulate(known, rows)], intro=intro)


def show_scores(networks: Sequence[Network]) -> Section | None:
    """Precision over score, and the threshold of the score with the largest F1."""
    known = networks_with("reliability", networks)
    if not known:
        return None
    plots = []
    for index, network in enumerate(known):
        ece = f"ECE {decimal(network.findings.get('ece'))}"
        alt = f"Precision over score of {network.phrase}; {ece}"
        curve, labels = network.findings["reliability"], ("score", "precision")
        svg = draw_reliability(f"scores-{index}", alt, curve, None, network.style, labels)
        plots.append(Plot(svg, f"{network.label}: {ece}."))
    rows = {
        "score_threshold": ("threshold of the score", decimal),
        "f1": ("F1", percent),
        "precision": ("precision", percent),
        "recall": ("recall", percent),
    }
    table = tabulate(known, rows, "The threshold of the largest F1")
    intro = "How far the scores can be trusted: on the dashed diagonal a score is the probability that the detection"
    intro += " finds an object at the IoU threshold 0.5; below it the network is overconfident. Larger marks stand for"
    intro += f" more detections; bins of fewer than {MIN_BIN} are left out."
    return Section(plots, [table], intro=intro, thirds=True)
