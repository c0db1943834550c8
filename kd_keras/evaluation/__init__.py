"""Does the student hold up? One question a file; each answer is a stream of (name, value)."""

from kd_keras.evaluation.accuracy import accuracy
from kd_keras.evaluation.agreement import agreement
from kd_keras.evaluation.base import Answers, answers
from kd_keras.evaluation.cost import cost, macs

__all__ = ("Answers", "accuracy", "agreement", "answers", "cost", "macs")
