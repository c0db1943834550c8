"""kd_keras: knowledge distillation for computer vision on Keras 3 and TensorFlow."""

from kd_keras import data, distribute, evaluation, methods, models, recording, schemes, tasks
from kd_keras import training as callbacks
from kd_keras.contracts import Batch, Outputs, Step, TapSpec
from kd_keras.distiller import Distiller
from kd_keras.networks.freezing import frozen
from kd_keras.networks.quantization import quantization_aware
from kd_keras.runs import Recipe, Run, compare, distill, embed, evaluate, export, predict, pretrain, record, train
from kd_keras.schemes import choose
from kd_keras.teacher import Teacher
from kd_keras.version import __version__

__all__ = (
    "Batch",
    "Distiller",
    "Outputs",
    "Recipe",
    "Run",
    "Step",
    "TapSpec",
    "Teacher",
    "__version__",
    "callbacks",
    "choose",
    "compare",
    "data",
    "distill",
    "distribute",
    "embed",
    "evaluate",
    "evaluation",
    "export",
    "frozen",
    "methods",
    "models",
    "predict",
    "pretrain",
    "quantization_aware",
    "record",
    "recording",
    "schemes",
    "tasks",
    "train",
)
