"""Any function from images to outputs as a teacher: files of other runtimes, a server, arrays, a Python function."""

from kd_keras.functions.arrays import arrays_teacher
from kd_keras.functions.class_names import class_names_of
from kd_keras.functions.litert import litert_teacher
from kd_keras.functions.onnx import onnx_teacher
from kd_keras.functions.saved_model import is_saved_model, read_saved_model, saved_model_names
from kd_keras.functions.served import served_teacher
from kd_keras.functions.teacher import FunctionTeacher, must_be_recorded, python_teacher, refuse_live

__all__ = (
    "FunctionTeacher",
    "arrays_teacher",
    "class_names_of",
    "is_saved_model",
    "litert_teacher",
    "must_be_recorded",
    "onnx_teacher",
    "python_teacher",
    "read_saved_model",
    "refuse_live",
    "saved_model_names",
    "served_teacher",
)
