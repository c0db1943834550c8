"""The report's parts on what a network learnt and says: training, confusion, class by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kd_keras.report.figures import NUMBERED, Line, dots, heat, lines
from kd_keras.report.sections.base import Network, Plot, Section, Table, missing, percent

MOST_CLASSES = 20  # of more classes, those are shown on which the judged network is furthest behind
NOT_TERMS = ("epoch", "accuracy", "loss", "learning_rate")


def training(networks: Sequence[Network], classes: Sequence[str]) -> Section | None:
    """Test accuracy by epoch, and the terms of the judged network's loss."""
    drawn = [_curve(each, "val_accuracy") for each in networks if not missing(each.history.get("val_accuracy"))]
    shown = []
    if drawn:
        ends = [f"{line.name} {percent(_last(line.y))} (best {percent(np.nanmax(line.y))})" for line in drawn]
        says = f"Accuracy on the test images after each epoch. Look at the last against the best: {', '.join(ends)}."
        alt = "Test accuracy by epoch: " + ", ".join(ends)
        shown.append(Plot(lines("training-accuracy", alt, drawn, "epoch", "test accuracy"), says))
    history = networks[-1].history
    terms = [name for name in history if not name.startswith("val_") and name not in NOT_TERMS]
    terms = [name for name in terms if not missing(history[name])][:6]
    if terms:
        looks = (3, 4, 5, 6, 1, 2)  # not those of the networks first
        drawn = [_curve(networks[-1], name)._replace(name=name, look=looks[place]) for place, name in enumerate(terms)]
        ends = ", ".join(f"{line.name} {_last(line.y):.3g}" for line in drawn)
        says = f"The terms of the loss of {networks[-1].called}, each before its weight. Look for one that does not"
        alt = f"Loss terms by epoch; at the end {ends}"
        svg = lines("training-terms", alt, drawn, "epoch", "loss term, training images", percent=False)
        shown.append(Plot(svg, f"{says} fall; at the end: {ends}."))
    return Section(shown) if shown else None


def _curve(network: Network, column: str) -> Line:
    values = network.history[column]
    return Line(network.label, network.look, network.history.get("epoch", range(len(values))), values)


def _last(values: Sequence[float]) -> float:
    values = np.asarray(values, "float64")
    return float(values[np.isfinite(values)][-1])


def confusion(networks: Sequence[Network], classes: Sequence[str]) -> Section | None:
    """Whole confusion matrices of the teacher and of the judged network, and the latter's commonest mistakes."""
    judged = networks[-1]
    if missing(judged.findings.get("confusion")):
        return None
    shown = []
    for place, each in enumerate([networks[0], judged][-len(networks) :]):
        if not missing(each.findings.get("confusion")):
            shares = _by_row(each.findings["confusion"])
            right = percent(each.findings.get("accuracy"))
            alt = f"Confusion matrix of {each.called}: rows are true classes, columns its answers; {right} are right"
            svg = heat(f"confusion-{place}", alt, shares, classes, classes, ("true", f"{each.label} said"))
            says = f"Of each true class (row), the per cent that {each.called} gave to each class (column)."
            says += f" Look off the diagonal for what it mixes up; {right} lie on it."
            root = " The colour is as strong as the share's square root." if len(shares) > NUMBERED else ""
            shown.append(Plot(svg, says + root))
    return Section(shown, [_mistakes(networks, classes)])


def _mistakes(networks: Sequence[Network], classes: Sequence[str]) -> Table:
    shares = _by_row(networks[-1].findings["confusion"])
    mistakes = np.where(np.eye(len(shares), dtype=bool), 0, np.nan_to_num(shares))
    order = np.argsort(mistakes, axis=None)[::-1][:8]
    known = [each for each in networks if not missing(each.findings.get("confusion"))]
    matrices = [_by_row(each.findings["confusion"]) for each in known]
    rows = []
    for true, said in zip(*np.unravel_index(order, shares.shape)):
        if mistakes[true, said] > 0:
            cells = [percent(matrix[true, said]) for matrix in matrices]
            rows.append([f"{classes[true]} → {classes[said]}", *cells])
    says = f"The mistakes that {networks[-1].called} makes most often, as a share of the true class."
    return Table(says, ["true → said", *(each.label for each in known)], rows)


def _by_row(counts: np.ndarray) -> np.ndarray:
    counts = np.asarray(counts, "float64")
    return counts / np.maximum(1, counts.sum(-1, keepdims=True))


def by_class(networks: Sequence[Network], classes: Sequence[str]) -> Section | None:
    """Accuracy and agreement of each class, those first on which the judged network falls furthest behind."""
    judged = networks[-1]
    known = [each for each in networks if not missing(each.findings.get("accuracy_by_class"))]
    agreeing = judged.findings.get("agreement_by_class")
    if missing(agreeing) and not known:
        return None
    behind = -np.nan_to_num(agreeing if not missing(agreeing) else judged.findings["accuracy_by_class"])
    if len(known) > 1 and known[-1] is judged:
        behind = np.nan_to_num(known[0].findings["accuracy_by_class"] - judged.findings["accuracy_by_class"])
    order = np.argsort(-behind, kind="stable")[:MOST_CLASSES]
    names = [classes[place] for place in order]
    of = f"the {len(order)} of {len(classes)} classes furthest behind" if len(order) < len(classes) else "each class"
    shown = []
    if known:
        shares = [np.asarray(each.findings["accuracy_by_class"])[order] for each in known]
        drawn = [Line(each.label, each.look, share, ()) for each, share in zip(known, shares)]
        alt = f"Accuracy of {of}; first {names[0]}"
        says = f"Accuracy of {of}, the one that falls furthest behind first: {names[0]}. Look at the longest lines."
        shown.append(Plot(dots("class-accuracy", alt, names, drawn, "accuracy"), says))
    if not missing(agreeing):
        line = Line(judged.label, judged.look, np.asarray(agreeing)[order], ())
        least = int(np.nanargmin(agreeing))
        low = f"{classes[least]} with {percent(agreeing[least])}"
        alt = f"Agreement by class; least {low}"
        svg = dots("class-agreement", alt, names, [line], "same answer as the teacher")
        shown.append(Plot(svg, f"How often {judged.called} says what the teacher says. Look at the least: {low}."))
    return Section(shown, legend=True)
