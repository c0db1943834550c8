"""A student as a SavedModel, LiteRT or ONNX file of raw images, verified against its Keras source."""

from kd_keras.export.formats import litert, onnx, saved_model
from kd_keras.export.outputs import classes_of
from kd_keras.export.runtimes import load
from kd_keras.export.verification import TOLERANCES, Export, Tolerance

__all__ = ("TOLERANCES", "Export", "Tolerance", "classes_of", "litert", "load", "onnx", "saved_model")
