"""What every method and every model must do; both are enrolled by listing their folders."""

import importlib
import inspect
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kd_keras import Distiller
from kd_keras.contracts import INDEX, INPUTS
from kd_keras.methods import Method
from tests.support.networks import compiled, convolutional, examples, mirrored, values

FOLDER = Path(__file__).parent.parent.parent / "kd_keras"


def method_files():
    """The names of the method files: kd, fitnet, ..."""
    return sorted(path.stem for path in (FOLDER / "methods").glob("*.py") if path.stem not in ("__init__", "base"))


def module(name):
    return importlib.import_module(f"kd_keras.methods.{name}")


def tests_of(name):
    """The test module of a method file; its `CASES` are held against NumPy. Where the harness needs more than a
    method's defaults, `OPTIONS` has its arguments by the class's name, and `student` makes a network that suits it."""
    return importlib.import_module(f"tests.methods.test_{name}")


def cases():
    """The comparisons of all methods with NumPy, each with the name of its file."""
    tested = [name for name in method_files() if (Path(__file__).parent / "methods" / f"test_{name}.py").exists()]
    return [(name, case) for name in tested for case in tests_of(name).CASES]


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
    return ({INPUTS: x, INDEX: np.arange(count)} if kind.needs_index else x), y


def replicas_difference(kind, replicas, count=37):
    """How far one replica and several come apart in two epochs on one global batch size: the largest difference of a
    trained variable, and of a metric relative to itself.

    The student has no BatchNorm, which sees one replica's part of the batch; adapters normalise over all. Methods that
    couple examples are given the global batch. Batches are of 16, the last smaller and uneven over the replicas.
    """
    arguments = {"across_replicas": True} if "across_replicas" in inspect.signature(kind).parameters else {}
    results = []
    for devices in (1, replicas):
        with mirrored(devices).scope():
            made = distiller(kind, normalised=False, arguments=arguments)
        data = tf.data.Dataset.from_tensor_slices(batch(kind, count)).batch(16)
        history = made.fit(data, epochs=2, verbose=0).history
        logged = history | {f"val_{k}": v for k, v in made.evaluate(data, verbose=0, return_dict=True).items()}
        results.append((values(made.trainable_variables), [np.array(logged[name]) for name in sorted(logged)]))
    (weights, logs), (others, logs_of_all) = results
    weight = max(float(np.abs(a - b).max()) for a, b in zip(weights, others, strict=True))
    both = zip(logs, logs_of_all, strict=True)
    return weight, max(float((np.abs(a - b) / (np.abs(a) + 1e-6)).max()) for a, b in both)


def reload(layer):
    """A layer through its configuration, as a file would hold it."""
    return keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
