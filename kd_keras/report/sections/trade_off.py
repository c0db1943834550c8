"""The top of the report: the requirements and their measured values, and the trade-off of accuracy and cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kd_keras.evaluation.verdict import Requirement
from kd_keras.report.figures import Series, draw_trade_off
from kd_keras.report.sections.base import Network, Plot, decimal, is_missing, percent


class RequirementRow(NamedTuple):
    """A requirement as text: its name, the limit, the measured value, a note (may be empty), and whether it passed."""

    name: str
    limit: str
    value: str
    note: str
    passed: bool


class Metric(NamedTuple):
    """The metric that the page is about.

    Attributes:
        finding: its name among the findings; the ends of its interval are `<finding>_low` and `<finding>_high`.
        word: its name in a sentence.
        others: further findings in [0, 1] that the table shows, and their titles.
    """

    finding: str
    word: str
    others: Mapping[str, str]

    @property
    def title(self) -> str:
        """Its name at the beginning of a line."""
        return self.word[0].upper() + self.word[1:]


FRACTIONS = ("accuracy", "ap", "miou", "verification_accuracy", "agreement")
ACCURACY = Metric("accuracy", "accuracy", {"top5": "Top-5 accuracy"})


class Cell(NamedTuple):
    """A text, and notes in smaller letters below it."""

    text: str
    notes: Sequence[str] = ()


def describe_requirement(requirement: Requirement, findings: Mapping[str, Any]) -> RequirementRow:
    r"""A requirement on the network of these findings as text, with enough digits to distinguish limit and value.

    >>> describe_requirement(Requirement("max_accuracy_drop", 0.01, 0.01004, False, ""), {})[:3]
    ('Accuracy drop', 'at most 1.000\xa0points', '1.004\xa0points')
    """
    bound, _, name = requirement.name.partition("_")
    text: Callable[..., str]
    text = _points if name.endswith("drop") else percent if name in FRACTIONS else decimal
    text = _times if name.endswith("ratio") else text
    fewest = 1 if text is percent else 3 if text is decimal else 2
    distinct = (count for count in range(fewest, 7) if text(requirement.limit, count) != text(requirement.value, count))
    digits = next(distinct, fewest)
    note = ""
    if name.endswith("drop") and not is_missing(findings.get("difference_low")):
        low, high = (-findings[f"difference_{end}"] for end in ("high", "low"))
        note = f"95\u00a0%: {100 * low:.{digits}f}–{100 * high:.{digits}f}"
    words = name.replace("_", " ")
    titles = {"ece": "Calibration error (ECE)", "mce": "Corruption error (mCE)", "ap_drop": "AP drop", "ap": "AP"}
    titles |= {"miou_drop": "Mean IoU drop", "miou": "Mean IoU", "auroc": "AUROC", "macs_ratio": "MACs ratio"}
    words = titles.get(name, words[0].upper() + words[1:])
    limit = f"at {'least' if bound == 'min' else 'most'} {text(requirement.limit, digits)}"
    return RequirementRow(words, limit, text(requirement.value, digits), note, bool(requirement.passed))


def headlines(networks: Sequence[Network], metric: Metric = ACCURACY) -> list[Cell]:
    """The main numbers: the judged network, the last one, compared with the teacher, the first one."""
    teacher, judged = networks[0].findings, networks[-1].findings
    cells = []
    if not is_missing(judged.get(metric.finding)) and not is_missing(teacher.get(metric.finding)):
        change = _points(judged[metric.finding] - teacher[metric.finding])
        cells.append(Cell(change.replace("-", "−"), [f"{metric.word}: {percent(judged[metric.finding])}"]))
    if not is_missing(judged.get("agreement")):
        cells.append(Cell(percent(judged["agreement"]), ["agreement with the teacher"]))
    for name, better, worse in (("kilobytes", "smaller", "larger"), ("milliseconds", "faster", "slower")):
        if not is_missing(judged.get(name)) and not is_missing(teacher.get(name)):
            ratio = teacher[name] / judged[name]
            note = f"{better if ratio >= 1 else worse}: {COSTS[name][1](judged[name])}"
            cells.append(Cell(f"{max(ratio, 1 / ratio):.1f}\u00a0×", [note]))
    return cells


def table_rows(
    networks: Sequence[Network], teacher: Network | None, metric: Metric = ACCURACY
) -> list[tuple[str, list[Cell]]]:
    """The table of the metric and costs: a name and a cell for each network; a row without any value is left out."""
    rows = [(metric.title, [_value(network, metric) for network in networks])]
    if teacher is not None:
        differences = [Cell("–") if network is teacher else _difference(network) for network in networks]
        rows.append(("Difference from the teacher, points", differences))
    for name, title in metric.others.items():
        rows.append((title, [Cell(percent(network.findings.get(name))) for network in networks]))
    agreements = [
        Cell("–") if network is teacher else Cell(percent(network.findings.get("agreement"))) for network in networks
    ]
    rows.append(("Agreement with the teacher", agreements))
    for name, (title, text) in COSTS.items():
        cells = []
        for network in networks:
            slow = network.findings.get(f"{name}_p95")
            notes = [] if network is teacher or teacher is None else [_ratio(network, teacher, name)]
            notes += [] if is_missing(slow) else [f"p95\u00a0{_digits(slow)}"]
            cells.append(Cell(text(network.findings.get(name)), list(filter(None, notes))))
        rows.append((title, cells))
    return [(title, cells) for title, cells in rows if any(cell.text != "–" for cell in cells)]


def trade_off_figures(networks: Sequence[Network], metric: Metric = ACCURACY) -> list[Plot]:
    """The metric over each cost that is known for every network."""
    plots = []
    for name, label in (("parameters", "parameters"), ("macs", "MACs per image"), ("milliseconds", "ms per image")):
        known = [network for network in networks if not is_missing(network.findings.get(metric.finding))]
        if len(known) < 2 or any(is_missing(network.findings.get(name)) for network in known):
            continue
        texts = [
            f"{network.label} {percent(network.findings[metric.finding])} at {COSTS[name][1](network.findings[name])}"
            for network in known
        ]
        points = [_point(network, name, metric) for network in known]
        alt = f"{metric.title} over {label}: {'; '.join(texts)}"
        svg = draw_trade_off(f"trade-off-{name}", alt, points, label, metric.word)
        plots.append(Plot(svg, f"{metric.title} over {label}: {', '.join(texts[-1:] + texts[:1])}."))
    return plots


def scaled(count: float | None) -> str:
    r"""A count with three digits.

    >>> scaled(272474), scaled(40813184), scaled(512), scaled(None)
    ('272\xa0k', '40.8\xa0M', '512', '–')
    """
    if is_missing(count):
        return "–"
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= 0.9995 * limit:
            return f"{_digits(count / limit)}\u00a0{letter}"
    return _digits(count)


def _digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def _bytes(kilobytes: float | None) -> str:
    if is_missing(kilobytes):
        return "–"
    return f"{_digits(kilobytes)}\u00a0kB" if kilobytes < 999.5 else _megabytes(kilobytes / 1000)


def _megabytes(value: float | None) -> str:
    return "–" if is_missing(value) else f"{_digits(value)}\u00a0MB"


def _milliseconds(value: float | None) -> str:
    return "–" if is_missing(value) else f"{_digits(value)}\u00a0ms"


def _points(fraction: float, digits: int = 2) -> str:
    return f"{100 * fraction:.{digits}f}\u00a0points"


def _times(ratio: float, digits: int = 2) -> str:
    return f"{ratio:.{digits}f}\u00a0×"


COSTS = {
    "parameters": ("Parameters", scaled),
    "macs": ("MACs per image", scaled),
    "kilobytes": ("File size", _bytes),
    "milliseconds": ("Latency, 1 image", _milliseconds),
    "milliseconds_heads": ("Latency without NMS", _milliseconds),
    "milliseconds_32": ("Latency, 32 images", _milliseconds),
    "megabytes": ("Memory, 32 images", _megabytes),
}


def _ratio(network: Network, teacher: Network, name: str) -> str:
    value, reference = network.findings.get(name), teacher.findings.get(name)
    return "" if is_missing(value) or is_missing(reference) or not reference else f"{_digits(value / reference)}\u00a0×"


def _value(network: Network, metric: Metric) -> Cell:
    low, high = (network.findings.get(f"{metric.finding}_{end}") for end in ("low", "high"))
    notes = [] if is_missing(low) or is_missing(high) else [f"{100 * low:.1f}–{100 * high:.1f}"]
    return Cell(percent(network.findings.get(metric.finding)), notes)


def _difference(network: Network) -> Cell:
    names = ("difference", "difference_low", "difference_high", "mcnemar")
    value, low, high, p = (network.findings.get(name) for name in names)
    if is_missing(value):
        return Cell("–")
    notes = []
    if not is_missing(low) and not is_missing(high):
        notes.append(f"{100 * low:.2f} to {100 * high:.2f}".replace("-", "−"))
    if not is_missing(p):
        notes.append("p\u00a0<\u00a00.001" if p < 0.001 else f"p\u00a0=\u00a0{p:.3f}")
    return Cell(f"{100 * value:.2f}".replace("-", "−"), notes)


def _point(network: Network, name: str, metric: Metric) -> Series:
    values = network.findings
    bounds = [f"{metric.finding}_{end}" for end in ("low", "high")]
    ends = [None if is_missing(values.get(bound)) else [values[bound]] for bound in bounds]
    return Series(network.label, network.style, [values[name]], [values[metric.finding]], *ends)
