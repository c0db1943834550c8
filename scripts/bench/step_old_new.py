"""Compares the training step of this checkout with that of an older one: time and memory, in turns, in one process.

    git worktree add /tmp/old 1ad4c76
    python -m scripts.bench.step_old_new --old=/tmp/old --rounds=21 --memory

The old package is copied to a temporary folder under another name, so that both run side by side on the same teacher,
on students with the same weights and on one batch in memory. Each round times some steps of both, in alternating order,
and the median of the rounds' ratios is printed. A pair is teacher:student:pixels:batch. The check of the teacher before
training is not a part of the step, and is left out. If `--memory` reports that it cannot reset the memory statistics,
set TF_ENABLE_ONEDNN_OPTS=1 in the environment.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import kd_keras
from kd_keras import callbacks, models
from kd_keras.contracts import INPUTS, RECORDED
from scripts.bench.measuring import Run, StepTimes, in_turns, machine, peak, ratio

OLD_NAME = "kd_keras_old"
CLASSES = 100
PAIRS = ("resnet32x4:resnet8x4:32:32", "resnet20:resnet8:32:64")
WAYS = ("kd", "kd and fitnet", "kd, recorded")
FURTHER_WAYS = ("reviewkd",)  # only if named, because older versions start its adapters with other values
FLAGS = flags.FLAGS
flags.DEFINE_string("old", None, "Folder of the old checkout, which contains kd_keras/.", required=True)
flags.DEFINE_multi_string("pair", list(PAIRS), "teacher:student:pixels:batch; repeat it for several.")
flags.DEFINE_multi_enum("way", list(WAYS), (*WAYS, *FURTHER_WAYS), "What is trained; repeat it for several.")
flags.DEFINE_integer("rounds", 21, "Rounds, each of both versions.", lower_bound=1)
flags.DEFINE_integer("steps", 5, "Timed steps of a round.", lower_bound=1)
flags.DEFINE_boolean("memory", False, "Measure the peaks of memory too.")
flags.DEFINE_float("at_most", 1.01, "The highest ratio of new to old that passes; the program exits with 1 above it.")


class Batch(NamedTuple):
    """Random pixels `(B, H, W, 3)` from 0 to 255 and labels `(B,)`."""

    images: tf.Tensor
    labels: tf.Tensor


@contextlib.contextmanager
def old_package(checkout: str) -> Iterator[ModuleType]:
    """The old package, imported from a copy in which every `kd_keras` is renamed, also in Keras's registry."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / OLD_NAME
        shutil.copytree(Path(checkout) / "kd_keras", copy, ignore=shutil.ignore_patterns("__pycache__"))
        for path in copy.rglob("*.py"):
            path.write_text(path.read_text().replace("kd_keras", OLD_NAME))
        sys.path.insert(0, folder)
        try:
            yield importlib.import_module(OLD_NAME)
        finally:
            sys.path.remove(folder)


def distiller(package: Any, way: str, teacher: keras.Model, student: keras.Model) -> keras.Model:
    """A compiled Distiller of one of the two packages."""
    methods = [package.methods.KD(temperature=4.0, weight=0.9)]
    if way == "kd and fitnet":
        methods.append(package.methods.FitNet(weight=0.5))
    if way == "reviewkd":
        methods = [package.methods.ReviewKD(warmup_epochs=0)]
    model = package.Distiller(student=student, teacher=teacher, methods=methods, hard_weight=0.1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.9), loss=loss, jit_compile=False)
    return model


def fitting(model: keras.Model, data: tuple, unchecked: list) -> Run:
    """Steps of `fit` on one batch, and the seconds of each."""
    dataset = tf.data.Dataset.from_tensors(data).repeat().prefetch(2)

    def run(steps: int) -> list[float]:
        times = StepTimes()
        model.fit(dataset, steps_per_epoch=steps + 1, verbose=0, callbacks=[times, *unchecked])
        return times.seconds()

    return run


def compare(old: ModuleType, text: str, way: str) -> float:
    """Prints the row of one pair and way, and returns the ratio of new to old."""
    teacher_name, student_name, pixels, count = text.split(":")
    shape, random = (int(pixels), int(pixels), 3), np.random.default_rng(0)
    images = tf.constant(random.uniform(0, 255, size=(int(count), *shape)), tf.float32)
    batch = Batch(images, tf.constant(random.integers(0, CLASSES, int(count))))
    keras.utils.set_random_seed(0)
    teacher = models.build(teacher_name, shape, CLASSES)
    inputs = {INPUTS: images}
    if way == "kd, recorded":
        inputs[RECORDED] = {"logits": teacher(images, training=False)}
    runs, losses = {}, {}
    for name, package in (("old", old), ("new", kd_keras)):
        keras.utils.set_random_seed(1)
        model = distiller(package, way, teacher, models.build(student_name, shape, CLASSES))
        losses[name] = float(model.train_on_batch(inputs, batch.labels, return_dict=True)["loss"])
        runs[name] = fitting(model, (inputs, batch.labels), [callbacks.TeacherCheck([])] if name == "new" else [])
    np.testing.assert_allclose(losses["new"], losses["old"], rtol=1e-5, err_msg="the two versions compute other losses")
    times = in_turns(runs, FLAGS.rounds, FLAGS.steps)
    middle, low, high = ratio(times["new"].rounds, times["old"].rounds)
    of_processor = ratio(times["new"].processor, times["old"].processor)[0]
    medians = [1000 * float(np.median(times[name].rounds)) for name in ("old", "new")]
    print(f"| {text} | {way} | {medians[0]:.1f} | {medians[1]:.1f} | {middle:.3f} | {low:.3f} to {high:.3f} |", end=" ")
    print(f"{times['new'].fastest / times['old'].fastest:.3f} | {of_processor:.3f} |", end=" ")
    print(f"{times['old'].first:.1f} | {times['new'].first:.1f} |", end=" ")
    if FLAGS.memory:
        peaks = [peak(lambda run=runs[name]: run(2), looks=7) / 2**20 for name in ("old", "new")]
        print(f"{peaks[0]:.1f} | {peaks[1]:.1f} |", flush=True)
    else:
        print(" | |", flush=True)
    return middle


def main(_: list[str]) -> None:
    begin = time.perf_counter()
    print(
        "| pair | methods | old, ms | new, ms | new / old | quartiles | of the fastest | of processor time |", end=" "
    )
    print("first, old, s | first, new, s | peak, old, MB | peak, new, MB |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    with old_package(FLAGS.old) as old:
        ratios = [compare(old, pair, way) for pair in FLAGS.pair for way in FLAGS.way]
    print(f"\nHighest ratio {max(ratios):.3f}, at most {FLAGS.at_most} wanted; {FLAGS.rounds} rounds.")
    print(f"{machine()} {time.perf_counter() - begin:.0f} s.")
    sys.exit(max(ratios) > FLAGS.at_most)


if __name__ == "__main__":
    app.run(main)
