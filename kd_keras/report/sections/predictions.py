"""The sections about what a network has learned and predicts: training, confusion, accuracy by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kd_keras.report.figures import MAX_NUMBERED, Numbers, Series, draw_dots, draw_heat_map, draw_lines
from kd_keras.report.sections.base import Network, Plot, Section, Table, is_missing, percent
from kd_keras.report.sections.trade_off import ACCURACY, Metric

MAX_CLASSES = 20  # of more classes, those with the largest losses of the judged network are shown
MAX_TERMS = 6
OTHER_COLUMNS = ("epoch", "accuracy", "loss", "learning_rate")  # columns of the history that are not loss terms


def show_training(networks: Sequence[Network], classes: Sequence[str], metric: Metric = ACCURACY) -> Section | None:
    """The metric on test images by epoch, and the terms of the judged network's loss."""
    plots = []
    column = f"val_{metric.finding}"
    curves = [_curve(network, column) for network in networks if not is_missing(network.history.get(column))]
    if curves:
        ends = [f"{line.name} {percent(_last(line.y))} (best {percent(np.nanmax(line.y))})" for line in curves]
        caption = f"{metric.title} on the test images after each epoch. Compare the last value with the best one:"
        caption += f" {', '.join(ends)}."
        alt = f"Test {metric.word} by epoch: {', '.join(ends)}"
        svg = draw_lines(f"training-{metric.finding}", alt, curves, "epoch", f"test {metric.word}")
        plots.append(Plot(svg, caption))
    terms = _loss_terms(networks[-1])
    if terms:
        plots.append(_plot_terms(networks[-1], terms))
    return Section(plots) if plots else None


def _loss_terms(network: Network) -> list[str]:
    names = [name for name in network.history if not name.startswith("val_") and name not in OTHER_COLUMNS]
    return [name for name in names if not is_missing(network.history[name])][:MAX_TERMS]


def _plot_terms(network: Network, terms: Sequence[str]) -> Plot:
    styles = (3, 4, 5, 6, 1, 2)  # begins with styles that the networks rarely have
    curves = [_curve(network, name)._replace(name=name, style=styles[index]) for index, name in enumerate(terms)]
    ends = ", ".join(f"{line.name} {_last(line.y):.3g}" for line in curves)
    alt = f"Loss terms by epoch; final values: {ends}"
    svg = draw_lines("training-terms", alt, curves, "epoch", "loss term, training images", percent=False)
    caption = f"The terms of the loss of {network.phrase}, before weighting. Look for a term that does not decrease."
    return Plot(svg, f"{caption} Final values: {ends}.")


def _curve(network: Network, column: str) -> Series:
    values = network.history[column]
    return Series(network.label, network.style, network.history.get("epoch", range(len(values))), values)


def _last(values: Numbers) -> float:
    array = np.asarray(values, "float64")
    return float(array[np.isfinite(array)][-1])


def show_confusion(networks: Sequence[Network], classes: Sequence[str]) -> Section | None:
    """The confusion matrices of the teacher and of the judged network, and the latter's most frequent errors."""
    judged = networks[-1]
    if is_missing(judged.findings.get("confusion")):
        return None
    plots = []
    for index, network in enumerate([networks[0], judged][-len(networks) :]):
        if not is_missing(network.findings.get("confusion")):
            fractions = _normalize_rows(network.findings["confusion"])
            correct = percent(network.findings.get("accuracy"))
            alt = f"Confusion matrix of {network.phrase}: rows are true classes, columns are predictions; {correct} are"
            alt += " correct"
            axes = ("true", f"predicted by {network.label}")
            svg = draw_heat_map(f"confusion-{index}", alt, fractions, classes, classes, axes)
            caption = f"For each true class (row), the percentage of images that {network.phrase} assigns to each class"
            caption += f" (column). Entries off the diagonal are errors; {correct} are on the diagonal."
            if len(fractions) > MAX_NUMBERED:
                caption += " The strength of the color follows the square root of the fraction."
            plots.append(Plot(svg, caption))
    return Section(plots, [_frequent_errors(networks, classes)])


def _frequent_errors(networks: Sequence[Network], classes: Sequence[str]) -> Table:
    fractions = _normalize_rows(networks[-1].findings["confusion"])
    errors = np.where(np.eye(len(fractions), dtype=bool), 0, np.nan_to_num(fractions))
    order = np.argsort(errors, axis=None)[::-1][:8]
    known = [network for network in networks if not is_missing(network.findings.get("confusion"))]
    matrices = [_normalize_rows(network.findings["confusion"]) for network in known]
    rows = []
    for true, predicted in zip(*np.unravel_index(order, fractions.shape), strict=True):
        if errors[true, predicted] > 0:
            cells = [percent(matrix[true, predicted]) for matrix in matrices]
            rows.append([f"{classes[true]} → {classes[predicted]}", *cells])
    caption = f"The most frequent errors of {networks[-1].phrase}, as a fraction of the true class."
    return Table(caption, ["true → predicted", *(network.label for network in known)], rows)


def _normalize_rows(counts: np.ndarray) -> np.ndarray:
    counts = np.asarray(counts, "float64")
    return counts / np.maximum(1, counts.sum(-1, keepdims=True))


def show_classes(networks: Sequence[Network], classes: Sequence[str]) -> Section | None:
    """Accuracy and agreement of each class; the classes with the largest loss of the judged network come first."""
    judged = networks[-1]
    known = [network for network in networks if not is_missing(network.findings.get("accuracy_by_class"))]
    agreement = judged.findings.get("agreement_by_class")
    if is_missing(agreement) and not known:
        return None
    order = np.argsort(-_class_losses(judged, known), kind="stable")[:MAX_CLASSES]
    names = [classes[index] for index in order]
    shown = "each class"
    if len(order) < len(classes):
        shown = f"the {len(order)} of {len(classes)} classes with the largest loss"
    plots = []
    if known:
        values = [np.asarray(network.findings["accuracy_by_class"])[order] for network in known]
        series = [Series(network.label, network.style, row, ()) for network, row in zip(known, values, strict=True)]
        alt = f"Accuracy of {shown}; first {names[0]}"
        first = f"the {'largest loss' if len(known) > 1 else 'lowest accuracy'}: {names[0]}"
        caption = f"Accuracy of {shown}, beginning with {first}. Long lines are large differences."
        plots.append(Plot(draw_dots("class-accuracy", alt, names, series, "accuracy"), caption))
    if not is_missing(agreement):
        line = Series(judged.label, judged.style, np.asarray(agreement)[order], ())
        lowest = int(np.nanargmin(agreement))
        text = f"{classes[lowest]} with {percent(agreement[lowest])}"
        svg = draw_dots(
            "class-agreement", f"Agreement by class; lowest: {text}", names, [line], "agreement with the teacher"
        )
        caption = f"How often {judged.phrase} predicts the same class as the teacher. The lowest value: {text}."
        plots.append(Plot(svg, caption))
    return Section(plots, legend=True)


def _class_losses(judged: Network, known: Sequence[Network]) -> np.ndarray:
    """`(K,)`: how much accuracy the judged network loses compared with the first one, or else its lack of agreement."""
    agreement = judged.findings.get("agreement_by_class")
    if len(known) > 1 and known[-1] is judged:
        losses = known[0].findings["accuracy_by_class"] - judged.findings["accuracy_by_class"]
    else:
        losses = -np.asarray(judged.findings["accuracy_by_class"] if is_missing(agreement) else agreement)
    return np.where(np.isnan(losses), -np.inf, losses)  # a class without test images comes last
