"""Prints what the harness measures of every method, as Markdown, and the time that a step takes beyond one of KD.

    python -m scripts.reproduce.methods_table
    python -m scripts.reproduce.methods_table AT CRD

Value and gradient: the largest relative difference from NumPy in float64, over the cases of the method's test. Edges:
zeros, dead channels, equal rows, values to 400, a batch of one. Replicas: the largest difference of a variable after
two epochs on two replicas. Milliseconds: resnet8 taught by resnet20, batches of 64 images of 32 pixels, a step of the
method and one of KD in turn, the difference of the medians.
"""

import statistics
import sys
import time

import keras
import numpy as np

from experiments.methods import kinds
from kd_keras import Distiller, models
from kd_keras.contracts import INDEX, INPUTS
from kd_keras.methods import KD
from tests.conftest import tf
from tests.support import harness

STEPS = 15
RANDOM = np.random.default_rng(0)
IMAGES, LABELS = RANDOM.normal(size=(64, 32, 32, 3)).astype("float32"), RANDOM.integers(0, 10, 64)


def compared(kind: type) -> list[str]:
    """Value error, gradient error and edges of a method, from its file's cases."""
    cases = [case for name, case in harness.cases() if kind in harness.classes(name)]
    finite = all(
        np.isfinite(found).all()
        for case in cases
        for student, others in case.edges().values()
        for found in (case.loss(student, *others), *case.gradients(student, others))
    )
    value, gradient = (max(getattr(case, f"{of}_error")() for case in cases) for of in ("value", "gradient"))
    return [f"{value:.0e}", f"{gradient:.0e}", "finite" if finite else "NOT FINITE"]


def taught(method: object, student: keras.Model, teacher: keras.Model) -> Distiller:
    distiller = Distiller(student=method.student_from(student, teacher), teacher=teacher, methods=[method])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(optimizer=keras.optimizers.SGD(1e-4, momentum=0.9), loss=loss, jit_compile=False)
    return distiller


def milliseconds(kind: type) -> str:
    """The time of a step beyond KD's, the median over steps taken in turn, and the quartiles of the method's."""
    teacher = models.build("resnet20", (32, 32, 3), 10)
    try:
        made = taught(harness.method(kind), models.build("resnet8", (32, 32, 3), 10), teacher)
    except ValueError:
        made = taught(harness.method(kind), models.build("multi_exit/resnet8", (32, 32, 3), 10), teacher)
    plain = taught(KD(), models.build("resnet8", (32, 32, 3), 10), teacher)
    x = {INPUTS: IMAGES, INDEX: np.arange(64) % 32} if made.methods[0].needs_index else IMAGES
    seconds = {"own": [], "plain": []}
    for _ in range(STEPS + 2):
        for name, distiller, images in (("own", made, x), ("plain", plain, IMAGES)):
            begun = time.perf_counter()
            distiller.train_on_batch(images, LABELS)
            seconds[name].append(1000 * (time.perf_counter() - begun))
    ours, theirs = (sorted(seconds[name][2:]) for name in ("own", "plain"))
    low, _, high = statistics.quantiles(ours, n=4)
    own, kd = statistics.median(ours), statistics.median(theirs)
    return f"{own - kd:+.0f} ({high - low:.0f}) of {kd:.0f}"


def main(names: list[str]) -> None:
    tf.get_logger().setLevel("ERROR")
    print("| method | value | gradient | edges | two replicas | ms over KD (quartiles' distance) of KD's |")
    print("|---|---:|---:|---|---:|---:|")
    for kind in kinds():
        if names and kind.__name__ not in names:
            continue
        keras.utils.set_random_seed(1)
        try:
            time_over = milliseconds(kind)
        except ValueError as error:
            time_over = "not for this pair: " + str(error).partition("\n")[0]
        cells = [kind.__name__, *compared(kind), f"{harness.replicas_difference(kind, 2)[0]:.0e}", time_over]
        print("| " + " | ".join(cells) + " |", flush=True)
        keras.utils.clear_session()


if __name__ == "__main__":
    main(sys.argv[1:])
