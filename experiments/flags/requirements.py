"""Flags of the requirements on a student, one for each that `kd_keras.evaluation.verdict` knows."""

from __future__ import annotations

from absl import flags

from kd_keras.evaluation.verdict import REQUIREMENTS

FLAGS = flags.FLAGS
COMPARISONS = {
    "value": "of {}",
    "drop": "by which {} may be lower than the teacher's (0.01 is one percentage point)",
    "ratio": "of {} divided by the teacher's",
}


def define_requirements() -> None:
    """Defines a flag for the limit of each requirement."""
    for name, (finding, comparison) in REQUIREMENTS.items():
        bound = "lowest" if name.startswith("min") else "largest"
        text = f"Requirement: the {bound} accepted value {COMPARISONS[comparison].format(finding)}."
        flags.DEFINE_float(name, None, text)


def given_requirements() -> dict[str, float]:
    """The limits that are set, by name."""
    return {name: FLAGS[name].value for name in REQUIREMENTS if FLAGS[name].value is not None}
