"""Does the student hold up? One question a file; each answer is a stream of (name, value)."""

from kd_keras.evaluation.accuracy import accuracy
from kd_keras.evaluation.agreement import agreement
from kd_keras.evaluation.attention import attention, attention_maps
from kd_keras.evaluation.base import Predictions, halves, predict
from kd_keras.evaluation.calibration import calibration
from kd_keras.evaluation.cost import cost, latency, macs
from kd_keras.evaluation.generalization import Trained, by_training_size, generalization
from kd_keras.evaluation.intervals import intervals
from kd_keras.evaluation.memory import memory
from kd_keras.evaluation.robustness import robustness
from kd_keras.evaluation.similarity import grams, similarity
from kd_keras.evaluation.verdict import Requirement, check_requirements

__all__ = (
    "Predictions",
    "Requirement",
    "Trained",
    "accuracy",
    "agreement",
    "attention",
    "attention_maps",
    "by_training_size",
    "calibration",
    "check_requirements",
    "cost",
    "generalization",
    "grams",
    "halves",
    "intervals",
    "latency",
    "macs",
    "memory",
    "predict",
    "robustness",
    "similarity",
)
