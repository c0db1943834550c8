"""A student as a SavedModel, LiteRT or ONNX file, verified against its Keras source by the file's own runtime."""

from kd_keras.export.formats import litert, onnx, saved_model
from kd_keras.export.verification import TOLERANCES, Export, Tolerance

__all__ = ("TOLERANCES", "Export", "Tolerance", "litert", "onnx", "saved_model")
