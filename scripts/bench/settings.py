"""Images per second of a distillation on this machine, by batch size, precision, teacher, XLA and steps per call.

    python -m scripts.bench.settings --teacher=resnet32 --student=resnet8 --rounds=5

Most rows differ from the first one in one setting. All settings run in turns in one process on random images, so the
reading of images is not included. "Recorded" is a teacher whose logits come with the batch.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kd_keras import Distiller, frozen, methods, models
from kd_keras.contracts import INPUTS, RECORDED
from kd_keras.teacher import AbsentTeacher, Teacher
from scripts.bench.measuring import Run, in_turns, machine, ratio

SHAPE, CLASSES = (32, 32, 3), 10


class Setting(NamedTuple):
    """How a distillation is computed; the defaults are those of the first row."""

    batch: int = 64
    student: str = "float32"
    teacher: str = "float32"
    jit: bool = False
    steps: int = 1


SETTINGS = {
    "batch 64, float32, live teacher": Setting(),
    "batch 128": Setting(batch=128),
    "batch 256": Setting(batch=256),
    "teacher folded": Setting(teacher="folded"),
    "teacher folded, bfloat16": Setting(teacher="bfloat16"),
    "teacher recorded": Setting(teacher="recorded"),
    "student mixed_bfloat16": Setting(student="mixed_bfloat16"),
    "both in bfloat16": Setting(student="mixed_bfloat16", teacher="bfloat16"),
    "XLA": Setting(jit=True),
    "8 steps per call": Setting(steps=8),
}


def make_run(setting: Setting, options: argparse.Namespace) -> Run:
    """A function that trains on `steps` times 256 images, and returns the seconds for one image."""
    keras.utils.set_random_seed(0)
    teacher: Any = models.build(options.teacher, SHAPE, CLASSES)
    if setting.teacher in ("folded", "bfloat16"):
        teacher = frozen(teacher, "float32" if setting.teacher == "folded" else "bfloat16")
    keras.config.set_dtype_policy(setting.student)
    student = models.build(options.student, SHAPE, CLASSES)
    keras.config.set_dtype_policy("float32")
    random = np.random.default_rng(0)
    images = tf.constant(random.uniform(0, 255, (setting.batch, *SHAPE)), tf.float32)
    inputs: Any = images
    if setting.teacher == "recorded":
        tapped = Teacher(teacher).tapped(["logits"])
        inputs, teacher = {INPUTS: images, RECORDED: dict(tapped(images))}, AbsentTeacher(tapped.specs)
    distiller = Distiller(student=student, teacher=teacher, methods=[methods.KD()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compiling: dict[str, Any] = {"jit_compile": setting.jit, "steps_per_execution": setting.steps}
    distiller.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.9), loss=loss, **compiling)
    labels = tf.constant(random.integers(0, CLASSES, setting.batch))
    dataset = tf.data.Dataset.from_tensors((inputs, labels)).repeat().prefetch(2)

    def run(steps: int) -> list[float]:
        count = -(-256 * steps // (setting.batch * setting.steps)) * setting.steps
        begun = time.perf_counter()
        distiller.fit(dataset, steps_per_epoch=count, verbose=0)
        return [(time.perf_counter() - begun) / (count * setting.batch)]

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="resnet32", help="a model of the zoo")
    parser.add_argument("--student", default="resnet8", help="a model of the zoo")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="each round trains on this number times 256 images")
    options = parser.parse_args()
    times = in_turns(
        {name: make_run(setting, options) for name, setting in SETTINGS.items()}, options.rounds, options.steps
    )
    print("| setting | images per second | time against the first row | quartiles |\n|---|---:|---:|---|")
    first = next(iter(times.values())).rounds
    for name, one in times.items():
        middle, low, high = ratio(one.rounds, first)
        print(f"| {name} | {1 / np.median(one.rounds):,.0f} | {middle:.2f} | {low:.2f} to {high:.2f} |")
    print(f"\n{options.teacher} teaches {options.student}. {machine()}")


if __name__ == "__main__":
    main()
