"""What each method costs over KD in a whole step, and how its loss grows with batch, width and classes.

    python -m scripts.bench.methods --rounds=5
    python -m scripts.bench.methods --growth=batch --growth=width --growth=classes

The methods are those that kd_keras.methods names, with their defaults. A step is that of a resnet20 that teaches a
resnet8 on one batch in memory. Growth is measured on the loss alone, with its gradient and its method's own updates,
on the taps of a resnet14 and a resnet8 of 16 pixels.
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
from kd_keras.networks.taps import Tapped
from scripts.bench.measuring import fitting, in_turns, machine, peak, ratio

EXAMPLES = 50000  # of the data set that a method with a memory is told of
SIZES = {"batch": (16, 64, 256, 512), "width": (8, 16, 32, 64), "classes": (10, 100, 1000, 20000)}
USUAL = {"batch": 64, "width": 16, "classes": 100}
FLAGS = flags.FLAGS
flags.DEFINE_multi_enum("growth", [], list(SIZES), "Measure how the losses grow with this, instead of whole steps.")
flags.DEFINE_multi_string("method", [], "Only these classes, such as RKD; all by default.")
flags.DEFINE_integer("rounds", 5, "Turns of every method and of KD.", lower_bound=1)
flags.DEFINE_integer("steps", 5, "Timed steps of a turn.", lower_bound=1)


def kinds() -> list[type[Method]]:
    """The methods' classes, but for their bases."""
    found = [getattr(methods, name) for name in methods.__all__]
    found = [each for each in found if inspect.isclass(each) and issubclass(each, Method) and each is not Method]
    return [each for each in found if not FLAGS.method or each.__name__ in FLAGS.method]


def made(kind: type[Method]) -> Method:
    """A method with its defaults, told of the number of examples where it asks."""
    known = {"examples": EXAMPLES} if "examples" in inspect.signature(kind).parameters else {}
    return kind(**known)


def networks(sizes: dict[str, int], student: str = "resnet8") -> tuple[keras.Model, keras.Model]:
    """A student and a teacher of one width, whose maps have as many pixels."""
    keras.utils.set_random_seed(0)
    widths = [sizes["width"] * factor for factor in (1, 1, 2, 4)]
    names = {student: student, "resnet14": "resnet14"}
    return tuple(models.build(name, (16, 16, 3), sizes["classes"], widths=widths) for name in names)


def step_of(kind: type[Method], count: int = 64) -> Any:
    """The steps of a Distiller with one method."""
    keras.utils.set_random_seed(0)
    method, failure = made(kind), None
    teacher = models.build("resnet20", (32, 32, 3), 100)
    for name in ("resnet8", "multi_exit/resnet8"):  # a network that teaches itself has exits
        try:
            student = method.student_from(models.build(name, (32, 32, 3), 100), teacher)
            taught = teacher if method.taps.teacher else None
            distiller = Distiller(student=student, teacher=taught, methods=[method])
            break
        except ValueError as error:
            failure, method = failure or error, made(kind)
    else:
        raise failure
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(optimizer=keras.optimizers.SGD(0.01), loss=loss)
    random = np.random.default_rng(0)
    inputs = {INPUTS: tf.constant(random.normal(size=(count, 32, 32, 3)), tf.float32), INDEX: tf.range(count)}
    run = fitting(distiller, (inputs, tf.constant(random.integers(0, 100, count))))
    run(1)
    return run


def costs() -> None:
    """The table of whole steps, each method in turns with KD."""
    plain = step_of(methods.KD)
    print("| method | fastest step, ms | over KD's | ratio of medians | quartiles | of processor time |")
    print("|---|---:|---:|---:|---:|---:|")
    for kind in kinds():
        try:
            run = step_of(kind)
        except ValueError as error:
            print(f"| {kind.__name__} | does not suit this pair: {first_line(error)} | | | | |", flush=True)
            continue
        found = in_turns({"kd": plain, "method": run}, FLAGS.rounds, FLAGS.steps)
        ours, theirs = found["method"], found["kd"]
        middle, low, high = ratio(ours.rounds, theirs.rounds)
        more = 1000 * (ours.fastest - theirs.fastest)
        print(f"| {kind.__name__} | {1000 * ours.fastest:.1f} | {more:+.1f} | {middle:.2f} |", end=" ")
        print(f"{low:.2f} to {high:.2f} | {ratio(ours.processor, theirs.processor)[0]:.2f} |", flush=True)


def first_line(error: Exception) -> str:
    return " ".join(str(error).splitlines()[:2])[:110].replace("|", "/")


def loss_of(kind: type[Method], sizes: dict[str, int]) -> Callable[[], Any]:
    """One evaluation of a method's loss with its gradient, compiled."""
    method = made(kind)
    student, teacher = networks(sizes)
    student = method.student_from(student, teacher)
    ours, theirs = Tapped(student, method.taps.student), Tapped(teacher, method.taps.teacher)
    method.bind(ours.specs, theirs.specs)
    random = np.random.default_rng(0)
    images = tf.constant(random.normal(size=(sizes["batch"], 16, 16, 3)), tf.float32)
    labels = tf.constant(random.integers(0, sizes["classes"], sizes["batch"]))
    batch = Batch(images, labels, None, tf.range(sizes["batch"], dtype=tf.int64))
    _, given = ours(images, training=False)
    _, answers = theirs(images, training=False)
    flat = keras.tree.flatten(dict(given))

    @tf.function
    def evaluate() -> list:
        with tf.GradientTape() as tape:
            tape.guard(flat)
            loss = tf.reduce_mean(method(given, answers, batch, Step(tf.constant(0), tf.constant(0))))
        return tape.gradient(loss, [*flat, *method.trainable_variables])

    evaluate()
    return evaluate


def seconds_of(evaluate: Callable[[], Any]) -> float:
    """The fastest of several evaluations."""
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < 0.3 and len(seconds) < 30):
        begun = time.perf_counter()
        evaluate()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def growth(axis: str) -> None:
    """The table of one axis: milliseconds at each size, the power with which the last step of it grows, and memory."""
    sizes, others = SIZES[axis], []
    print(f"\n| {axis} | {' | '.join(f'{size} ms' for size in sizes)} | power | memory at {sizes[-1]}, MB |")
    print(f"|---|{'---:|' * (len(sizes) + 2)}")
    for kind in kinds():
        try:
            times = [seconds_of(loss_of(kind, {**USUAL, axis: size})) for size in sizes[:-1]]
            largest = loss_of(kind, {**USUAL, axis: sizes[-1]})
        except ValueError:
            others.append(kind.__name__)
            continue
        times.append(seconds_of(largest))
        power = np.log(times[-1] / times[-2]) / np.log(sizes[-1] / sizes[-2])
        cells = " | ".join(f"{1000 * each:.2f}" for each in times)
        print(f"| {kind.__name__} | {cells} | {power:.2f} | {peak(largest, looks=3) / 2**20:.0f} |", flush=True)
        keras.backend.clear_session()
    print(f"\nNot of this pair of networks: {', '.join(others) or 'none'}.")


def main(_: list[str]) -> None:
    for axis in FLAGS.growth:
        growth(axis)
    if not FLAGS.growth:
        costs()
    print(f"\n{machine()}")


if __name__ == "__main__":
    app.run(main)
