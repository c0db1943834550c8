"""Prints what the tests measure of every method, as Markdown, and the time of a step compared with KD.

    python -m scripts.reproduce.methods_table
    python -m scripts.reproduce.methods_table AT CRD

Value and gradient: the largest relative difference from NumPy in float64, over the cases of the method's test. Edges:
zeros, dead channels, equal rows, values up to 400, a batch of one. Replicas: the largest difference of a variable
after two epochs on two replicas. These come from tests/methods/test_every_method.py, which this program runs.
Milliseconds: resnet8 distilled from resnet20, batches of 64 images of 32 pixels, a step of the method and one of KD
in turn, the difference of the medians.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import keras
import numpy as np

from kd_keras import Distiller, models
from kd_keras.contracts import INDEX, INPUTS
from kd_keras.methods import KD, Method
from kd_keras.runs.parsing import parse_method
from scripts.reproduce.methods_cifar10 import method_classes

ROOT = Path(__file__).parent.parent.parent
TESTS = "tests/methods/test_every_method.py"
MEASURING = "test_value_and_gradient", "test_the_loss_is_finite_in", "test_several_replicas_compute"
STEPS, WARM_UP = 15, 2
RANDOM = np.random.default_rng(0)
IMAGES, LABELS = RANDOM.uniform(0, 255, (64, 32, 32, 3)).astype("float32"), RANDOM.integers(0, 10, 64)

Measurements = dict[str, dict[str, float]]  # by method or by method file: the largest value of every property


def run_tests(kinds: list[type[Method]]) -> Measurements:
    """Runs the tests that measure these methods. Returns what they recorded; a failed test is an infinite `failed`."""
    parameters = {text for kind in kinds for text in (f"[{file_name(kind)}-", f"-{kind.__name__}]")}  # of a test's name
    selection = f"({' or '.join(MEASURING)}) and ({' or '.join(sorted(parameters))})"
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", TESTS, "-k", selection, f"--junitxml={report}"]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if not report.exists():
            raise SystemExit(ran.stdout + ran.stderr)
        return read_report(report)


def file_name(kind: type[Method]) -> str:
    """The name of the file that defines a method, such as `kd`."""
    return kind.__module__.rsplit(".", 1)[-1]


def read_report(report: Path) -> Measurements:
    """What the tests recorded, by the first word of a test's parameters: a method's file, or its class."""
    measurements: Measurements = defaultdict(dict)
    for case in ElementTree.parse(report).iter("testcase"):
        words = case.get("name", "").partition("[")[2].rstrip("]").split("-")
        name = next((word for word in words if not word.isdigit()), "")
        row = measurements[name]
        for item in case.iter("property"):
            key, value = item.get("name", ""), float(item.get("value", "nan"))
            row[key] = max(row.get(key, 0.0), value)
        if case.find("failure") is not None or case.find("error") is not None:
            row["failed"] = float("inf")
    return measurements


def make_distiller(method: Method, student: keras.Model, teacher: keras.Model) -> Distiller:
    teachers = teacher if method.taps.teacher else None
    student = method.student_from(student, teacher)
    distiller = Distiller(student=student, teacher=teachers, methods=[method], hard_weight=1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(optimizer=keras.optimizers.SGD(1e-4, momentum=0.9), loss=loss, jit_compile=False)
    return distiller


def measure_step(kind: type[Method]) -> str:
    """The difference of the medians from KD's in ms, the quartile distance of the method's, and KD's median."""
    teacher = models.build("resnet20", (32, 32, 3), 10)
    try:
        distiller = make_distiller(
            parse_method(kind.__name__.lower(), examples=None), models.build("resnet8", (32, 32, 3), 10), teacher
        )
    except ValueError:  # self-distillation needs exits
        distiller = make_distiller(
            parse_method(kind.__name__.lower(), examples=None),
            models.build("multi_exit/resnet8", (32, 32, 3), 10),
            teacher,
        )
    reference = make_distiller(KD(), models.build("resnet8", (32, 32, 3), 10), teacher)
    inputs = {INPUTS: IMAGES, INDEX: np.arange(64)} if distiller.methods[0].needs_index else IMAGES
    seconds: dict[str, list[float]] = {"method": [], "kd": []}
    for _ in range(STEPS + WARM_UP):
        for name, contestant, images in (("method", distiller, inputs), ("kd", reference, IMAGES)):
            begun = time.perf_counter()
            contestant.train_on_batch(images, LABELS)
            seconds[name].append(1000 * (time.perf_counter() - begun))
    median, kd = (statistics.median(seconds[name][WARM_UP:]) for name in ("method", "kd"))
    low, _, high = statistics.quantiles(seconds["method"][WARM_UP:], n=4)
    return f"{median - kd:+.0f} ({high - low:.0f}) of {kd:.0f}"


def main(names: list[str]) -> None:
    kinds = [kind for kind in method_classes() if not names or kind.__name__ in names]
    measurements = run_tests(kinds)
    print("| method | value | gradient | edges | two replicas | ms minus KD's (quartile distance) of KD's |")
    print("|---|---:|---:|---|---:|---:|")
    for kind in kinds:
        keras.utils.set_random_seed(1)
        try:
            milliseconds = measure_step(kind)
        except ValueError as error:
            milliseconds = "does not fit this pair: " + str(error).partition("\n")[0]
        of_file, of_class = measurements[file_name(kind)], measurements[kind.__name__]
        numbers = [f"{of_file.get(key, float('nan')):.0e}" for key in ("value_error", "gradient_error")]
        edges = "FAILED" if "failed" in of_file else "finite"
        cells = [kind.__name__, *numbers, edges, f"{of_class.get('weight_difference', float('nan')):.0e}", milliseconds]
        print("| " + " | ".join(cells) + " |", flush=True)
        keras.utils.clear_session()


if __name__ == "__main__":
    main(sys.argv[1:])
