"""Does the student hold up? One question a file; each answer is a stream of (name, value)."""

from kd_keras.evaluation.accuracy import accuracy
from kd_keras.evaluation.agreement import agreement
from kd_keras.evaluation.base import Answers, answers, halves
from kd_keras.evaluation.calibration import calibration
from kd_keras.evaluation.cost import cost, macs
from kd_keras.evaluation.intervals import intervals
from kd_keras.evaluation.verdict import Demand, demands

__all__ = (
    "Answers",
    "Demand",
    "accuracy",
    "agreement",
    "answers",
    "calibration",
    "cost",
    "demands",
    "halves",
    "intervals",
    "macs",
)
