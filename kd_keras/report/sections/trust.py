"""The sections on how far a network can be trusted: calibration, robustness, similarity, generalization."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kd_keras.report.figures import MIN_BIN, Series, draw_dots, draw_heat_map, draw_lines, draw_reliability
from kd_keras.report.sections.base import Network, Plot, Section, Table, decimal, is_missing, percent


def show_calibration(networks: Sequence[Network], classes: Sequence[str]) -> Section | None:
    """Reliability before and after temperature scaling, and a table of its measures."""
    known = [network for network in networks if not is_missing(network.findings.get("reliability"))]
    if not known:
        return None
    plots = []
    for index, network in enumerate(known):
        before, after = network.findings["reliability"], network.findings.get("reliability_scaled")
        ece = f"ECE {decimal(network.findings.get('ece'))}"
        if after is not None:
            ece += f" before, {decimal(network.findings.get('ece_scaled'))} after scaling by T = "
            ece += decimal(network.findings.get("temperature"), 2)
        alt = f"Accuracy over confidence of {network.phrase}; {ece}"
        svg = draw_reliability(f"reliability-{index}", alt, before, after, network.style)
        plots.append(Plot(svg, f"{network.label}: {ece}."))
    intro = "How far the confidence can be trusted: on the dashed diagonal it equals the accuracy; below it the network"
    intro += " is overconfident. Filled marks are before and hollow marks after scaling by the temperature that is"
    intro += f" fitted on held-out images. Larger marks stand for more images; bins of fewer than {MIN_BIN} are left"
    intro += " out. An ECE of 0 is perfect."
    return Section(plots, [_calibration_table(known)], intro=intro, thirds=True)


def _calibration_table(known: Sequence[Network]) -> Table:
    names: dict[str, str] = {}
    for name, text in (("ece", "ECE"), ("nll", "NLL, nats"), ("brier", "Brier score")):
        names |= {name: text, f"{name}_scaled": f"{text}, scaled"}
    names["temperature"] = "temperature T"
    values = {name: [network.findings.get(name) for network in known] for name in names}
    rows = [
        [text, *map(decimal, values[name])] for name, text in names.items() if not all(map(is_missing, values[name]))
    ]
    return Table("", ["", *(network.label for network in known)], rows)


def show_robustness(networks: Sequence[Network], classes: Sequence[str]) -> Section | None:
    """Error under corruptions: by severity, over all corruptions, and by corruption, over all severities."""
    known = [network for network in networks if _corruptions(network)]
    if not known:
        return None
    names = _corruptions(known[-1])
    errors = [np.stack([network.findings[f"error_{name}"] for name in names]) for network in known]
    by_severity, by_name = [], []
    for network, error in zip(known, errors, strict=True):
        clean = np.nan if is_missing(network.findings.get("accuracy")) else 1 - network.findings["accuracy"]
        by_severity.append(Series(network.label, network.style, range(6), [clean, *error.mean(0)]))
        by_name.append(Series(network.label, network.style, error.mean(1), ()))
    order = np.argsort(-errors[-1].mean(1), kind="stable")
    by_name = [line._replace(x=np.asarray(line.x)[order]) for line in by_name]
    worst = names[order[0]].replace("_", " ")
    ends = ", ".join(f"{line.name} {percent(line.y[-1])}" for line in by_severity)
    first = draw_lines(
        "robustness-severity", f"Error by severity; at severity 5: {ends}", by_severity, "severity", "error"
    )
    rows = [names[index].replace("_", " ") for index in order]
    second = draw_dots("robustness-corruption", f"Error by corruption; worst: {worst}", rows, by_name, "error")
    caption = (
        f"Mean error over {len(names)} corruptions by severity; severity 0 is the uncorrupted test set. At severity"
    )
    caption += f" 5: {ends}."
    plots = [
        Plot(first, caption),
        Plot(
            second,
            f"Error by corruption, mean over severities. Long lines are large differences; the worst is {worst}.",
        ),
    ]
    mean_errors = [percent(network.findings.get("corruption_error")) for network in known]
    ratios = [decimal(network.findings.get("mce")) for network in known]
    table = Table(
        "mCE is the error relative to that of the teacher: 1 is as robust as the teacher, above 1 is less robust.",
        ["over all corruptions", *(network.label for network in known)],
        [["mean error", *mean_errors], ["mCE", *ratios]],
    )
    return Section(plots, [table], legend=True)


def _corruptions(network: Network) -> list[str]:
    return [name.removeprefix("error_") for name in network.findings if name.startswith("error_")]


def show_similarity(networks: Sequence[Network], classes: Sequence[str]) -> Section | None:
    """CKA between the stages of the judged network and of its teacher."""
    judged = networks[-1]
    if is_missing(judged.findings.get("cka")):
        return None
    cka = np.asarray(judged.findings["cka"])
    rows, columns = ([str(1 + index) for index in range(size)] for size in cka.shape)
    alt = f"CKA between stages of {judged.phrase} and of the teacher; the last two: {decimal(cka[-1, -1], 2)}"
    svg = draw_heat_map("cka", alt, cka, rows, columns, (f"stage of {judged.phrase}", "stage of the teacher"))
    caption = "How similarly the two networks represent the same images, stage by stage (linear CKA in percent; 100 is"
    caption += " identical up to rotation and scale). Look along the diagonal; the last stages:"
    caption += f" {percent(cka[-1, -1], 0)}."
    return Section([Plot(svg, caption)])


def show_generalization(networks: Sequence[Network], classes: Sequence[str]) -> Section | None:
    """The gap between training and test images, and whether images of another dataset are recognized."""
    rows: dict[str, tuple[str, Callable]] = {
        "accuracy_train": ("accuracy on training images", percent),
        "gap": ("gap, training minus test", percent),
        "auroc_probability": ("AUROC by largest probability", decimal),
        "auroc_energy": ("AUROC by energy", decimal),
    }
    values = {name: [network.findings.get(name) for network in networks] for name in rows}
    cells = [
        [rows[name][0], *map(rows[name][1], values[name])] for name in rows if not all(map(is_missing, values[name]))
    ]
    if not cells:
        return None
    caption = "A large gap is a sign of overfitting."
    if not all(map(is_missing, values["auroc_probability"])):
        caption += " AUROC measures how well the confidence of the network separates the test images from images of"
        caption += " another dataset: 0.5 is chance, 1 is perfect."
    table = Table(caption, ["", *(network.label for network in networks)], cells)
    return Section(tables=[table])
