"""A live teacher compared with a recorded one on CIFAR-10: time to an accuracy, bytes per example, reading speed.

    python -m scripts.bench.recording --teacher=runs/resnet20 --data_dir=../shared/data

The live run and the recorded one show the same views, so they learn the same; a third run shows a new view in every
epoch, as a training without a recording usually does.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from kd_keras import Distiller, Teacher, data, methods, models
from kd_keras.recording.writer import record
from kd_keras.runs import load_network
from scripts.bench.measuring import machine

FORMS = ("float32", "float16", "top-5", "top-2")
FLAGS = flags.FLAGS
flags.DEFINE_string("teacher", None, "A finished run of experiments.train on CIFAR-10.", required=True)
flags.DEFINE_string("student", "resnet8", "A model of the zoo.")
flags.DEFINE_string("data_dir", None, "Where TFDS keeps prepared datasets.")
flags.DEFINE_integer("images", 10000, "Training images, the first ones.", lower_bound=256)
flags.DEFINE_integer("epochs", 8, "Epochs of each training.", lower_bound=1)
flags.DEFINE_integer("views", 2, "Views that are recorded.", lower_bound=1)
flags.DEFINE_integer("batch_size", 128, "Images per step.", lower_bound=1)


class Row(NamedTuple):
    """The state after an epoch: seconds of training so far, without the tests, and the accuracy on the test images."""

    seconds: float
    accuracy: float


class Clock(keras.callbacks.Callback):
    """Collects a `Row` for every epoch."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.rows: list[Row] = []
        self.spent = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.begun = time.perf_counter()

    def on_test_begin(self, logs: dict | None = None) -> None:
        self.spent += time.perf_counter() - self.begun

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.rows.append(Row(self.spent, logs["val_accuracy"]))


def view_options() -> dict[str, Any]:
    """The arguments that determine the views."""
    return {"augmentation": data.Augmentation(crop=4, flip=True), "batch_size": FLAGS.batch_size}


def train(teacher: Any, images: data.Source, test: tf.data.Dataset, **options: Any) -> list[Row]:
    """Trains a student."""
    keras.utils.set_random_seed(0)
    student = models.build(FLAGS.student, images.image_shape, images.classes, normalization=data.measure(images))
    losses = [methods.KD(temperature=4, weight=0.9)]
    distiller = Distiller(student=student, teacher=teacher, methods=losses, hard_weight=0.1)
    steps = data.steps_per_epoch(images, FLAGS.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(0.1, FLAGS.epochs * steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(optimizer=keras.optimizers.SGD(rate, momentum=0.9), loss=loss, metrics=["accuracy"])
    clock, batches = Clock(), data.training(images, **view_options(), **options)
    training = {"epochs": FLAGS.epochs, "steps_per_epoch": steps, "validation_data": test, "verbose": 0}
    distiller.fit(batches, callbacks=[clock], **training)
    return clock.rows


def images_per_second(dataset: tf.data.Dataset, steps: int) -> float:
    """The speed of a pipeline by itself."""
    iterator = iter(dataset)
    next(iterator)
    begun = time.perf_counter()
    for _ in range(steps):
        next(iterator)
    return steps * FLAGS.batch_size / (time.perf_counter() - begun)


def print_trainings(trainings: dict[str, list[Row]]) -> None:
    print("| training | s per epoch, median | s in total | final accuracy | accuracy after each epoch |")
    print("|---|---:|---:|---:|---|")
    for name, rows in trainings.items():
        epochs = np.diff([0, *(row.seconds for row in rows)])
        course = " ".join(f"{row.accuracy:.4f}" for row in rows)
        print(f"| {name} | {np.median(epochs):.1f} | {rows[-1].seconds:.1f} | {rows[-1].accuracy:.4f} | {course} |")


def print_time_to_accuracy(trainings: dict[str, list[Row]], recording_time: float, test_size: int) -> None:
    target = min(rows[-1].accuracy for rows in trainings.values())
    print(f"\nSeconds until an epoch first ended with {target:.4f} or more on {test_size:,} test images:\n")
    for name, rows in trainings.items():
        reached = next(row.seconds for row in rows if row.accuracy >= target)
        extra = f", and {reached + recording_time:.1f} with the recording" if "recorded" in name else ""
        print(f"* {name}: {reached:.1f}{extra}")


def print_forms(teacher: Teacher, images: data.Source, directory: Path) -> dict[str, float]:
    """Prints a row for every form of recorded outputs; returns images per second with these outputs joined."""
    print(
        "\n| recorded | bytes per example and view | KL at T=1 | largest | KL at T=4 | largest | rows read a second |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    rows, speeds = np.random.default_rng(0).permutation(images.size)[: FLAGS.batch_size], {}
    for taps, form in [(("logits",), form) for form in FORMS] + [(("logits", "stages"), "float16")]:
        name = form if len(taps) == 1 else f"{form} and stages"
        recording = record(directory / name, teacher, images, taps=taps, logits=form, **view_options())
        recording.read(0, rows)
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < 1:
            recording.read(0, rows)
            count += len(rows)
        read = count / (time.perf_counter() - begun)
        shards = recording.plan["shards"]
        size = (directory / name / "view-0000-00.tfrecord").stat().st_size / shards[0]["rows"]
        errors = [shard["error"] for shard in shards if shard["error"]]
        cells = [
            f"{combine([error[temperature][part] for error in errors]):.1e}" if errors else "0"
            for temperature in ("T=1", "T=4")
            for part, combine in enumerate((np.mean, max))
        ]
        print(f"| {name} | {size:,.0f} | {' | '.join(cells)} | {read:,.0f} |", flush=True)
        batches = data.training(images, **view_options(), recorded=recording)
        speeds[name] = images_per_second(batches, 2 * data.steps_per_epoch(images, FLAGS.batch_size))
    return speeds


def main(_: list[str]) -> None:
    images = data.load("cifar10", f"train[:{FLAGS.images}]", FLAGS.data_dir)
    test_images = data.load("cifar10", "test[:4000]", FLAGS.data_dir)
    teacher = Teacher(load_network(FLAGS.teacher))
    test = data.evaluation(test_images, batch_size=500)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        begun = time.perf_counter()
        record(directory / "views", teacher, images, views=FLAGS.views, **view_options())
        recording_time = time.perf_counter() - begun
        recorded = Teacher.recorded(directory / "views")
        trainings = {
            f"live, {FLAGS.views} views": train(teacher, images, test, views=FLAGS.views),
            f"recorded, {FLAGS.views} views": train(recorded, images, test, recorded=recorded.recording),
            "live, a new view each epoch": train(teacher, images, test),
        }
        print(f"Recording {FLAGS.views} views of {images.size:,} images took {recording_time:.1f} s.\n")
        print_trainings(trainings)
        print_time_to_accuracy(trainings, recording_time, test_images.size)
        speeds = print_forms(teacher, images, directory)
    steps = 2 * data.steps_per_epoch(images, FLAGS.batch_size)
    plain = images_per_second(data.training(images, **view_options()), steps)
    print(f"\nThe pipeline by itself: {plain:,.0f} images a second; with recorded outputs joined:", end=" ")
    print("; ".join(f"{name} {speed:,.0f}" for name, speed in speeds.items()) + ".")
    print(f"\n{machine()}")


if __name__ == "__main__":
    app.run(main)
