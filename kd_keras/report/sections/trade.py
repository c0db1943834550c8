"""The head of the report: what was demanded and found, and what each network gives and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kd_keras.report.figures import Line, trade
from kd_keras.report.sections.base import Network, Plot, decimal, missing, percent


class Verdict(NamedTuple):
    """One demand in words: its name, what was needed and found, a note (may be empty), and whether it holds."""

    name: str
    needed: str
    found: str
    note: str
    holds: bool


class Cell(NamedTuple):
    """A text, and smaller ones under it."""

    text: str
    notes: Sequence[str] = ()


def verdict(demand: Any, found: Mapping[str, Any]) -> Verdict:
    r"""A `kd_keras.evaluation.verdict.Requirement` on the network of these findings in words, with as many digits as tell
    the two numbers apart.

    >>> from collections import namedtuple
    >>> demand = namedtuple("Demand", "name limit found holds")("max_accuracy_drop", 0.01, 0.01004, False)
    >>> verdict(demand, {})[:3]
    ('Accuracy drop', 'at most 1.000\xa0points', '1.004\xa0points')
    """
    bound, _, name = demand.name.partition("_")
    text = _points if name.endswith("drop") else percent if name in ("accuracy", "agreement") else decimal
    text = _times if name.endswith("ratio") else text
    least = {percent: 1, decimal: 3}.get(text, 2)
    apart = (some for some in range(least, 7) if text(demand.limit, some) != text(demand.found, some))
    digits = next(apart, least)
    note = ""
    if name.endswith("drop") and not missing(found.get("difference_low")):
        low, high = (-found[f"difference_{end}"] for end in ("high", "low"))
        note = f"95\u00a0%: {100 * low:.{digits}f}–{100 * high:.{digits}f}"
    words = name.replace("_", " ")
    words = {"ece": "Calibration error (ECE)", "mce": "Corruption error (mCE)"}.get(name, words[0].upper() + words[1:])
    needed = f"at {'least' if bound == 'min' else 'most'} {text(demand.limit, digits)}"
    return Verdict(words, needed, text(demand.found, digits), note, bool(demand.holds))


def headlines(networks: Sequence[Network]) -> list[Cell]:
    """What the judged network gives and costs against the teacher, the first, in a few numbers."""
    teacher, judged = networks[0].findings, networks[-1].findings
    made = []
    if not missing(judged.get("accuracy")) and not missing(teacher.get("accuracy")):
        change = _points(judged["accuracy"] - teacher["accuracy"])
        made.append(Cell(change.replace("-", "−"), [f"accuracy: {percent(judged['accuracy'])}"]))
    if not missing(judged.get("agreement")):
        made.append(Cell(percent(judged["agreement"]), ["same answer as the teacher"]))
    for name, better, worse in (("kilobytes", "smaller", "larger"), ("milliseconds", "faster", "slower")):
        if not missing(judged.get(name)) and not missing(teacher.get(name)):
            ratio = teacher[name] / judged[name]
            words = f"{better if ratio >= 1 else worse}: {COSTS[name][1](judged[name])}"
            made.append(Cell(f"{max(ratio, 1 / ratio):.1f}\u00a0×", [words]))
    return made


def rows(networks: Sequence[Network], teacher: Network | None) -> list[tuple[str, list[Cell]]]:
    """The table of the trade: a name, and a cell for each network; a row that none knows is left out."""
    made = [("Accuracy", [_accuracy(each) for each in networks])]
    if teacher is not None:
        differences = [Cell("–") if each is teacher else _difference(each) for each in networks]
        made.append(("Points against the teacher", differences))
    made.append(("Top-5 accuracy", [Cell(percent(each.findings.get("top5"))) for each in networks]))
    agreeing = [Cell("–") if each is teacher else Cell(percent(each.findings.get("agreement"))) for each in networks]
    made.append(("Same answer as the teacher", agreeing))
    for name, (words, text) in COSTS.items():
        cells = []
        for each in networks:
            slow = each.findings.get(f"{name}_p95")
            notes = [] if each is teacher or teacher is None else [_ratio(each, teacher, name)]
            notes += [] if missing(slow) else [f"p95\u00a0{_digits(slow)}"]
            cells.append(Cell(text(each.findings.get(name)), list(filter(None, notes))))
        made.append((words, cells))
    return [(words, cells) for words, cells in made if any(cell.text != "–" for cell in cells)]


def figures(networks: Sequence[Network]) -> list[Plot]:
    """Accuracy over those costs that every network knows."""
    made = []
    for name, across in (("parameters", "parameters"), ("macs", "MACs per image"), ("milliseconds", "ms per image")):
        known = [each for each in networks if not missing(each.findings.get("accuracy"))]
        if len(known) < 2 or any(missing(each.findings.get(name)) for each in known):
            continue
        costs = [COSTS[name][1](each.findings[name]) for each in known]
        told = [f"{each.label} {percent(each.findings['accuracy'])} at {cost}" for each, cost in zip(known, costs)]
        points = [_point(each, name) for each in known]
        svg = trade(f"trade-{name}", f"Accuracy over {across}: {'; '.join(told)}", points, across)
        made.append(Plot(svg, f"Accuracy over {across}: {', '.join(told[-1:] + told[:1])}."))
    return made


def scaled(count: float | None) -> str:
    r"""A count in three digits.

    >>> scaled(272474), scaled(40813184), scaled(512), scaled(None)
    ('272\xa0k', '40.8\xa0M', '512', '–')
    """
    if missing(count):
        return "–"
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= 0.9995 * limit:
            return f"{_digits(count / limit)}\u00a0{letter}"
    return _digits(count)


def _digits(value: float) -> str:
    """Three digits that count, and none of them an exponent."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def _bytes(kilobytes: float | None) -> str:
    if missing(kilobytes):
        return "–"
    return f"{_digits(kilobytes)}\u00a0kB" if kilobytes < 999.5 else _megabytes(kilobytes / 1000)


def _megabytes(value: float | None) -> str:
    return "–" if missing(value) else f"{_digits(value)}\u00a0MB"


def _milliseconds(value: float | None) -> str:
    return "–" if missing(value) else f"{_digits(value)}\u00a0ms"


def _points(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f}\u00a0points"


def _times(ratio: float, digits: int = 2) -> str:
    return f"{ratio:.{digits}f}\u00a0×"


COSTS = {
    "parameters": ("Parameters", scaled),
    "macs": ("MACs per image", scaled),
    "kilobytes": ("File size", _bytes),
    "milliseconds": ("Latency, 1 image", _milliseconds),
    "milliseconds_32": ("Latency, 32 images", _milliseconds),
    "megabytes": ("Memory, 32 images", _megabytes),
}


def _ratio(network: Network, teacher: Network, name: str) -> str:
    own, large = network.findings.get(name), teacher.findings.get(name)
    return "" if missing(own) or missing(large) or not large else f"{_digits(own / large)}\u00a0×"


def _accuracy(network: Network) -> Cell:
    low, high = (network.findings.get(f"accuracy_{end}") for end in ("low", "high"))
    notes = [] if missing(low) else [f"{100 * low:.1f}–{100 * high:.1f}"]
    return Cell(percent(network.findings.get("accuracy")), notes)


def _difference(network: Network) -> Cell:
    found = [network.findings.get(name) for name in ("difference", "difference_low", "difference_high", "mcnemar")]
    if missing(found[0]):
        return Cell("–")
    notes = [] if missing(found[1]) else [f"{100 * found[1]:.2f} to {100 * found[2]:.2f}".replace("-", "−")]
    if not missing(found[3]):
        notes.append("p\u00a0<\u00a00.001" if found[3] < 0.001 else f"p\u00a0=\u00a0{found[3]:.3f}")
    return Cell(f"{100 * found[0]:.2f}".replace("-", "−"), notes)


def _point(network: Network, name: str) -> Line:
    found = network.findings
    ends = [None if missing(found.get(f"accuracy_{end}")) else [found[f"accuracy_{end}"]] for end in ("low", "high")]
    return Line(network.label, network.look, [found[name]], [found["accuracy"]], *ends)
