"""Live against recorded on CIFAR-10: time to the same accuracy, bytes an example, reading speed.

    python -m scripts.bench.recording --teacher=runs/resnet20 --data_dir=../shared/data

The live run and the recorded one show the same views, so they learn the same; a third run shows a new view in every
epoch, as training without a recording usually does.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from experiments.runs import load_model, load_result
from experiments.teachers import renormalize
from kd_keras import Distiller, Teacher, data, methods, models
from kd_keras.recording.writer import record
from scripts.bench.measuring import machine

FORMS = ("float32", "float16", "top-5", "top-2")
FLAGS = flags.FLAGS
flags.DEFINE_string("teacher", None, "A finished run of experiments.train on CIFAR-10.", required=True)
flags.DEFINE_string("student", "resnet8", "A model of the zoo.")
flags.DEFINE_string("data_dir", None, "Where TFDS keeps prepared datasets.")
flags.DEFINE_integer("images", 10000, "Training images, the first ones.", lower_bound=256)
flags.DEFINE_integer("epochs", 8, "Epochs of each training.", lower_bound=1)
flags.DEFINE_integer("views", 2, "Views that are recorded.", lower_bound=1)
flags.DEFINE_integer("batch_size", 128, "Images a step.", lower_bound=1)


class Clock(keras.callbacks.Callback):
    """Seconds spent in training so far and the accuracy on the test images, at the end of every epoch."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.rows, self.spent = [], 0.0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.begun = time.perf_counter()

    def on_test_begin(self, logs: dict | None = None) -> None:
        self.spent += time.perf_counter() - self.begun

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.rows.append((self.spent, logs["val_accuracy"]))


def view(images: data.Source) -> dict[str, Any]:
    """What the views follow from."""
    augmentation = data.Augmentation(crop=4, flip=True)
    return {"augmentation": augmentation, "normalisation": data.measure(images), "batch_size": FLAGS.batch_size}


def trained(teacher: Any, images: data.Source, test: tf.data.Dataset, **options: Any) -> list[tuple[float, float]]:
    """Trains a student, and returns seconds and accuracy after every epoch."""
    keras.utils.set_random_seed(0)
    student = models.build(FLAGS.student, images.image_shape, images.classes)
    taught = [methods.KD(temperature=4, weight=0.9)]
    distiller = Distiller(student=student, teacher=teacher, methods=taught, hard_weight=0.1)
    steps = data.steps_per_epoch(images, FLAGS.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(0.1, FLAGS.epochs * steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(optimizer=keras.optimizers.SGD(rate, momentum=0.9), loss=loss, metrics=["accuracy"])
    clock, train = Clock(), data.training(images, **view(images), **options)
    distiller.fit(train, epochs=FLAGS.epochs, steps_per_epoch=steps, validation_data=test, verbose=0, callbacks=[clock])
    return clock.rows


def speed(dataset: tf.data.Dataset, steps: int) -> float:
    """Images a second of a pipeline by itself."""
    iterator = iter(dataset)
    next(iterator)
    begun = time.perf_counter()
    for _ in range(steps):
        next(iterator)
    return steps * FLAGS.batch_size / (time.perf_counter() - begun)


def forms(teacher: Teacher, images: data.Source, place: Path) -> None:
    """The table of how logits are kept."""
    print("\n| kept | bytes an example and view | KL at T=1 | greatest | KL at T=4 | greatest | rows read a second |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    rows = np.random.default_rng(0).permutation(images.size)[: FLAGS.batch_size]
    for taps, form in [(("logits",), form) for form in FORMS] + [(("logits", "stages"), "float16")]:
        name = form if len(taps) == 1 else f"{form} and stages"
        recording = record(place / name, teacher, images, taps=taps, logits=form, say=lambda _: None, **view(images))
        recording.read(0, rows)
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < 1:
            recording.read(0, rows)
            count += len(rows)
        each = (place / name / "view-0000-00.tfrecord").stat().st_size / recording.plan["shards"][0]["rows"]
        errors = [shard["error"] for shard in recording.plan["shards"] if shard["error"]]
        cells = [
            f"{combine([error[at][part] for error in errors]):.1e}" if errors else "0"
            for at in ("T=1", "T=4")
            for part, combine in enumerate((np.mean, max))
        ]
        read = count / (time.perf_counter() - begun)
        print(f"| {name} | {each:,.0f} | {' | '.join(cells)} | {read:,.0f} |", flush=True)
        options = {**view(images), "recorded": recording}
        READING[name] = speed(data.training(images, **options), 2 * data.steps_per_epoch(images, FLAGS.batch_size))


READING: dict[str, float] = {}  # images a second with what is recorded joined in


def main(_: list[str]) -> None:
    images = data.load("cifar10", f"train[:{FLAGS.images}]", FLAGS.data_dir)
    test_images = data.load("cifar10", "test[:4000]", FLAGS.data_dir)
    known = load_result(FLAGS.teacher)["data"]
    network = load_model(FLAGS.teacher)
    teacher = Teacher(network, preprocess=renormalize(known, view(images)["normalisation"]))
    test = data.evaluation(test_images, batch_size=500, normalisation=view(images)["normalisation"])
    with tempfile.TemporaryDirectory() as place:
        begun = time.perf_counter()
        record(place + "/views", teacher, images, views=FLAGS.views, say=lambda _: None, **view(images))
        recording_time = time.perf_counter() - begun
        recorded = Teacher.recorded(place + "/views")
        runs = {
            f"live, {FLAGS.views} views": trained(teacher, images, test, views=FLAGS.views),
            f"recorded, {FLAGS.views} views": trained(recorded, images, test, recorded=recorded.recording),
            "live, a new view each epoch": trained(teacher, images, test),
        }
        print(f"Recording {FLAGS.views} views of {images.size:,} images took {recording_time:.1f} s.\n")
        print("| training | s an epoch, median | s in all | accuracy at the end | accuracy after each epoch |")
        print("|---|---:|---:|---:|---|")
        for name, rows in runs.items():
            each = np.diff([0, *(seconds for seconds, _ in rows)])
            course = " ".join(f"{accuracy:.4f}" for _, accuracy in rows)
            print(f"| {name} | {np.median(each):.1f} | {rows[-1][0]:.1f} | {rows[-1][1]:.4f} | {course} |")
        target = min(rows[-1][1] for rows in runs.values())
        print(f"\nSeconds until {target:.4f} on {test_images.size:,} test images was first reached after an epoch:")
        for name, rows in runs.items():
            reached = next(seconds for seconds, accuracy in rows if accuracy >= target)
            extra = f", and {reached + recording_time:.1f} with the recording" if "recorded" in name else ""
            print(f"* {name}: {reached:.1f}{extra}")
        forms(teacher, images, Path(place))
    plain = speed(data.training(images, **view(images)), 2 * data.steps_per_epoch(images, FLAGS.batch_size))
    print(f"\nThe pipeline by itself: {plain:,.0f} images a second; with recorded outputs joined:", end=" ")
    print("; ".join(f"{name} {each:,.0f}" for name, each in READING.items()) + ".")
    print(f"\n{machine()}")


if __name__ == "__main__":
    app.run(main)
