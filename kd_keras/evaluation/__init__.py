"""Is the student good enough? One question per file; a question yields findings as (name, value) pairs.

`Evaluator` asks all of them about several networks and the same images.
"""

from kd_keras.evaluation.accuracy import accuracy
from kd_keras.evaluation.agreement import agreement
from kd_keras.evaluation.attention import attention, attention_maps
from kd_keras.evaluation.average_precision import average_precision
from kd_keras.evaluation.base import Predictions, halves, predict
from kd_keras.evaluation.calibration import calibration
from kd_keras.evaluation.cost import cost, latency
from kd_keras.evaluation.evaluator import QUESTIONS, Candidate, Evaluator, select_questions
from kd_keras.evaluation.generalization import SizedRun, generalization, group_by_training_size
from kd_keras.evaluation.intervals import intervals
from kd_keras.evaluation.layer_noise import LayerNoise, int8_layers, layer_noise, layer_noise_table
from kd_keras.evaluation.macs import macs
from kd_keras.evaluation.memory import memory
from kd_keras.evaluation.robustness import robustness
from kd_keras.evaluation.similarity import grams, similarity
from kd_keras.evaluation.verdict import Requirement, Verdict, check_requirements

__all__ = (
    "QUESTIONS",
    "Candidate",
    "Evaluator",
    "LayerNoise",
    "Predictions",
    "Requirement",
    "SizedRun",
    "Verdict",
    "accuracy",
    "agreement",
    "attention",
    "attention_maps",
    "average_precision",
    "calibration",
    "check_requirements",
    "cost",
    "generalization",
    "grams",
    "group_by_training_size",
    "halves",
    "int8_layers",
    "intervals",
    "latency",
    "layer_noise",
    "layer_noise_table",
    "macs",
    "memory",
    "predict",
    "robustness",
    "select_questions",
    "similarity",
)
