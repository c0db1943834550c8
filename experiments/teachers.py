"""From the teacher flags to a `Teacher` that sees and names things as the student does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import flags

from experiments.runs import load_model, load_result
from experiments.training import Images, training_batches
from kd_keras import Teacher, data, frozen
from kd_keras.contracts import as_batch
from kd_keras.errors import explain_mismatch
from kd_keras.networks.freezing import PRECISIONS
from kd_keras.recording.teacher import RecordedTeacher
from kd_keras.training import Position

FLAGS = flags.FLAGS


def define_teacher() -> None:
    """Flags of the teacher or teachers."""
    text = "A finished run, or a .keras file that reads images in 0..1; repeat it for several."
    flags.DEFINE_multi_string("teacher", None, text)
    flags.DEFINE_list("teacher_weights", None, "How much each of several teachers counts.")
    text = "Teach with a frozen copy in this precision, its BatchNorm folded; by default with the network as it is."
    flags.DEFINE_enum("teacher_precision", None, PRECISIONS, text)
    flags.DEFINE_enum("combine", "probabilities", ["probabilities", "logits"], "What is averaged over teachers.")


def load_teacher(images: Images) -> Teacher:
    """The teacher of the flags; each network gets its own normalisation, as its run recorded it.

    Raises:
        ValueError: where a teacher is missing or damaged, or has other classes than the images.
    """
    records = [load_result(run).get("data", {}) for run in FLAGS.teacher]
    orders = [class_order(record, images.train.class_names) for record in records]
    if any(order != orders[0] for order in orders):
        raise ValueError(explain_mismatch("teachers that order their classes alike", f"{orders}"))
    networks = [load_model(run) for run in FLAGS.teacher]
    return Teacher(
        [frozen(network, FLAGS.teacher_precision) for network in networks] if FLAGS.teacher_precision else networks,
        weights=[float(weight) for weight in FLAGS.teacher_weights] if FLAGS.teacher_weights else None,
        combine=FLAGS.combine,
        preprocess=[renormalize(record, images.normalisation) for record in records],
        class_order=orders[0],
    )


def load_recorded(images: Images, live: Teacher | None) -> RecordedTeacher:
    """The teacher of --recording; where the live one is given too, its answers to one batch are compared.

    Raises:
        ValueError: where the recording is of other images, of another teacher, or damaged.
    """
    teacher = Teacher.recorded(FLAGS.recording, live)
    batch = as_batch(next(iter(training_batches(images, Position(), teacher.recording))))
    if live is not None:
        ready = live.tapped(teacher.specs)
        answers = tf.function(lambda images: dict(ready(images)))(batch.inputs)  # compiled, as it was recorded
        layers = [layer for network in live.networks for layer in network._flatten_layers()]
        # bfloat16 keeps eight bits, and other devices and software round in other places.
        coarse = any(layer.compute_dtype == "bfloat16" for layer in layers)
        difference = teacher.recording.compare(answers, batch.recorded, 2e-2 if coarse else 2e-3)
        print(f"{FLAGS.recording}: the live teacher differs by {difference:.1e} on {len(batch.index)} images.")
    return teacher


def renormalize(record: dict[str, Any], own: data.Normalisation) -> Callable | None:
    """From images normalised in one way to those a teacher was trained on; nothing where both are alike.

    A teacher that has no record, a bare `.keras` file, reads images in 0..1.
    """
    theirs = data.Normalisation(tuple(record["mean"]), tuple(record["std"])) if record else data.Normalisation()
    if theirs == own:
        return None
    return lambda images: theirs(images * list(own.std) + list(own.mean))


def class_order(record: dict[str, Any], ours: tuple[str, ...] | None) -> list[int] | None:
    """For each class of the images its place among a network's, where both name theirs and the orders differ."""
    theirs = record.get("class_names")
    if not theirs or not ours or list(ours) == theirs:
        return None
    missing = sorted(set(ours) - set(theirs))
    if missing:
        raise ValueError(explain_mismatch(f"a network of the classes {list(ours)}", f"one of {theirs}", f"it lacks {missing}"))
    return [theirs.index(name) for name in ours]
