"""Helpers for the tests that every method must pass. Methods enroll themselves by being in their folder."""

import importlib
import inspect
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kd_keras import Distiller
from kd_keras.contracts import INDEX, INPUTS
from kd_keras.methods import Method
from tests.support.networks import SHAPE, compiled, convolutional, examples, mirrored, values

FOLDER = Path(__file__).parent.parent.parent / "kd_keras"
# Files of methods/ without a method.
SHARED = ("__init__", "adapters", "base", "class_memory", "hard_weight", "labels", "listing", "positions", "schedules")


def method_files():
    """The names of the method files: ab, at, ..."""
    return sorted(path.stem for path in (FOLDER / "methods").glob("*.py") if path.stem not in SHARED)


def module(name):
    return importlib.import_module(f"kd_keras.methods.{name}")


def tests_of(name):
    """The test module of a method file.

    Its `CASES` are compared with NumPy. If the harness needs more than a method's defaults, `OPTIONS` has the arguments
    by the name of the class, the functions `student` and `teacher` build networks that suit the method, and `labels`
    makes labels of another kind than classes, for a student with a loss of its own.
    """
    return importlib.import_module(f"tests.methods.test_{name}")


def cases():
    """The comparisons of all methods with NumPy, each with the name of its file."""
    tested = [
        name for name in method_files() if (Path(__file__).parent.parent / "methods" / f"test_{name}.py").exists()
    ]
    return [(name, case) for name in tested for case in tests_of(name).CASES]


def classes(name):
    """The methods that a file defines."""
    members, path = vars(module(name)).values(), module(name).__name__
    return [kind for kind in members if inspect.isclass(kind) and issubclass(kind, Method) and kind.__module__ == path]


def losses(name):
    """The pure functions that a file defines."""
    functions, path = inspect.getmembers(module(name), inspect.isfunction), module(name).__name__
    return [loss for loss_name, loss in functions if loss_name.endswith("_loss") and loss.__module__ == path]


def method(kind, **arguments):
    """A method with the options of its test module."""
    options = getattr(tests_of(kind.__module__.rsplit(".", 1)[-1]), "OPTIONS", {})
    return kind(**{**options.get(kind.__name__, {}), **arguments})


def distiller(kind, seed=0, normalized=True, width=6, arguments=None, **options):
    """A compiled Distiller of one method, whose teacher is `width` wide and whose student is 4 wide."""
    keras.utils.set_random_seed(seed)
    options = {"jit_compile": False} | options
    chosen = method(kind, **(arguments or {}))
    tests = tests_of(kind.__module__.rsplit(".", 1)[-1])
    build_student, build_teacher = (getattr(tests, side, convolutional) for side in ("student", "teacher"))
    teacher = build_teacher(width, normalized=True, name="teacher", bias_initializer="random_normal")
    student = chosen.student_from(build_student(4, normalized=normalized), teacher)
    if not chosen.taps.teacher:
        teacher = None
    if hasattr(tests, "labels"):
        options = {"loss": None, "metrics": None} | options
    return compiled(Distiller(student=student, teacher=teacher, methods=[chosen], hard_weight=1.0), **options)


def batch(kind, count=32):
    """Images and labels, with example numbers if a method needs them."""
    x, y = examples(count)
    labels = getattr(tests_of(kind.__module__.rsplit(".", 1)[-1]), "labels", None)
    y = labels(count) if labels else y
    return ({INPUTS: x, INDEX: np.arange(count)} if kind.needs_index else x), y


def trained_on(devices, kind, x, y):
    """The variables and the metrics after two epochs with batches of 16, the last one smaller and uneven."""
    arguments = {"across_replicas": True} if "across_replicas" in inspect.signature(kind).parameters else {}
    with mirrored(devices).scope():
        model = distiller(kind, normalized=False, arguments=arguments)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    history = model.fit(data, epochs=2, verbose=0).history
    logged = history | {f"val_{k}": v for k, v in model.evaluate(data, verbose=0, return_dict=True).items()}
    return values(model.trainable_variables), [np.array(logged[name]) for name in sorted(logged)]


def largest_difference(arrays, others):
    return max(float(np.abs(a - b).max()) for a, b in zip(arrays, others, strict=True))


def rounding_difference(kind, count=37):
    """How far a change of the images by a float32 rounding (6e-8 of each value) moves a trained variable.

    The same training on one replica: no other computation of it can be expected to come nearer than this.
    """
    x, y = batch(kind, count)
    signs = np.random.default_rng(5).choice([-1, 1], (count, *SHAPE))
    images = ((x[INPUTS] if kind.needs_index else x) * (1 + 6e-8 * signs)).astype("float32")
    moved = x | {INPUTS: images} if kind.needs_index else images
    return largest_difference(trained_on(1, kind, x, y)[0], trained_on(1, kind, moved, y)[0])


def replicas_difference(kind, replicas, count=37):
    """Compares two epochs of training on one replica and on several, at one global batch size.

    The student has no BatchNorm, whose statistics would be those of a slice; adapters normalize over all replicas.
    Methods that couple examples receive the global batch. Batches have 16 examples; the last one is smaller and uneven
    over the replicas.

    Returns:
        The largest difference of a trained variable, and the largest relative difference of a metric.
    """
    variables, metrics = trained_on(1, kind, *batch(kind, count))
    variables_of_all, metrics_of_all = trained_on(replicas, kind, *batch(kind, count))
    difference = largest_difference(variables, variables_of_all)
    pairs = zip(metrics, metrics_of_all, strict=True)
    return difference, max(float((np.abs(a - b) / (np.abs(a) + 1e-6)).max()) for a, b in pairs)


def reload(layer):
    """A layer rebuilt from its configuration, as from a file."""
    return keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
