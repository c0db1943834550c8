"""The whole job as functions: each takes names, paths or objects and returns a `Run`, the directory of a training."""

from kd_keras.runs.run import Run, find_run, load_network, recorded_data

__all__ = ("Run", "find_run", "load_network", "recorded_data")
