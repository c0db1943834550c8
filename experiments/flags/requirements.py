"""Flags of the requirements on a student, one for each that `kd_keras.evaluation.verdict` knows."""

from __future__ import annotations

from absl import flags

from kd_keras.evaluation.verdict import REQUIREMENTS

FLAGS = flags.FLAGS
COMPARISONS = {
    "value": "",
    "drop": " that is lost compared with the teacher, a fraction",
    "ratio": ", a ratio to the teacher's",
}


def define_requirements() -> None:
    """Flags that set the limits of a verdict."""
    for name, (finding, comparison) in REQUIREMENTS.items():
        bound = "least" if name.startswith("min") else "largest"
        flags.DEFINE_float(name, None, f"Requirement: the {bound} {finding}{COMPARISONS[comparison]}.")


def given_requirements() -> dict[str, float]:
    """The limits that are set, by name."""
    return {name: FLAGS[name].value for name in REQUIREMENTS if FLAGS[name].value is not None}
