"""The whole job as functions: each takes names, paths or objects and returns a `Run`, the directory of a training."""

from kd_keras.runs.distill import distill
from kd_keras.runs.recipe import Recipe
from kd_keras.runs.record import record
from kd_keras.runs.run import Run, find_run, load_network, recorded_data
from kd_keras.runs.train import train

__all__ = ("Recipe", "Run", "distill", "find_run", "load_network", "record", "recorded_data", "train")
