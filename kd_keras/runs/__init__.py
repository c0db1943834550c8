"""The whole job as functions: each takes names, paths or objects and returns a `Run` or a result object."""

from kd_keras.runs.compare import Comparison, compare
from kd_keras.runs.distill import distill
from kd_keras.runs.embed import Embeddings, embed
from kd_keras.runs.evaluate import Evaluation, evaluate
from kd_keras.runs.export import export
from kd_keras.runs.predict import predict
from kd_keras.runs.predictions import FolderPredictions
from kd_keras.runs.pretrain import pretrain
from kd_keras.runs.recipe import Recipe
from kd_keras.runs.record import record
from kd_keras.runs.run import Run, find_run, load_network, recorded_data
from kd_keras.runs.train import train

__all__ = (
    "Comparison",
    "Embeddings",
    "Evaluation",
    "FolderPredictions",
    "Recipe",
    "Run",
    "compare",
    "distill",
    "embed",
    "evaluate",
    "export",
    "find_run",
    "load_network",
    "predict",
    "pretrain",
    "record",
    "recorded_data",
    "train",
)
