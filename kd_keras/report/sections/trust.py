"""The report's parts on how far a network can be trusted: confidence, corruptions, other images, inner likeness."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kd_keras.report.figures import FEW, Line, dots, heat, lines, reliability
from kd_keras.report.sections.base import Network, Plot, Section, Table, decimal, missing, percent


def calibration(networks: Sequence[Network], classes: Sequence[str]) -> Section | None:
    """Reliability before and after temperature scaling, and the numbers that go with it."""
    known = [each for each in networks if not missing(each.findings.get("reliability"))]
    shown = []
    for place, each in enumerate(known):
        before, after = each.findings["reliability"], each.findings.get("reliability_scaled")
        ece = f"ECE {decimal(each.findings.get('ece'))}"
        if after is not None:
            ece += f" before, {decimal(each.findings.get('ece_scaled'))} after scaling by T = "
            ece += decimal(each.findings.get("temperature"), 2)
        alt = f"Accuracy over confidence of {each.called}; {ece}"
        svg = reliability(f"reliability-{place}", alt, before, after, each.look)
        shown.append(Plot(svg, f"{each.label}: {ece}."))
    names = {}
    for name, text in (("ece", "ECE"), ("nll", "NLL, nats"), ("brier", "Brier score")):
        names |= {name: text, f"{name}_scaled": f"{text}, scaled"}
    names["temperature"] = "temperature T"
    found = {name: [each.findings.get(name) for each in known] for name in names}
    rows = [[text, *map(decimal, found[name])] for name, text in names.items() if not all(map(missing, found[name]))]
    says = "How far confidence can be trusted: on the dashed diagonal it equals accuracy; under it the network is too"
    says += " sure of itself. Filled marks: as it is; hollow: after scaling by the temperature fitted on held-out"
    says += f" images. The larger a mark, the more images (bins of fewer than {FEW} are left out). Look at ECE:"
    says += " 0 is perfect."
    table = Table("", ["", *(each.label for each in known)], rows)
    return Section(shown, [table], says=says, thirds=True) if known else None


def robustness(networks: Sequence[Network], classes: Sequence[str]) -> Section | None:
    """Error under corruptions: by severity over all of them, and by corruption over all severities."""
    known = [each for each in networks if _corruptions(each)]
    if not known:
        return None
    names = _corruptions(known[-1])
    errors = [np.stack([each.findings[f"error_{name}"] for name in names]) for each in known]
    by_severity, by_name = [], []
    for each, error in zip(known, errors):
        clean = np.nan if missing(each.findings.get("accuracy")) else 1 - each.findings["accuracy"]
        by_severity.append(Line(each.label, each.look, range(6), [clean, *error.mean(0)]))
        by_name.append(Line(each.label, each.look, error.mean(1), ()))
    order = np.argsort(-errors[-1].mean(1), kind="stable")
    by_name = [line._replace(x=np.asarray(line.x)[order]) for line in by_name]
    worst = names[order[0]].replace("_", " ")
    ends = ", ".join(f"{line.name} {percent(line.y[-1])}" for line in by_severity)
    first = lines("robustness-severity", f"Error by severity; at 5: {ends}", by_severity, "severity", "error")
    rows = [names[place].replace("_", " ") for place in order]
    second = dots("robustness-corruption", f"Error by corruption; worst: {worst}", rows, by_name, "error")
    says = f"Error over {len(names)} corruptions by severity; 0 is the whole test set as it is. At 5: {ends}."
    shown = [
        Plot(first, says),
        Plot(second, f"Error by corruption, mean of the severities. Look for the widest gap; the worst is {worst}."),
    ]
    cells = [[percent(each.findings.get("corruption_error")) for each in known]]
    cells.append([decimal(each.findings.get("mce")) for each in known])
    table = Table(
        "mCE is the error relative to the teacher's: 1 is as robust, above 1 is less.",
        ["over all corruptions", *(each.label for each in known)],
        [["mean error", *cells[0]], ["mCE", *cells[1]]],
    )
    return Section(shown, [table], legend=True)


def _corruptions(network: Network) -> list[str]:
    return [name.removeprefix("error_") for name in network.findings if name.startswith("error_")]


def similarity(networks: Sequence[Network], classes: Sequence[str]) -> Section | None:
    """CKA between the stages of the judged network and of its teacher."""
    judged = networks[-1]
    if missing(judged.findings.get("cka")):
        return None
    cka = np.asarray(judged.findings["cka"])
    rows, columns = ([str(1 + place) for place in range(size)] for size in cka.shape)
    alt = f"CKA between stages of {judged.called} and of the teacher; the last two {decimal(cka[-1, -1], 2)}"
    svg = heat("cka", alt, cka, rows, columns, (f"stage of {judged.called}", "stage of the teacher"))
    says = "How alike the two see the same images, stage by stage (linear CKA, in per cent: 100 is the same up to a"
    says += f" rotation). Look along the diagonal; the last stages: {percent(cka[-1, -1], 0)}."
    return Section([Plot(svg, says)])


def generalization(networks: Sequence[Network], classes: Sequence[str]) -> Section | None:
    """The gap from training to test images, and whether other images are told apart."""
    rows: dict[str, tuple[str, Callable]] = {
        "accuracy_train": ("accuracy on training images", percent),
        "gap": ("gap, training minus test", percent),
        "auroc_probability": ("AUROC by highest probability", decimal),
        "auroc_energy": ("AUROC by energy", decimal),
    }
    found = {name: [each.findings.get(name) for each in networks] for name in rows}
    cells = [[rows[name][0], *map(rows[name][1], found[name])] for name in rows if not all(map(missing, found[name]))]
    if not cells:
        return None
    says = "A large gap says that training images were learnt by heart."
    if not all(map(missing, found["auroc_probability"])):
        says += " AUROC says how well images of another dataset are told from the test images by the network's"
        says += " confidence: 0.5 is chance, 1 perfect."
    table = Table(says, ["", *(each.label for each in networks)], cells)
    return Section(tables=[table])
