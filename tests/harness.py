"""What every method and every model must do; both are enrolled by listing their folders."""

import importlib
import inspect
from pathlib import Path

import keras

from kd_keras.methods import Method

FOLDER = Path(__file__).parent.parent / "kd_keras"


def method_files():
    """The names of the method files: kd, fitnet, ..."""
    return sorted(path.stem for path in (FOLDER / "methods").glob("*.py") if path.stem not in ("__init__", "base"))


def module(name):
    return importlib.import_module(f"kd_keras.methods.{name}")


def classes(name):
    """The methods that a file defines."""
    found = vars(module(name)).values()
    return [c for c in found if inspect.isclass(c) and issubclass(c, Method) and c.__module__ == module(name).__name__]


def losses(name):
    """The pure functions that a file defines."""
    functions = inspect.getmembers(module(name), inspect.isfunction)
    return [f for n, f in functions if n.endswith("_loss") and f.__module__ == module(name).__name__]


def reload(layer):
    """A layer through its configuration, as a file would hold it."""
    return keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
