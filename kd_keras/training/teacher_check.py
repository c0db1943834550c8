"""Checks the teacher before a student is trained on it."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf
from keras import ops, tree

from kd_keras.contracts import Outputs, as_batch
from kd_keras.methods.labels import class_indices
from kd_keras.primitives import as_two_classes
from kd_keras.training.output_check import OutputCheck


class TeacherCheck(keras.callbacks.Callback):
    """Runs the teacher on a few batches before the first step of a `fit`, outside the training step.

    It raises an error if the teacher's outputs are not finite. It warns if the teacher's accuracy is at chance level,
    because nothing else would reveal an untrained teacher, and if the logits of teacher or student look like
    probabilities. `Distiller.fit` adds one that reads the first 8 batches of
    its data, unless it receives one. Each worker checks its own slices.

    Args:
        batches: batches in any form that `fit` takes: `x`, `(x,)`, `(x, y)`, or `(x, y, sample_weight)`.

    Raises:
        FloatingPointError: from `fit`, if an output of the teacher is NaN or infinite.
    """

    def __init__(self, batches: Iterable[Any]):
        super().__init__()
        self.batches = batches

    def on_train_begin(self, logs: dict | None = None) -> None:
        correct = examples = classes = 0
        check = OutputCheck("teacher", self.model.teacher.specs.get("logits"))
        for number, data in enumerate(self.batches):
            batch = as_batch(_gather_local_rows(self.model.distribute_strategy, data))
            outputs = self.model.teacher.outputs(batch)
            _check_finite(outputs, number)
            check.add(outputs)
            if number == 0:
                self._check_student(batch.inputs)
            labels = class_indices(batch.label)
            if "logits" in outputs and labels is not None and self._are_classes(batch.label, outputs["logits"]):
                is_unit = outputs["logits"].shape[-1] == 1
                logits = as_two_classes(outputs["logits"]) if is_unit else outputs["logits"]
                predictions = ops.cast(ops.argmax(logits, axis=-1), "int32")
                correct += int(ops.sum(ops.cast(ops.equal(predictions, labels), "int32")))
                examples, classes = examples + len(labels), logits.shape[-1]
        self.batches = ()
        check.warn()
        if examples:
            _compare_with_chance(correct / examples, 1 / classes, examples)

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
            check.add(tapped(inputs, training=False)[1])
            check.warn()


def first_batches(data: Mapping[str, Any], count: int = 8) -> Iterator[Any]:
    """The first batches of the data that `fit` receives; none of a generator, which can be read only once.

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


def _gather_local_rows(strategy: tf.distribute.Strategy, data: Any) -> Any:
    """All rows of a batch; of a batch of a distributed dataset, those of this worker's replicas."""

    def join(value: Any) -> Any:
        parts = strategy.experimental_local_results(value)
        return parts[0] if len(parts) == 1 else tf.concat(parts, axis=0)

    return tree.map_structure(lambda value: None if value is None else join(value), data)


def _check_finite(outputs: Outputs, number: int) -> None:
    for tap in ["logits"] if "logits" in outputs else outputs:
        if not all(bool(ops.all(ops.isfinite(tensor))) for tensor in tree.flatten(outputs[tap])):
            raise FloatingPointError(
                f"Expected a teacher with finite outputs, but received NaN or infinity in its {tap!r} for batch "
                f"{number}. Train the teacher again, or load another file."
            )


def _compare_with_chance(accuracy: float, chance: float, examples: int) -> None:
    # Two standard deviations above chance: about one guessing teacher in forty exceeds this.
    if accuracy < chance + 2 * (chance * (1 - chance) / examples) ** 0.5:
        warnings.warn(
            f"The teacher is right on {accuracy:.1%} of the first {examples:.0f} examples; chance is {chance:.1%}. "
            "Check that it is trained, on the same classes in the same order (class_order=), and for pixel values from "
            "0 to 255 (preprocess=).",
            stacklevel=2,
        )
