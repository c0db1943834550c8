"""What every method and every model must do; both are enrolled by listing their folders."""

import importlib
import inspect
from pathlib import Path

import keras
import numpy as np

from kd_keras import Distiller
from kd_keras.contracts import INDEX, INPUTS
from kd_keras.methods import Method
from tests.networks import compiled, convolutional, examples

FOLDER = Path(__file__).parent.parent / "kd_keras"


def method_files():
    """The names of the method files: kd, fitnet, ..."""
    return sorted(path.stem for path in (FOLDER / "methods").glob("*.py") if path.stem not in ("__init__", "base"))


def module(name):
    return importlib.import_module(f"kd_keras.methods.{name}")


def tests_of(name):
    """The test module of a method file; its `CASES` are held against NumPy. Where the harness needs more than a
    method's defaults, `OPTIONS` has its arguments by the class's name, and `student` makes a network that suits it."""
    return importlib.import_module(f"tests.methods.test_{name}")


def classes(name):
    """The methods that a file defines."""
    found = vars(module(name)).values()
    return [c for c in found if inspect.isclass(c) and issubclass(c, Method) and c.__module__ == module(name).__name__]


def losses(name):
    """The pure functions that a file defines."""
    functions = inspect.getmembers(module(name), inspect.isfunction)
    return [f for n, f in functions if n.endswith("_loss") and f.__module__ == module(name).__name__]


def method(kind, **arguments):
    """A method, with what the harness must tell it."""
    own = tests_of(kind.__module__.rsplit(".", 1)[-1])
    return kind(**{**getattr(own, "OPTIONS", {}).get(kind.__name__, {}), **arguments})


def distiller(kind, seed=0, normalised=True, width=6, arguments=None, **options):
    """A compiled Distiller of one method, whose teacher is `width` wide and its student 4."""
    keras.utils.set_random_seed(seed)
    options = {"jit_compile": False} | options
    made = method(kind, **(arguments or {}))
    make = getattr(tests_of(kind.__module__.rsplit(".", 1)[-1]), "student", convolutional)
    teacher = convolutional(width, normalised=True, name="teacher", bias_initializer="random_normal")
    student = made.student_from(make(4, normalised=normalised), teacher)
    if not made.taps.teacher:
        teacher = None
    return compiled(Distiller(student=student, teacher=teacher, methods=[made]), **options)


def batch(kind, count=32):
    """Images and labels, with the examples' numbers where a method wants them."""
    x, y = examples(count)
    return ({INPUTS: x, INDEX: np.arange(count)} if kind.indexed else x), y


def reload(layer):
    """A layer through its configuration, as a file would hold it."""
    return keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
