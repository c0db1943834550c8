"""May the student replace its teacher? Requirements on the findings of the other questions, each met or not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from kd_keras.errors import suggest

# For each requirement the finding that it limits, and how: "value" limits the student's value itself, "drop" the
# teacher's value minus the student's, "ratio" the student's value divided by the teacher's. The prefix of the name says
# whether the limit is a minimum or a maximum.
REQUIREMENTS = {
    "min_accuracy": ("accuracy", "value"),
    "max_accuracy_drop": ("accuracy", "drop"),
    "min_ap": ("ap", "value"),
    "max_ap_drop": ("ap", "drop"),
    "min_miou": ("miou", "value"),
    "max_miou_drop": ("miou", "drop"),
    "min_verification_accuracy": ("verification_accuracy", "value"),
    "max_verification_accuracy_drop": ("verification_accuracy", "drop"),
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
    """One requirement: its `name` and `limit`, the measured `value`, whether it `passed`, and all of it as `text`."""

    name: str
    limit: float
    value: float
    passed: bool
    text: str


@dataclass(frozen=True)
class Verdict:
    """The requirements on a student, in the order in which they were given."""

    requirements: tuple[Requirement, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the student meets every requirement; also true if there are none."""
        return all(requirement.passed for requirement in self.requirements)

    def __str__(self) -> str:
        return "\n".join(requirement.text for requirement in self.requirements)


def check_limits(limits: Mapping[str, float], has_teacher: bool) -> None:
    """Checks before an evaluation that requirements exist, and that those on a drop or a ratio have a teacher.

    Raises:
        ValueError: if a requirement is unknown or compares with a teacher that is missing.
    """
    for name in limits:
        if name not in REQUIREMENTS:
            raise ValueError(f"{name!r} is not a requirement: {suggest(name, REQUIREMENTS)}")
        if REQUIREMENTS[name][1] != "value" and not has_teacher:
            raise ValueError(
                f"Requirement {name!r} compares a model with its teacher, but received only the model. Pass teacher=."
            )


def check_requirements(
    limits: Mapping[str, float], student: Mapping[str, Any], teacher: Mapping[str, Any]
) -> list[Requirement]:
    """Compares a student's findings with requirements.

    Args:
        limits: by a name of `REQUIREMENTS`. A drop is the teacher's metric minus the student's as a fraction (0.01 is
            one percentage point); these values themselves decide, and the text adds the interval. A ratio is the
            student's value divided by the teacher's.
        student: the student's findings by name.
        teacher: those of the teacher.

    Returns:
        A `Requirement` for each limit; a value that is NaN does not meet a requirement.

    Raises:
        ValueError: if a requirement is unknown, or if its finding is missing.

    >>> small, large = {"accuracy": 0.97, "parameters": 10}, {"accuracy": 0.98, "parameters": 100}
    >>> limits = {"max_accuracy_drop": 0.005, "max_parameters_ratio": 0.25}
    >>> for requirement in check_requirements(limits, small, large): print(requirement.text)
    FAIL  max_accuracy_drop: required at most 0.005, measured 0.01
    PASS  max_parameters_ratio: required at most 0.25, measured 0.1
    """
    check_limits(limits, has_teacher=True)
    return [_check(name, limit, student, teacher) for name, limit in limits.items()]


def _check(name: str, limit: float, student: Mapping[str, Any], teacher: Mapping[str, Any]) -> Requirement:
    value = _value(name, student, teacher)
    minimum = name.startswith("min_")
    # Accuracies are counts: a drop of exactly the limit must not fail because of rounding in the seventeenth digit.
    met = (value >= limit if minimum else value <= limit) or math.isclose(value, limit, rel_tol=1e-9, abs_tol=1e-12)
    bound = f"at {'least' if minimum else 'most'} {limit:g}"
    text = f"{'PASS' if met else 'FAIL'}  {name}: required {bound}, measured {value:.4g}"
    if REQUIREMENTS[name][1] == "drop" and "difference_low" in student:
        text += f" (95 %: {-student['difference_high']:.4g} to {-student['difference_low']:.4g})"
    return Requirement(name, limit, value, met, text)


def _value(name: str, student: Mapping[str, Any], teacher: Mapping[str, Any]) -> float:
    """The student's value that a requirement limits."""
    finding, comparison = REQUIREMENTS[name]
    for owner, findings in (("student", student), ("teacher", teacher)):
        if finding not in findings and (owner == "student" or comparison != "value"):
            raise ValueError(
                f"Requirement {name!r} needs the {owner}'s finding {finding!r}, but its findings are"
                f" {', '.join(findings) or 'none'}."
            )
    value = float(student[finding])
    if comparison == "drop":
        return float(teacher[finding]) - value
    if comparison == "ratio":
        return value / float(teacher[finding]) if teacher[finding] else math.nan
    return value
