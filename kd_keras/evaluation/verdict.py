"""May the small network replace the large one? Demands on what the other questions found, each kept or not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from kd_keras.errors import explain_mismatch, suggest

# For each demand the finding that it is about, and how that is held against the teacher's: as it is, as what it lacks
# of it, or as a share of it. A demand's name says whether its limit is the least or the most.
ABOUT = {
    "min_accuracy": ("accuracy", "value"),
    "max_accuracy_drop": ("accuracy", "drop"),
    "min_agreement": ("agreement", "value"),
    "max_ece": ("ece", "value"),
    "max_mce": ("mce", "value"),
    "min_auroc": ("auroc_probability", "value"),
    "max_latency_ratio": ("milliseconds", "ratio"),
    "max_size_ratio": ("kilobytes", "ratio"),
    "max_parameters_ratio": ("parameters", "ratio"),
    "max_macs_ratio": ("macs", "ratio"),
}


class Requirement(NamedTuple):
    """One demand: its `name`, its `limit`, what was `found`, whether it `holds`, and a `text` that says so."""

    name: str
    limit: float
    found: float
    holds: bool
    text: str


def check_requirements(limits: Mapping[str, float], student: Mapping[str, Any], teacher: Mapping[str, Any]) -> list[Requirement]:
    """Holds a student's findings against what is demanded of it.

    Args:
        limits: by a name of `ABOUT`. A drop is the teacher's accuracy minus the student's, a share (0.01 is a point);
            it is judged by the accuracies themselves, and the text gives the interval beside. A ratio is the student's
            value through the teacher's.
        student: its findings by name.
        teacher: those of the teacher.

    Returns:
        A `Requirement` for each limit. One whose finding is not a number does not hold.

    Raises:
        ValueError: for an unknown demand, or one whose finding is not there.

    >>> small, large = {"accuracy": 0.97, "parameters": 10}, {"accuracy": 0.98, "parameters": 100}
    >>> given = {"max_accuracy_drop": 0.005, "max_parameters_ratio": 0.25}
    >>> for demand in demands(given, small, large): print(demand.text)
    FAIL  max_accuracy_drop: needed at most 0.005, found 0.01
    PASS  max_parameters_ratio: needed at most 0.25, found 0.1
    """
    return [_judged(name, limit, student, teacher) for name, limit in limits.items()]


def _judged(name: str, limit: float, student: Mapping[str, Any], teacher: Mapping[str, Any]) -> Requirement:
    if name not in ABOUT:
        raise ValueError(explain_mismatch("a demand", repr(name), suggest(name, ABOUT)))
    finding, kind = ABOUT[name]
    for whose, findings in (("student", student), ("teacher", teacher)):
        if finding not in findings and (whose == "student" or kind != "value"):
            raise ValueError(explain_mismatch(f"the {whose}'s {finding!r}, for {name}", f"{', '.join(findings)}"))
    found = float(student[finding])
    if kind == "drop":
        found = float(teacher[finding]) - found
    elif kind == "ratio":
        found = found / float(teacher[finding]) if teacher[finding] else math.nan
    least = name.startswith("min_")
    # Accuracies are counts: a drop of exactly the limit must not fail by a rounding in the seventeenth digit.
    holds = (found >= limit if least else found <= limit) or math.isclose(found, limit, rel_tol=1e-9, abs_tol=1e-12)
    needed = f"at {'least' if least else 'most'} {limit:g}"
    text = f"{'PASS' if holds else 'FAIL'}  {name}: needed {needed}, found {found:.4g}"
    if kind == "drop" and "difference_low" in student:
        text += f" (95 %: {-student['difference_high']:.4g} to {-student['difference_low']:.4g})"
    return Requirement(name, limit, found, holds, text)
