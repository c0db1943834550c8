"""Seconds per training step: the baseline, a hand-written step, Keras's Distiller, and kd_keras live and recorded.

    python -m scripts.bench.step --pair=resnet32x4:resnet8x4:32:32 --rounds=9 --xla --memory

All contestants run in turns in one process. A pair is teacher:student:pixels:batch. All distill with a hard loss and
KD at temperature 4, each with weight 0.5. "Stage" adds the mean squared difference of the last stage, if both
networks have the same channels there (Keras's Distiller has no adapters). "Folded" and "bfloat16" use a teacher
frozen by `kd_keras.frozen`, in float32 and in bfloat16. The input is one batch in memory; scripts.bench.recording
measures reading.
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
flags.DEFINE_integer("rounds", 9, "Rounds of every contestant.", lower_bound=1)
flags.DEFINE_integer("steps", 3, "Timed steps of a round.", lower_bound=1)
flags.DEFINE_boolean("xla", False, "Measure the hand-written step, Keras's Distiller and kd_keras with XLA too.")
flags.DEFINE_boolean("memory", False, "Measure the peaks of memory too.")


class Pair(NamedTuple):
    """A teacher, a student, and one batch of random images `(B, H, W, 3)` with labels `(B,)`."""

    teacher: keras.Model
    student: keras.Model
    images: tf.Tensor
    labels: tf.Tensor

    @classmethod
    def parse(cls, text: str) -> Pair:
        teacher, student, size, count = text.split(":")
        shape, random = (int(size), int(size), 3), np.random.default_rng(0)
        keras.utils.set_random_seed(0)
        images = tf.constant(random.uniform(0, 255, (int(count), *shape)), tf.float32)
        labels = tf.constant(random.integers(0, CLASSES, int(count)))
        return cls(*(models.build(name, shape, CLASSES) for name in (teacher, student)), images, labels)


def optimizer() -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(0.01, momentum=0.9)


def cross_entropy() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def baseline(pair: Pair, xla: bool) -> Run:
    """The student without a teacher, by Keras's own `fit`."""
    pair.student.compile(optimizer=optimizer(), loss=cross_entropy(), jit_compile=xla)
    return fitting(pair.student, (pair.images, pair.labels))


def by_hand(pair: Pair, xla: bool, stage: bool = False) -> Run:
    """The plainest function that computes the same update: no metrics, no checks, no callbacks."""
    teacher, student = (Tapped(network, ["logits", "stages[-1]"] if stage else ["logits"]) for network in pair[:2])
    updates = optimizer()
    updates.build(pair.student.trainable_variables)

    @tf.function(jit_compile=xla)
    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        _, outputs = teacher(images, training=False)
        target = tf.nn.softmax(outputs["logits"] / TEMPERATURE)
        log_target = tf.nn.log_softmax(outputs["logits"] / TEMPERATURE)
        with tf.GradientTape() as tape:
            logits, taps = student(images, training=True)
            hard = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
            soft = tf.reduce_sum(target * (log_target - tf.nn.log_softmax(logits / TEMPERATURE)), -1)
            loss = 0.5 * hard + 0.5 * TEMPERATURE**2 * tf.reduce_mean(soft)
            if stage:
                loss += 0.5 * tf.reduce_mean(tf.square(outputs["stages[-1]"] - taps["stages[-1]"]))
        gradients = tape.gradient(loss, pair.student.trainable_variables)
        updates.apply_gradients(zip(gradients, pair.student.trainable_variables, strict=True))
        return loss

    return looping(step, (pair.images, pair.labels))


def keras_distiller(pair: Pair, xla: bool, stage: bool = False) -> Run:
    """keras.distillation.Distiller. Its losses are instances: a loss given by name is applied to clipped logits."""
    losses = [keras.distillation.LogitsDistillation(temperature=TEMPERATURE, loss=keras.losses.KLDivergence())]
    if stage:
        names = [Tapped(network, ["stages[-1]"]).specs["stages[-1]"].layer for network in pair[:2]]
        mse = keras.losses.MeanSquaredError()
        losses.append(keras.distillation.FeatureDistillation(mse, *names))
    distiller = keras.distillation.Distiller(pair.teacher, pair.student, losses, student_loss_weight=0.5)
    distiller.compile(optimizer=optimizer(), loss=cross_entropy(), jit_compile=xla)
    return fitting(distiller, (pair.images, pair.labels))


def live(pair: Pair, xla: bool, stage: bool = False) -> Run:
    """kd_keras; the teacher runs in every step."""
    return fitting(build_distiller(pair, pair.teacher, xla, stage), (pair.images, pair.labels))


def with_frozen(make: Callable, precision: str) -> Callable:
    """The same contestant with a frozen copy of the teacher."""
    return lambda pair, *options: make(pair._replace(teacher=frozen(pair.teacher, precision)), *options)


def recorded(pair: Pair, xla: bool) -> Run:
    """kd_keras; the teacher's logits come with the batch."""
    tapped = Teacher(pair.teacher).tapped(["logits"])
    inputs = {INPUTS: pair.images, RECORDED: dict(tapped(pair.images))}
    return fitting(build_distiller(pair, AbsentTeacher(tapped.specs), xla), (inputs, pair.labels))


def build_distiller(pair: Pair, teacher: Any, xla: bool, stage: bool = False) -> Distiller:
    losses = [methods.KD(temperature=TEMPERATURE, weight=0.5)]
    if stage:
        losses.append(methods.FitNet(student_tap="stages[-1]", teacher_tap="stages[-1]", weight=0.5))
    distiller = Distiller(student=pair.student, teacher=teacher, methods=losses, hard_weight=0.5)
    distiller.compile(optimizer=optimizer(), loss=cross_entropy(), jit_compile=xla)
    return distiller


FROZEN = {
    "kd_keras, live, folded": with_frozen(live, "float32"),
    "kd_keras, live, bfloat16": with_frozen(live, "bfloat16"),
}
FROZEN |= {"Keras's Distiller, bfloat16": with_frozen(keras_distiller, "bfloat16")}
CONTESTANTS = {"by hand": by_hand, "Keras's Distiller": keras_distiller, "kd_keras, live": live}


def make_contestants(pair: Pair) -> dict[str, Any]:
    """The contestants by name, as functions without arguments that prepare them."""
    makers = {"baseline": baseline, **CONTESTANTS, "kd_keras, recorded": recorded, **FROZEN}
    prepared = {name: lambda make=make: make(pair, False) for name, make in makers.items()}
    shapes = [Tapped(network, ["stages[-1]"]).specs["stages[-1]"].shape for network in pair[:2]]
    if shapes[0] == shapes[1]:
        makers = {f"{name}, stage": make for name, make in (CONTESTANTS | FROZEN).items()}
        prepared |= {name: lambda make=make: make(pair, False, True) for name, make in makers.items()}
    if FLAGS.xla:
        prepared |= {f"{name}, XLA": lambda make=make: make(pair, True) for name, make in CONTESTANTS.items()}
    return prepared


TARGETS = [("kd_keras, live", "Keras's Distiller", 0.85), ("kd_keras, live, stage", "Keras's Distiller, stage", 0.60)]
TARGETS += [("kd_keras, live, stage", "by hand, stage", 1.02), ("kd_keras, recorded", "baseline", 1.05)]
for kind in ("folded", "bfloat16"):
    TARGETS += [(f"kd_keras, live, {kind}", "by hand", 1.02), (f"kd_keras, live, {kind}", "Keras's Distiller", 0.85)]
    TARGETS += [(f"kd_keras, live, {kind}, stage", "by hand, stage", 1.02)]
    TARGETS += [(f"kd_keras, live, {kind}, stage", "Keras's Distiller, stage", 0.60)]
TARGETS += [("kd_keras, live, bfloat16", "Keras's Distiller, bfloat16", 0.85)]
TARGETS += [("kd_keras, live, bfloat16, stage", "Keras's Distiller, bfloat16, stage", 0.60)]


def report(text: str) -> None:
    """Measures one pair and prints its tables."""
    pair = Pair.parse(text)
    runs = {name: make() for name, make in make_contestants(pair).items()}
    times_by_name = in_turns(runs, FLAGS.rounds, FLAGS.steps)
    count = len(pair.labels)
    print(f"\n## {text}\n")
    print("| | ms per step | quartiles | fastest | processor, ms | images per second | first step, s | MB |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, times in times_by_name.items():
        low, middle, high = (1000 * seconds for seconds in np.quantile(times.rounds, [0.25, 0.5, 0.75]))
        memory = f"{peak(lambda run=runs[name]: run(2), looks=7) / 2**20:.0f}" if FLAGS.memory else ""
        print(f"| {name} | {middle:.1f} | {low:.1f} to {high:.1f} | {1000 * times.fastest:.1f} |", end=" ")
        print(f"{1000 * np.median(times.processor):.0f} | {1000 * count / middle:.0f} |", end=" ")
        print(f"{times.first:.1f} | {memory} |", flush=True)
    faster = min(
        times_by_name.keys() & {"by hand", "by hand, XLA"}, key=lambda name: np.median(times_by_name[name].rounds)
    )
    print("\n| ratio | of the rounds' medians | quartiles | of the fastest | of processor time | target | |")
    print("|---|---:|---:|---:|---:|---:|---|")
    for numerator, denominator, target in (("kd_keras, live", faster, 1.02), *TARGETS):
        if numerator in times_by_name and denominator in times_by_name:
            first, second = times_by_name[numerator], times_by_name[denominator]
            middle, low, high = ratio(first.rounds, second.rounds)
            verdict = "met" if middle <= target else "missed"
            print(f"| {numerator} / {denominator} | {middle:.3f} | {low:.3f} to {high:.3f} |", end=" ")
            of_processor = ratio(first.processor, second.processor)[0]
            print(f"{first.fastest / second.fastest:.3f} | {of_processor:.3f} |", end=" ")
            print(f"{target} | {verdict} |", flush=True)


def main(_: list[str]) -> None:
    begun = time.perf_counter()
    for text in FLAGS.pair:
        report(text)
    print(f"\n{machine()} {time.perf_counter() - begun:.0f} s.")


if __name__ == "__main__":
    app.run(main)
