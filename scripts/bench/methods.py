"""What each method costs compared with KD in a whole step, and how its loss grows with batch, width and classes.

    python -m scripts.bench.methods --rounds=5
    python -m scripts.bench.methods --growth=batch --growth=width --growth=classes

The methods are all of kd_keras.methods, with their defaults. A step distills a resnet20 into a resnet8 on one batch
in memory. Growth is measured on the loss alone, with its gradient and the method's own updates, on the taps of a
resnet14 and a resnet8 at 16 pixels.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from kd_keras import Distiller, methods, models
from kd_keras.contracts import INDEX, INPUTS, Batch, Step
from kd_keras.methods import Method
from kd_keras.methods.listing import list_kinds
from kd_keras.networks.taps import Tapped
from scripts.bench.measuring import Run, fitting, in_turns, machine, peak, ratio

EXAMPLES = 50000  # in the dataset, for methods with a memory
SIZES = {"batch": (16, 64, 256, 512), "width": (8, 16, 32, 64), "classes": (10, 100, 1000, 20000)}
DEFAULTS = {"batch": 64, "width": 16, "classes": 100}
FLAGS = flags.FLAGS
flags.DEFINE_multi_enum("growth", [], list(SIZES), "Measure how the losses grow with this, instead of whole steps.")
flags.DEFINE_multi_string("method", [], "Only these classes, such as RKD; all by default.")
flags.DEFINE_integer("rounds", 5, "Rounds of every method and of KD.", lower_bound=1)
flags.DEFINE_integer("steps", 5, "Timed steps of a round.", lower_bound=1)


def kinds() -> list[type[Method]]:
    """The chosen classes of methods."""
    return [kind for kind in list_kinds() if not FLAGS.method or kind.__name__ in FLAGS.method]


def make_method(kind: type[Method], classes: int = 100) -> Method:
    """A method with its defaults, and the numbers of examples and classes if it takes them."""
    known = {"examples": EXAMPLES, "classes": classes}
    return kind(**{name: value for name, value in known.items() if name in inspect.signature(kind).parameters})


def build_networks(sizes: dict[str, int], student: str = "resnet8") -> tuple[keras.Model, keras.Model]:
    """A student and a teacher of the same width, with maps of the same size."""
    keras.utils.set_random_seed(0)
    widths = [sizes["width"] * factor for factor in (1, 1, 2, 4)]
    names = {student: student, "resnet14": "resnet14"}
    return tuple(models.build(name, (16, 16, 3), sizes["classes"], widths=widths) for name in names)


def make_step(kind: type[Method], count: int = 64) -> Run:
    """The training steps of a Distiller with one method."""
    keras.utils.set_random_seed(0)
    method, failure = make_method(kind), None
    teacher = models.build("resnet20", (32, 32, 3), 100)
    for name in ("resnet8", "multi_exit/resnet8"):  # self-distillation needs exits
        try:
            student = method.student_from(models.build(name, (32, 32, 3), 100), teacher)
            teachers = teacher if method.taps.teacher else None
            distiller = Distiller(student=student, teacher=teachers, methods=[method])
            break
        except ValueError as error:
            failure, method = failure or error, make_method(kind)
    else:
        raise failure
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(optimizer=keras.optimizers.SGD(0.01), loss=loss)
    random = np.random.default_rng(0)
    inputs = {INPUTS: tf.constant(random.uniform(0, 255, (count, 32, 32, 3)), tf.float32), INDEX: tf.range(count)}
    run = fitting(distiller, (inputs, tf.constant(random.integers(0, 100, count))))
    run(1)
    return run


def print_costs() -> None:
    """The table of whole steps, each method in turns with KD."""
    plain = make_step(methods.KD)
    print("| method | fastest step, ms | minus KD's | ratio of medians | quartiles | ratio of processor time |")
    print("|---|---:|---:|---:|---:|---:|")
    for kind in kinds():
        try:
            run = make_step(kind)
        except ValueError as error:
            print(f"| {kind.__name__} | does not fit this pair: {first_line(error)} | | | | |", flush=True)
            continue
        times = in_turns({"kd": plain, "method": run}, FLAGS.rounds, FLAGS.steps)
        method, kd = times["method"], times["kd"]
        middle, low, high = ratio(method.rounds, kd.rounds)
        difference = 1000 * (method.fastest - kd.fastest)
        print(f"| {kind.__name__} | {1000 * method.fastest:.1f} | {difference:+.1f} | {middle:.2f} |", end=" ")
        print(f"{low:.2f} to {high:.2f} | {ratio(method.processor, kd.processor)[0]:.2f} |", flush=True)


def first_line(error: Exception) -> str:
    return " ".join(str(error).splitlines()[:2])[:110].replace("|", "/")


def make_loss(kind: type[Method], sizes: dict[str, int]) -> Callable[[], Any]:
    """One evaluation of a method's loss with its gradient, compiled."""
    method = make_method(kind, sizes["classes"])
    student, teacher = build_networks(sizes)
    student = method.student_from(student, teacher)
    tapped_student, tapped_teacher = Tapped(student, method.taps.student), Tapped(teacher, method.taps.teacher)
    method.bind(tapped_student.specs, tapped_teacher.specs)
    random = np.random.default_rng(0)
    images = tf.constant(random.uniform(0, 255, (sizes["batch"], 16, 16, 3)), tf.float32)
    labels = tf.constant(random.integers(0, sizes["classes"], sizes["batch"]))
    batch = Batch(images, labels, None, tf.range(sizes["batch"], dtype=tf.int64))
    _, student_outputs = tapped_student(images, training=False)
    _, teacher_outputs = tapped_teacher(images, training=False)
    tensors = keras.tree.flatten(dict(student_outputs))

    @tf.function
    def evaluate() -> list:
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            loss = tf.reduce_mean(method(student_outputs, teacher_outputs, batch, Step(tf.constant(0), tf.constant(0))))
        return tape.gradient(loss, [*tensors, *method.trainable_variables])

    evaluate()
    return evaluate


def fastest_seconds(evaluate: Callable[[], Any]) -> float:
    """The fastest of several evaluations."""
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < 0.3 and len(seconds) < 30):
        begun = time.perf_counter()
        evaluate()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def print_growth(axis: str) -> None:
    """Prints milliseconds at each size of one axis, the exponent of growth between the last two, and memory."""
    sizes, unfit = SIZES[axis], []
    print(f"\n| {axis} | {' | '.join(f'{size} ms' for size in sizes)} | exponent | memory at {sizes[-1]}, MB |")
    print(f"|---|{'---:|' * (len(sizes) + 2)}")
    for kind in kinds():
        try:
            times = [fastest_seconds(make_loss(kind, {**DEFAULTS, axis: size})) for size in sizes[:-1]]
            largest = make_loss(kind, {**DEFAULTS, axis: sizes[-1]})
        except ValueError:
            unfit.append(kind.__name__)
            continue
        times.append(fastest_seconds(largest))
        exponent = np.log(times[-1] / times[-2]) / np.log(sizes[-1] / sizes[-2])
        cells = " | ".join(f"{1000 * seconds:.2f}" for seconds in times)
        print(f"| {kind.__name__} | {cells} | {exponent:.2f} | {peak(largest, looks=3) / 2**20:.0f} |", flush=True)
        keras.backend.clear_session()
    print(f"\nThese do not fit this pair of networks: {', '.join(unfit) or 'none'}.")


def main(_: list[str]) -> None:
    for axis in FLAGS.growth:
        print_growth(axis)
    if not FLAGS.growth:
        print_costs()
    print(f"\n{machine()}")


if __name__ == "__main__":
    app.run(main)
