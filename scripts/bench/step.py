"""Seconds a training step, in turns in one process: student alone, by hand, Keras's Distiller, ours live and recorded.

    python -m scripts.bench.step --pair=resnet32x4:resnet8x4:32:32 --rounds=9 --xla --memory

A pair is teacher:student:pixels:batch. All distil with a hard loss and KD at temperature 4, each weighing a half; with
"stage" the mean squared difference of the last stage is added, where both have the same channels (Keras's Distiller
has no adapters). "Folded" and "bfloat16" have a teacher frozen by `kd_keras.frozen`, in float32 and in that precision.
What is fed is one batch in memory: reading is measured by scripts.bench.recording.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from kd_keras import Distiller, frozen, methods, models
from kd_keras.contracts import INPUTS, RECORDED
from kd_keras.networks.taps import Tapped
from kd_keras.teacher import AbsentTeacher, Teacher
from scripts.bench.measuring import Run, fitting, in_turns, looping, machine, peak, ratio

PAIRS = ("resnet32x4:resnet8x4:32:32", "applications/ResNet50:applications/MobileNet:96:16")
PAIRS += ("vgg13:shufflenet_v2:32:32",)
CLASSES, TEMPERATURE = 100, 4.0
FLAGS = flags.FLAGS
flags.DEFINE_multi_string("pair", list(PAIRS), "teacher:student:pixels:batch; repeat it for several.")
flags.DEFINE_integer("rounds", 9, "Turns of every contestant.", lower_bound=1)
flags.DEFINE_integer("steps", 3, "Timed steps of a turn.", lower_bound=1)
flags.DEFINE_boolean("xla", False, "Measure what is by hand, Keras's and ours with XLA too.")
flags.DEFINE_boolean("memory", False, "Measure peaks of memory too.")


class Pair(NamedTuple):
    """A teacher, a student, and one batch of random images `(B, H, W, 3)` with labels `(B,)`."""

    teacher: keras.Model
    student: keras.Model
    images: tf.Tensor
    labels: tf.Tensor

    @classmethod
    def of(cls, text: str) -> Pair:
        teacher, student, size, count = text.split(":")
        shape, random = (int(size), int(size), 3), np.random.default_rng(0)
        keras.utils.set_random_seed(0)
        images = tf.constant(random.normal(size=(int(count), *shape)), tf.float32)
        labels = tf.constant(random.integers(0, CLASSES, int(count)))
        return cls(*(models.build(name, shape, CLASSES) for name in (teacher, student)), images, labels)


def optimizer() -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(0.01, momentum=0.9)


def crossentropy() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def alone(pair: Pair, xla: bool) -> Run:
    """The student without a teacher, by Keras's own `fit`."""
    pair.student.compile(optimizer=optimizer(), loss=crossentropy(), jit_compile=xla)
    return fitting(pair.student, (pair.images, pair.labels))


def by_hand(pair: Pair, xla: bool, stage: bool = False) -> Run:
    """The plainest function that does the same: no metrics, no checks, no callbacks."""
    teacher, student = (Tapped(each, ["logits", "stages[-1]"] if stage else ["logits"]) for each in pair[:2])
    updates = optimizer()
    updates.build(pair.student.trainable_variables)

    @tf.function(jit_compile=xla)
    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        _, answers = teacher(images, training=False)
        target = tf.nn.softmax(answers["logits"] / TEMPERATURE)
        log_target = tf.nn.log_softmax(answers["logits"] / TEMPERATURE)
        with tf.GradientTape() as tape:
            logits, taps = student(images, training=True)
            hard = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
            soft = tf.reduce_sum(target * (log_target - tf.nn.log_softmax(logits / TEMPERATURE)), -1)
            loss = 0.5 * hard + 0.5 * TEMPERATURE**2 * tf.reduce_mean(soft)
            if stage:
                loss += 0.5 * tf.reduce_mean(tf.square(answers["stages[-1]"] - taps["stages[-1]"]))
        gradients = tape.gradient(loss, pair.student.trainable_variables)
        updates.apply_gradients(zip(gradients, pair.student.trainable_variables, strict=True))
        return loss

    return looping(step, (pair.images, pair.labels))


def of_keras(pair: Pair, xla: bool, stage: bool = False) -> Run:
    """keras.distillation.Distiller, its losses given as instances, so that they mean what they say."""
    losses = [keras.distillation.LogitsDistillation(temperature=TEMPERATURE, loss=keras.losses.KLDivergence())]
    if stage:
        names = [Tapped(each, ["stages[-1]"]).specs["stages[-1]"].layer for each in (pair.teacher, pair.student)]
        mse = keras.losses.MeanSquaredError()
        losses.append(keras.distillation.FeatureDistillation(mse, *names))
    distiller = keras.distillation.Distiller(pair.teacher, pair.student, losses, student_loss_weight=0.5)
    distiller.compile(optimizer=optimizer(), loss=crossentropy(), jit_compile=xla)
    return fitting(distiller, (pair.images, pair.labels))


def live(pair: Pair, xla: bool, stage: bool = False) -> Run:
    """Ours, the teacher computed in every step."""
    return fitting(ours(pair, pair.teacher, xla, stage), (pair.images, pair.labels))


def with_frozen(way: Callable, precision: str) -> Callable:
    """The same with a frozen copy of the teacher."""
    return lambda pair, *options: way(pair._replace(teacher=frozen(pair.teacher, precision)), *options)


def recorded(pair: Pair, xla: bool) -> Run:
    """Ours, the teacher's logits coming with the batch."""
    ready = Teacher(pair.teacher).tapped(["logits"])
    inputs = {INPUTS: pair.images, RECORDED: dict(ready(pair.images))}
    return fitting(ours(pair, AbsentTeacher(ready.specs), xla), (inputs, pair.labels))


def ours(pair: Pair, teacher: Any, xla: bool, stage: bool = False) -> Distiller:
    taught = [methods.KD(temperature=TEMPERATURE, weight=0.5)]
    if stage:
        taught.append(methods.FitNet(student_tap="stages[-1]", teacher_tap="stages[-1]", weight=0.5))
    distiller = Distiller(student=pair.student, teacher=teacher, methods=taught, hard_weight=0.5)
    distiller.compile(optimizer=optimizer(), loss=crossentropy(), jit_compile=xla)
    return distiller


FROZEN = {"ours, live, folded": with_frozen(live, "float32"), "ours, live, bfloat16": with_frozen(live, "bfloat16")}
FROZEN |= {"Keras's Distiller, bfloat16": with_frozen(of_keras, "bfloat16")}
WAYS = {"by hand": by_hand, "Keras's Distiller": of_keras, "ours, live": live}


def contestants(pair: Pair) -> dict[str, Any]:
    """What runs, by name, as functions without arguments."""
    ways = {"student alone": alone, **WAYS, "ours, recorded": recorded, **FROZEN}
    found = {name: lambda make=make: make(pair, False) for name, make in ways.items()}
    shapes = [Tapped(each, ["stages[-1]"]).specs["stages[-1]"].shape for each in pair[:2]]
    if shapes[0] == shapes[1]:
        ways = {f"{name}, stage": make for name, make in (WAYS | FROZEN).items()}
        found |= {name: lambda make=make: make(pair, False, True) for name, make in ways.items()}
    if FLAGS.xla:
        found |= {f"{name}, XLA": lambda make=make: make(pair, True) for name, make in WAYS.items()}
    return found


TARGETS = [("ours, live", "Keras's Distiller", 0.85), ("ours, live, stage", "Keras's Distiller, stage", 0.60)]
TARGETS += [("ours, live, stage", "by hand, stage", 1.02), ("ours, recorded", "student alone", 1.05)]
for kind in ("folded", "bfloat16"):
    TARGETS += [(f"ours, live, {kind}", "by hand", 1.02), (f"ours, live, {kind}", "Keras's Distiller", 0.85)]
    TARGETS += [(f"ours, live, {kind}, stage", "by hand, stage", 1.02)]
    TARGETS += [(f"ours, live, {kind}, stage", "Keras's Distiller, stage", 0.60)]
TARGETS += [("ours, live, bfloat16", "Keras's Distiller, bfloat16", 0.85)]
TARGETS += [("ours, live, bfloat16, stage", "Keras's Distiller, bfloat16, stage", 0.60)]


def report(text: str) -> None:
    """One pair's tables."""
    pair = Pair.of(text)
    runs = {name: make() for name, make in contestants(pair).items()}
    found = in_turns(runs, FLAGS.rounds, FLAGS.steps)
    count = len(pair.labels)
    print(f"\n## {text}\n")
    print("| | ms a step | quartiles | fastest | processor, ms | images a second | first step, s | MB |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, times in found.items():
        low, middle, high = (1000 * each for each in np.quantile(times.rounds, [0.25, 0.5, 0.75]))
        most = f"{peak(lambda run=runs[name]: run(2), looks=7) / 2**20:.0f}" if FLAGS.memory else ""
        print(f"| {name} | {middle:.1f} | {low:.1f} to {high:.1f} | {1000 * times.fastest:.1f} |", end=" ")
        print(f"{1000 * np.median(times.processor):.0f} | {1000 * count / middle:.0f} |", end=" ")
        print(f"{times.first:.1f} | {most} |", flush=True)
    faster = min(found.keys() & {"by hand", "by hand, XLA"}, key=lambda name: np.median(found[name].rounds))
    print("\n| ratio | of the rounds' medians | quartiles | of the fastest | of processor time | target | |")
    print("|---|---:|---:|---:|---:|---:|---|")
    for one, other, target in (("ours, live", faster, 1.02), *TARGETS):
        if one in found and other in found:
            ours, theirs = found[one], found[other]
            middle, low, high = ratio(ours.rounds, theirs.rounds)
            verdict = "met" if middle <= target else "missed"
            print(f"| {one} / {other} | {middle:.3f} | {low:.3f} to {high:.3f} |", end=" ")
            of_processor = ratio(ours.processor, theirs.processor)[0]
            print(f"{ours.fastest / theirs.fastest:.3f} | {of_processor:.3f} |", end=" ")
            print(f"{target} | {verdict} |", flush=True)


def main(_: list[str]) -> None:
    begun = time.perf_counter()
    for text in FLAGS.pair:
        report(text)
    print(f"\n{machine()} {time.perf_counter() - begun:.0f} s.")


if __name__ == "__main__":
    app.run(main)
