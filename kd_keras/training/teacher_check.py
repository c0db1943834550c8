"""Checks the teacher before a student is trained on it."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree

from kd_keras.contracts import Outputs, as_batch
from kd_keras.ensembles import CROSS_ENTROPY
from kd_keras.methods.labels import class_indices
from kd_keras.networks.layouts import contains_channels_first
from kd_keras.primitives import as_two_classes
from kd_keras.training.following import FollowingTeacher
from kd_keras.training.output_check import OutputCheck

CHECKED = 8  # batches that are checked before the first step


class TeacherCheck(keras.callbacks.Callback):
    """Runs the teacher on a few batches before the first step of a `fit`, outside the training step.

    It raises an error if the teacher's outputs are not finite. It warns if the teacher's accuracy is at chance level,
    because nothing else would reveal an untrained teacher, and if the logits of teacher or student look like
    probabilities. `Distiller.fit` adds one that reads the first 8 batches of its data, unless it receives one. Each
    worker checks its own slices.

    Args:
        batches: batches in any form that `fit` takes: `x`, `(x,)`, `(x, y)`, or `(x, y, sample_weight)`.

    Raises:
        FloatingPointError: from `fit`, if an output of the teacher is NaN or infinite.
    """

    def __init__(self, batches: Iterable[Any]):
        super().__init__()
        self.batches = batches

    def on_train_begin(self, logs: dict | None = None) -> None:
        teacher = self.model.teacher
        outputs_of = _runnable(teacher.outputs, self.model, getattr(teacher, "networks", ()))
        labels, predictions, classes, unit = [], [], 0, "examples"
        check = OutputCheck("teacher", getattr(teacher, "head_specs", teacher.specs.get("logits")))
        for number, data in enumerate(self.batches):
            batch = as_batch(gather_local_rows(self.model.distribute_strategy, data))
            if not _is_finite(batch.inputs):
                continue  # not a fault of the teacher: the guard skips such a batch or stops
            outputs = outputs_of(batch)
            _check_finite(outputs, number)
            check.add(outputs)
            if number == 0:
                self._check_student(batch.inputs)
            label = class_indices(batch.label, outputs["logits"]) if "logits" in outputs else None
            if label is not None and self._are_classes(batch.label, outputs["logits"]):
                is_unit = outputs["logits"].shape[-1] == 1
                logits = as_two_classes(outputs["logits"]) if is_unit else outputs["logits"]
                classes = logits.shape[-1]
                unit = "examples" if len(label.shape) == 1 else "positions"
                labels.append(ops.convert_to_numpy(label).ravel())
                predictions.append(ops.convert_to_numpy(ops.argmax(logits, axis=-1)).ravel())
        self.batches = ()
        check.warn()
        if classes > 1 and not isinstance(teacher, FollowingTeacher):  # which begins untrained, as the student does
            _compare_with_chance(np.concatenate(labels), np.concatenate(predictions), classes, unit)

    def _are_classes(self, label: Any, logits: Any) -> bool:
        """Whether labels are classes: not those of several sigmoid units, nor numbers that a single unit follows."""
        if logits.shape[-1] == 1:
            return bool(ops.all(ops.logical_or(ops.equal(label, 0), ops.equal(label, 1))))
        return not any(method.is_binary for method in self.model.methods)

    def _check_student(self, inputs: Any) -> None:
        """Warns if a method reads logits of the student that look like probabilities."""
        tapped = self.model._student  # its taps are traced already; a second replay of the layers would take time
        check = OutputCheck("student", tapped.specs.get("logits"))
        if check.is_needed:
            run = _runnable(lambda x: tapped(x, training=False)[1], self.model, [self.model.student])
            check.add(run(inputs))
            check.warn()


def check_outputs(distiller: keras.Model, inputs: Any, label: Any = None) -> None:
    """Runs teacher and student once on one batch, and warns if their logits look like probabilities.

    Labels are used only by a teacher whose weights depend on them.

    Raises:
        FloatingPointError: if an output of the teacher is NaN or infinite.
    """
    if not distiller.teacher.specs:
        return
    label = label if getattr(distiller.teacher, "weights", None) == CROSS_ENTROPY else None
    check = TeacherCheck([tree.map_structure(ops.convert_to_tensor, (inputs,) if label is None else (inputs, label))])
    check.set_model(distiller)
    check.on_train_begin()


def first_batches(data: Mapping[str, Any], count: int = CHECKED) -> Iterator[Any]:
    """The first batches of the data that `fit` receives; none of a generator (`keep_first_batches`).

    Args:
        data: the arguments of `fit` by name: "x", "y", "sample_weight", "batch_size" and "steps_per_epoch".
        count: the largest number of batches.
    """
    x, steps = data["x"], data.get("steps_per_epoch") or count
    if isinstance(x, keras.utils.PyDataset):
        return (x[number] for number in range(min(count, steps, x.num_batches or count)))
    if isinstance(x, (tf.data.Dataset, tf.distribute.DistributedDataset)):
        return itertools.islice(x, min(count, steps))
    if isinstance(x, Iterator):
        return iter(())
    size = data.get("batch_size") or 32
    arrays = (x, data.get("y"), data.get("sample_weight"))
    rows = len(tree.flatten(x)[0])

    def cut_batch(begin: int) -> Any:
        return tree.map_structure(
            lambda a: None if a is None else tf.convert_to_tensor(a[begin : begin + size]), arrays
        )

    return (cut_batch(begin) for begin in range(0, min(rows, count * size), size))


def keep_first_batches(generator: Iterator[Any], count: int) -> tuple[list[Any], Iterator[Any]]:
    """Reads the first batches of a generator, and returns them and a generator of all batches."""
    first = list(itertools.islice(generator, count))

    def all_batches() -> Iterator[Any]:
        yield from first
        yield from generator

    return first, all_batches()


def gather_local_rows(strategy: tf.distribute.Strategy, data: Any) -> Any:
    """All rows of a batch; of a batch of a distributed dataset, those of this worker's replicas."""

    def join(value: Any) -> Any:
        parts = strategy.experimental_local_results(value)
        return parts[0] if len(parts) == 1 else tf.concat(parts, axis=0)

    return tree.map_structure(lambda value: None if value is None else join(value), data)


def _runnable(function: Callable, distiller: keras.Model, networks: Iterable[keras.Model]) -> Callable:
    """The function of these networks, through XLA if they have layers in channels_first, which CPUs do not run else."""
    is_compiled = distiller.jit_compile and any(map(contains_channels_first, networks))
    return tf.function(function, autograph=False, jit_compile=True) if is_compiled else function


def _is_finite(structure: Any) -> bool:
    tensors = (tensor for tensor in tree.flatten(structure) if "float" in keras.backend.standardize_dtype(tensor.dtype))
    return all(bool(ops.all(ops.isfinite(tensor))) for tensor in tensors)


def _check_finite(outputs: Outputs, number: int) -> None:
    for tap in ["logits"] if "logits" in outputs else outputs:
        if not _is_finite(outputs[tap]):
            raise FloatingPointError(
                f"Expected a teacher with finite outputs, but received NaN or infinity in its {tap!r} for batch "
                f"{number}. Train the teacher again, or load another file."
            )


def _compare_with_chance(labels: np.ndarray, predictions: np.ndarray, classes: int, unit: str) -> None:
    is_class = (labels >= 0) & (labels < classes)  # others are ignored, such as -1
    labels, predictions = labels[is_class], predictions[is_class]
    if not len(labels):
        return
    accuracy, chance = float((labels == predictions).mean()), 1 / classes
    is_guessing = accuracy < chance + 2 * (chance * (1 - chance) / len(labels)) ** 0.5
    if is_guessing or not _exceeds_random_names(labels, predictions, classes):
        warnings.warn(
            f"The teacher is right on {accuracy:.1%} of the first {len(labels)} {unit}; chance is {chance:.1%}. "
            "Check that it is trained, on the same classes in the same order (class_order=), and for pixel values from "
            "0 to 255 (preprocess=).",
            stacklevel=2,
        )


def _exceeds_random_names(labels: np.ndarray, predictions: np.ndarray, classes: int, level: float = 0.025) -> bool:
    """Whether predictions agree with the labels better than if the classes had been named at random.

    An untrained network predicts the same class for most images of a class, so that its accuracy varies much more than
    that of independent guesses: with ten classes, one untrained network in four reaches an accuracy of 20 %. But the
    names of its classes are arbitrary. A permutation test compares the number of right predictions with that under
    other names; one untrained network in forty passes it, or more if there are fewer than five classes.

    Args:
        labels: `(N,)` classes.
        predictions: `(N,)` classes.
        classes: the number of classes.
        level: the largest fraction of other names that may do as well.
    """
    present, rows = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(present), classes), "int64")
    np.add.at(counts, (rows, predictions), 1)
    right = counts[np.arange(len(present)), present].sum()
    total = math.perm(classes, len(present))
    if total <= 5040:
        names = np.array(list(itertools.permutations(range(classes), len(present))))
        fraction = _as_good(counts, names, right)
    else:
        random = np.random.default_rng(0)
        names = np.stack([random.permutation(classes)[: len(present)] for _ in range(1000)])
        fraction = (1 + 1000 * _as_good(counts, names, right)) / 1001
    return fraction <= max(level, 1 / total)


def _as_good(counts: np.ndarray, names: np.ndarray, right: int) -> float:
    """The fraction of the rows of `names` under which at least `right` predictions are right."""
    return float((counts[np.arange(len(counts)), names].sum(-1) >= right).mean())
