"""The sections of the report about numbers: the IoU of classes, agreement, calibration.

Each function takes the networks, the teacher first and the judged one last, and returns a `Section`, or `None` if the
findings contain nothing for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kd_keras.report.figures import Series, draw_dots, draw_reliability
from kd_keras.report.sections.base import Network, Plot, Section, Table, decimal, percent
from kd_keras.tasks.findings import networks_with, tabulate

MAX_CLASSES = 30


def show_class_iou(networks: Sequence[Network], classes: Sequence[str]) -> Section | None:
    """IoU and boundary F of each class, those that the judged network loses most first.

    >>> findings = {"iou_by_class": np.array([0.5, 0.7]), "boundary_f_by_class": np.array([0.5, np.nan])}
    >>> show_class_iou([Network("student", "the student", 1, findings, {})], ["sky", "road"]).tables[0].rows[0]
    ['sky', '50.0\\xa0%', '50.0\\xa0%']
    """
    known = networks_with("iou_by_class", networks)
    if not known:
        return None
    values = np.stack([network.findings["iou_by_class"] for network in known])
    shown = np.flatnonzero(np.isfinite(values).all(0))
    shown = shown[np.argsort(values[-1, shown] - values[0, shown], kind="stable")][:MAX_CLASSES]
    plots = []
    if len(shown):
        lines = [
            Series(network.label, network.style, row[shown], ()) for network, row in zip(known, values, strict=True)
        ]
        names = [classes[index] for index in shown.tolist()]
        plots = [
            Plot(draw_dots("iou-classes", f"IoU by class; first {names[0]}", names, lines, "IoU"), "IoU by class.")
        ]
    rows = [
        [
            classes[k],
            *(percent(row[k]) for row in values),
            *(percent(network.findings["boundary_f_by_class"][k]) for network in known),
        ]
        for k in [*shown.tolist(), *np.flatnonzero(~np.isfinite(values).all(0)).tolist()]
    ]
    heads = [f"{network.label}, {kind}" for kind in ("IoU", "boundary F") for network in known]
    intro = (
        "IoU is the number of pixels that are of a class and predicted as it, divided by those that are either, over"
    )
    intro += " all test images. Boundary F measures how exactly the edges are found. A dash stands for a class without"
    intro += " pixels."
    if len(known) > 1:
        intro += f" The classes that {known[-1].phrase} loses most compared with {known[0].phrase} come first."
    if (count := int(np.isfinite(values).all(0).sum())) > MAX_CLASSES:
        intro += f" Only {MAX_CLASSES} of {count} classes with pixels are shown."
    return Section(plots, [Table("By class", ["", *heads], rows)], intro=intro, legend=True)


def show_agreement(networks: Sequence[Network]) -> Section | None:
    """How similar the class maps are to the teacher's.

    >>> findings = {"agreement": 0.9, "agreement_miou": 0.5, "kl": 0.1}
    >>> show_agreement([Network("student", "the student", 1, findings, {})]).tables[0].rows[1][1]
    '50.0\\xa0%'
    """
    known = networks_with("agreement", networks)
    if not known:
        return None
    rows = {
        "agreement": ("pixels of the same class", percent),
        "agreement_miou": ("mean IoU with the teacher's classes as truth", percent),
        "kl": ("KL divergence from the teacher, nats", decimal),
    }
    intro = "Compared with the class maps and the probabilities of the teacher, over all pixels, also ignored ones."
    return Section(tables=[tabulate(known, rows)], intro=intro)


def show_pixel_calibration(networks: Sequence[Network]) -> Section | None:
    """Accuracy over confidence of pixels."""
    known = networks_with("reliability", networks)
    if not known:
        return None
    plots = []
    for index, network in enumerate(known):
        ece = f"ECE {decimal(network.findings.get('ece'))}"
        alt = f"Accuracy of pixels over confidence of {network.phrase}; {ece}"
        svg = draw_reliability(f"pixels-{index}", alt, network.findings["reliability"], None, network.style)
        plots.append(Plot(svg, f"{network.label}: {ece}."))
    intro = "How far the probabilities of pixels can be trusted: on the dashed diagonal they are right as often as they"
    intro += " say; below it the network is overconfident. Larger marks stand for more pixels."
    return Section(plots, intro=intro, thirds=True)
