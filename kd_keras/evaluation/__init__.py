"""Does the student hold up? One question a file; each answer is a stream of (name, value)."""

from kd_keras.evaluation.accuracy import accuracy
from kd_keras.evaluation.agreement import agreement
from kd_keras.evaluation.attention import attention, attention_maps
from kd_keras.evaluation.base import Answers, answers, halves
from kd_keras.evaluation.calibration import calibration
from kd_keras.evaluation.cost import cost, latency, macs
from kd_keras.evaluation.generalisation import Trained, by_training_size, generalisation
from kd_keras.evaluation.intervals import intervals
from kd_keras.evaluation.memory import memory
from kd_keras.evaluation.robustness import robustness
from kd_keras.evaluation.similarity import grams, similarity
from kd_keras.evaluation.verdict import Demand, demands

__all__ = (
    "Answers",
    "Demand",
    "Trained",
    "accuracy",
    "agreement",
    "answers",
    "attention",
    "attention_maps",
    "by_training_size",
    "calibration",
    "cost",
    "demands",
    "generalisation",
    "grams",
    "halves",
    "intervals",
    "latency",
    "macs",
    "memory",
    "robustness",
    "similarity",
)
