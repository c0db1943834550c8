"""Gives programs and functions what they cannot use, and prints what a person sees: the first line and the exit code.

    python -m scripts.bad_inputs > experiments/results/bad_inputs.md
    python -m scripts.bad_inputs --only=python

Every input must be refused within the time limit, in a message without a traceback, or be named in a warning. The
program exits with 1 if one is accepted in silence, takes too long or ends in a traceback. Each program is a process of
its own, as in a shell; the datasets are the built-in digits and folders that are made here.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from keras import layers
from PIL import Image

import kd_keras as kd
from kd_keras import methods
from kd_keras.export import litert, onnx, saved_model
from kd_keras.networks.loading import load_weights

FLAGS = flags.FLAGS
flags.DEFINE_enum("only", None, ["python", "programs"], "Try only the inputs of one kind; both by default.")
flags.DEFINE_integer("limit", 120, "Seconds after which an input counts as hanging.", lower_bound=1)
PACKAGE = str(Path(kd.__file__).parent)
WIDEST = 160  # characters of a message in the table
RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(64, 8, 8, 3)).astype("float32"), np.arange(64) % 4
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Seen(NamedTuple):
    """What a person sees.

    Attributes:
        text: the first line of the message; empty if there is none.
        outcome: the exit code of a program, the name of an error, "warning", or "accepted".
        ok: whether the input was refused or named in a warning, without a traceback.
    """

    text: str
    outcome: str
    ok: bool


# ---- networks and distillers


def network(classes: int = 4, shape: tuple = (8, 8, 3), name: str | None = None) -> keras.Model:
    """A small convolutional network."""
    image = keras.Input(shape)
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(x)
    return keras.Model(image, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)), name=name)


def distiller(method: methods.Method | None = None, compiled: bool = True, **options: object) -> kd.Distiller:
    """A compiled Distiller of two small networks."""
    arguments = {"student": network(), "teacher": network(), "methods": [method or methods.KD()]} | options
    model = kd.Distiller(**arguments)
    if compiled:
        model.compile(keras.optimizers.SGD(0.01), CROSS_ENTROPY, metrics=["accuracy"])
    return model


def fit(x: object = X, y: object = Y, method: methods.Method | None = None, **options: object) -> object:
    """Trains one epoch without output."""
    return distiller(method).fit(x, y, **{"verbose": 0, "batch_size": 16} | options)


def with_optimizer(rate: float) -> object:
    """Trains at a rate so high that the loss explodes."""
    model = distiller()
    model.compile(keras.optimizers.SGD(rate), CROSS_ENTROPY)
    return model.fit(X, Y, epochs=3, verbose=0)


def changed(array: np.ndarray, index: tuple | int, value: float) -> np.ndarray:
    """A float copy with one other value."""
    copy = array.astype("float32")
    copy[index] = value
    return copy


def shared_stem() -> object:
    """A student that is cut out of the layers of its teacher."""
    teacher = network()
    return kd.Distiller(student=keras.Model(teacher.input, teacher.output), teacher=teacher, methods=[methods.KD()])


def probabilities() -> object:
    """A teacher whose softmax cannot be seen."""
    hidden = layers.Lambda(lambda z: keras.ops.softmax(z))
    image = keras.Input((8, 8, 3))
    teacher = keras.Model(image, hidden(network()(image)))
    return distiller(teacher=teacher).fit(X, Y, verbose=0)


def python_inputs(directory: Path) -> dict[str, Callable[[], object]]:
    """The functions, each with an input that it must refuse or warn of."""
    keras_file, torn = directory / "network.keras", directory / "torn.keras"
    network().save(keras_file)
    torn.write_bytes(keras_file.read_bytes()[:700])
    endless = tf.data.Dataset.from_tensors((X[:8], Y[:8])).repeat()
    teacher = network()
    export = {"image_shape": (8, 8, 3), "sample": np.zeros((2, 8, 8, 3), "uint8")}
    return {
        "Distiller(student=path)": lambda: distiller(student=str(keras_file)),
        "Distiller(teacher=path)": lambda: distiller(teacher=str(keras_file)),
        "Distiller(student=None)": lambda: distiller(student=None),
        "Distiller(methods=KD())": lambda: distiller(methods=methods.KD()),
        "Distiller(methods=[KD])": lambda: distiller(methods=[methods.KD]),
        "Distiller(methods=['kd'])": lambda: distiller(methods=["kd"]),
        "the same method twice": lambda: distiller(methods=[m := methods.KD(), m]),
        "a method without a teacher": lambda: distiller(teacher=None),
        "the teacher as its own student": lambda: kd.Distiller(student=teacher, teacher=teacher, methods=[]),
        "a student of the teacher's layers": shared_stem,
        "a teacher of other classes": lambda: distiller(teacher=network(5)),
        "a teacher of gray images": lambda: distiller(teacher=network(4, (8, 8, 1))),
        "a teacher that is a function": lambda: distiller(teacher=lambda x: x),
        "no teacher in the list": lambda: distiller(teacher=[]),
        "class_order of repeated classes": lambda: kd.Teacher(network(), class_order=[0, 0, 1, 2]),
        "class_order beyond the classes": lambda: distiller(teacher=kd.Teacher(network(), class_order=[0, 1, 2, 9])),
        "negative weight of a teacher": lambda: kd.Teacher([network(), network()], weights=[1, -1]),
        "a teacher with a hidden softmax": probabilities,
        "KD(temperature=0)": lambda: methods.KD(temperature=0),
        "KD(temperature='hot')": lambda: methods.KD(temperature="hot"),
        "KD(temperature=nan)": lambda: methods.KD(temperature=float("nan")),
        "KD(weight=-1)": lambda: methods.KD(weight=-1),
        "KD(temprature=4)": lambda: methods.KD(temprature=4),
        "hard_weight=-1": lambda: distiller(hard_weight=-1),
        "hard_weight='much'": lambda: distiller(hard_weight="much"),
        "FitNet of a stage that is not there": lambda: distiller(methods.FitNet(student_tap="stages[7]")),
        "AT of logits": lambda: distiller(methods.AT(student_tap="logits", teacher_tap="logits")),
        "a tap with a typing error": lambda: distiller(methods.FitNet(student_tap="stagse[0]")),
        "MLKD of logits at many positions": lambda: dense(methods.MLKD()),
        "fit without compile": lambda: distiller(compiled=False).fit(X, Y, verbose=0),
        "labels that are fractions": lambda: fit(y=Y + 0.5),
        "labels that are NaN": lambda: fit(y=changed(Y, 3, np.nan)),
        "a label beyond the classes": lambda: fit(y=changed(Y, 3, 4).astype(int)),
        "a negative label": lambda: fit(y=changed(Y, 3, -7).astype(int)),
        "one-hot labels for a sparse loss": lambda: fit(y=np.eye(4)[Y]),
        "no labels for a hard loss": lambda: distiller().fit(X, verbose=0),
        "fewer labels than images": lambda: fit(y=Y[:10]),
        "negative sample weights": lambda: fit(sample_weight=changed(np.ones(64), 3, -1)),
        "an image with NaN": lambda: fit(changed(X, (3, 0, 0, 0), np.nan)),
        "images of another size": lambda: fit(np.zeros((64, 9, 9, 3), "float32")),
        "images of other channels": lambda: fit(X[..., :1]),
        "no images": lambda: fit(X[:0], Y[:0]),
        "a dictionary without the inputs": lambda: fit({"picture": X, "size": Y}),
        "an endless dataset": lambda: distiller().fit(endless, verbose=0),
        "a list of paths as images": lambda: fit(np.array(["a.png"] * 64)),
        "a batch of one for RKD": lambda: fit(method=methods.RKD(), batch_size=1),
        "a number of CRD beyond its memory": lambda: crd(),
        "validation without labels or methods": lambda: distiller(hard_weight=1, methods=[]).fit(
            X, Y, validation_data=X, verbose=0
        ),
        "a learning rate of 1e30": lambda: with_optimizer(1e30),
        "attach a teacher of other shapes": lambda: distiller().attach(network(5)),
        "models.build('resnet21')": lambda: kd.models.build("resnet21", (32, 32, 3), 10),
        "models.build of 0 classes": lambda: kd.models.build("resnet8", (32, 32, 3), 0),
        "weights of another network": lambda: load_weights(kd.models.build("resnet8", (32, 32, 3), 10), keras_file),
        "weights that are torn": lambda: load_weights(network(), torn),
        "weights that are not there": lambda: load_weights(network(), directory / "nowhere.weights.h5"),
        "data.load('digit')": lambda: kd.data.load("digit", "train", data_dir=str(directory)),
        "data.load of a split that is not there": lambda: kd.data.load("digits", "trian", data_dir=str(directory)),
        "a batch size of 0": lambda: kd.data.training(digits(directory), batch_size=0),
        "a crop that is negative": lambda: kd.data.Augmentation(crop=-1),
        "train on an array": lambda: kd.train(data=X, model="resnet8", run=directory / "array"),
        "train for 0 epochs": lambda: kd.train(data="digits", model="mlp", epochs=0, run=directory / "none"),
        "train with an unknown option": lambda: kd.train(data="digits", model="mlp", epoch=3, run=directory / "none"),
        "distill without a teacher": lambda: kd.distill(student="mlp", methods=[methods.KD()], run=directory / "none"),
        "evaluate no model": lambda: kd.evaluate([], teacher=None),
        "compare one run that is not there": lambda: kd.compare([directory / "nowhere"]),
        "export to an unknown format": lambda: kd.export(network(), formats=["coreml"], output=directory / "out"),
        "an export of images of another size": lambda: saved_model(
            network(), directory / "saved", **export | {"sample": np.zeros((2, 9, 9, 3), "uint8")}
        ),
        "an export of float images": lambda: litert(network(), directory / "a.tflite", **export | {"sample": X[:2]}),
        "an int8 export without images": lambda: litert(network(), directory / "a.tflite", precision="int8", **export),
        "an ONNX file of another suffix": lambda: onnx(network(), directory / "a.tflite", **export),
    }


def dense(method: methods.Method) -> object:
    """Logits at many positions for a method that has no meaning there."""
    image = keras.Input((8, 8, 3))
    student, teacher = (keras.Model(image, layers.Conv2D(4, 1)(image)) for _ in range(2))
    labels = np.zeros((64, 8, 8), int)
    return distiller(method, student=student, teacher=teacher).fit(X, labels, verbose=0)


def crd() -> object:
    """CRD whose memory is smaller than a number of the images."""
    inputs = {"kd_inputs": X, "kd_index": np.arange(64) + 50}
    return distiller(methods.CRD(examples=64, negatives=8)).fit(inputs, Y, verbose=0)


def digits(directory: Path) -> object:
    """The built-in digits."""
    return kd.data.load("digits", "train", data_dir=str(directory))


# ---- programs


def program_inputs(directory: Path) -> dict[str, tuple[str, list[str]]]:
    """The programs, each with flags that it must refuse; the files that they name are made here."""
    data = ["--data=digits", f"--data_dir={directory}", "--train_split=train[:64]", "--test_split=test[:64]"]
    small = [*data, "--epochs=1", "--batch_size=32"]
    mlp, run = "mlp(hidden=(8,))", directory / "teacher"
    run_program("train", [*small, f"--model={mlp}", f"--run={run}"]).check_returncode()
    torn, torn_result, mine = directory / "torn_model.keras", directory / "torn_result", directory / "mine"
    torn.write_bytes((run / "model.keras").read_bytes()[:700])
    shutil.copytree(run, torn_result)
    (torn_result / "result.json").write_text('{"accuracy": 0.')
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    (directory / "words.flags").write_text("--epochs=3\nword\n")
    folders = make_folders(directory)
    train, distill = (
        ["--model=" + mlp, f"--run={directory / 'new'}"],
        ["--student=" + mlp, f"--run={directory / 'new'}"],
    )
    taught = [*small, f"--teacher={run}", *distill]
    return {
        "an unknown dataset": ("train", ["--data=cifar101", f"--data_dir={directory}", *train]),
        "an unknown model": ("train", [*small, "--model=mlq", f"--run={directory / 'new'}"]),
        "code in a model": ("train", [*small, "--model=mlp(hidden=open('x'))", f"--run={directory / 'new'}"]),
        "a bracket that is not closed": ("train", [*small, "--model=mlp(", f"--run={directory / 'new'}"]),
        "an unknown flag": ("train", [*small, *train, "--learning_rat=0.1"]),
        "a stray word": ("train", [*small, *train, "word"]),
        "a value after a boolean flag": ("train", [*small, *train, "--flip", "true"]),
        "a word in a flagfile": ("train", [*train, f"--flagfile={directory / 'words.flags'}"]),
        "a flagfile that is not there": ("train", [*train, "--flagfile=nowhere.flags"]),
        "no --run": ("train", [*small, "--model=" + mlp]),
        "0 epochs": ("train", [*small, *train, "--epochs=0"]),
        "a negative rate": ("train", [*small, *train, "--learning_rate=-1"]),
        "a rate that is no number": ("train", [*small, *train, "--learning_rate=fast"]),
        "a split that is not there": ("train", [*small, *train, "--train_split=trian"]),
        "a split without images": ("train", [*small, *train, "--train_split=train[:0]"]),
        "an image size of one number": ("train", [*small, *train, "--image_size=8"]),
        "classes that are not there": ("train", [*small, *train, "--without_classes=77"]),
        "a schedule with options of another": ("train", [*small, *train, "--warmup_epochs=1", "--schedule=steps"]),
        "a directory of something else": ("train", [*small, "--model=" + mlp, f"--run={mine}", "--overwrite"]),
        "another recipe in a run's directory": ("train", [*small, "--model=mlp(hidden=(9,))", f"--run={run}"]),
        "weights that are not there": ("train", [*small, *train, "--weights=nowhere.weights.h5"]),
        "weights that are torn": ("train", [*small, *train, f"--weights={torn}"]),
        "a loss that explodes": ("train", [*small, *train, "--learning_rate=1e30", "--epochs=8"]),
        "an empty folder": ("train", [f"--data={folders['empty']}", *train]),
        "a folder that is not there": ("train", [f"--data={directory}/nowhere", *train]),
        "an empty class folder": ("train", [f"--data={folders['hole']}", *train]),
        "a folder of text files": ("train", [f"--data={folders['texts']}", *train]),
        "a truncated image": ("train", [f"--data={folders['torn']}", *train, "--epochs=1"]),
        "images of several sizes": ("train", [f"--data={folders['sizes']}", *train, "--epochs=1"]),
        "12 bits in PNG files of 16": ("train", [f"--data={folders['deep']}", *train, "--epochs=1"]),
        "classes of other names in test": ("train", [f"--data={folders['other']}", *train]),
        "no teacher": ("distill", [*small, *distill]),
        "a teacher that is not there": ("distill", [*small, "--teacher=nowhere", *distill]),
        "a torn teacher": ("distill", [*small, f"--teacher={torn}", *distill]),
        "a teacher that is text": ("distill", [*small, f"--teacher={mine / 'thesis.txt'}", *distill]),
        "an unknown method": ("distill", [*taught, "--method=kdd"]),
        "an unknown argument of a method": ("distill", [*taught, "--method=kd(temprature=3)"]),
        "a temperature of 0": ("distill", [*taught, "--method=kd(temperature=0)"]),
        "a negative weight": ("distill", [*taught, "--method=kd(weight=-1)"]),
        "a method file that is not there": ("distill", [*taught, "--method=mine.py:Cosine()"]),
        "a tap that is not there": ("distill", [*taught, "--method=fitnet(student_tap='stages[9]')"]),
        "a recording that is not there": ("distill", [*small, "--recording=nowhere", *distill]),
        "a hard weight that is no number": ("distill", [*taught, "--hard_weight=much"]),
        "a teacher of other images": ("distill", [f"--data={folders['whole']}", f"--teacher={run}", *distill]),
        "a model that is not there": ("evaluate", [*data, f"--teacher={run}", "--model=nowhere"]),
        "a run with a torn result": ("compare", [f"--runs={torn_result}"]),
        "runs that are not there": ("compare", ["--runs=nowhere"]),
        "a sweep without recipes": ("compare", [f"--sweep={directory / 'sweep'}", f"--pair={run}:{mlp}"]),
        "an unknown format": ("export", [f"--model={run}", "--formats=coreml", f"--output={directory / 'out'}"]),
        "an export of nothing": ("export", ["--model=nowhere", f"--output={directory / 'out'}"]),
        "a record of no teacher": ("record", [*data, "--teacher=nowhere", f"--output={directory / 'rec'}"]),
        "methods of an unknown pair": ("methods", ["--teacher=resnet21", "--student=resnet8"]),
    }


def make_folders(directory: Path) -> dict[str, Path]:
    """Folders of images, each with something that cannot be used."""
    names = ("empty", "hole", "texts", "torn", "sizes", "deep", "other", "whole")
    folders = {name: directory / f"folder_{name}" for name in names}
    for name, folder in folders.items():
        for split in ("train", "test"):
            for number, label in enumerate(("cat", "dog")):
                kind = folder / split / ("fox" if name == "other" and split == "test" and number else label)
                kind.mkdir(parents=True)
                for image in range(0 if name == "empty" or (name == "hole" and number) else 4):
                    save_image(kind / f"{image}.png", name, image)
    return folders


def save_image(path: Path, kind: str, number: int) -> None:
    """One image of a folder."""
    size = 8 + number if kind == "sizes" else 8
    if kind == "texts":
        path.with_suffix(".txt").write_text("no image")
    elif kind == "deep":
        Image.fromarray(RANDOM.integers(0, 4096, (size, size)).astype("uint16")).save(path)
    else:
        Image.fromarray(RANDOM.integers(0, 256, (size, size, 3)).astype("uint8")).save(path)
        if kind == "torn" and number == 2:
            path.write_bytes(path.read_bytes()[:60])


# ---- what is seen


def see_python(call: Callable[[], object]) -> Seen:
    """Runs a function."""
    with warnings.catch_warnings(record=True) as caught, logged() as lines:
        warnings.simplefilter("always", UserWarning)
        try:
            call()
        except TimeoutError as error:
            return Seen(str(error), "hangs", False)
        except Exception as error:
            is_ours = any(frame.filename.startswith(PACKAGE) for frame in traceback.extract_tb(error.__traceback__))
            return Seen(first_line(str(error)), type(error).__name__, is_ours)
    texts = [str(warning.message) for warning in caught if warning.filename.startswith(PACKAGE)] + lines
    return Seen(first_line(texts[0]), "warning", True) if texts else Seen("", "accepted", False)


def run_program(name: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a program of experiments/ in a process of its own."""
    command = [sys.executable, "-m", f"experiments.{name}", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def see_program(directory: Path, name: str, arguments: list[str]) -> Seen:
    """Runs a program; a run that an earlier one has left is no longer in its way."""
    shutil.rmtree(directory / "new", ignore_errors=True)
    try:
        ran = run_program(name, arguments)
    except TimeoutError as error:  # subprocess.run has ended the process
        return Seen(str(error), "hangs", False)
    errors = [line for line in ran.stderr.splitlines() if line.startswith("Error: ")]
    warned = [line.split("UserWarning: ")[1] for line in ran.stderr.splitlines() if "UserWarning: " in line]
    if ran.returncode == 0:
        return Seen(first_line(warned[0]), "0, warning", True) if warned else Seen("", "0, accepted", False)
    is_plain = ran.returncode in (1, 2) and bool(errors) and "Traceback" not in ran.stderr
    return Seen(first_line((errors or ran.stderr.splitlines() or [""])[0]), str(ran.returncode), is_plain)


@contextlib.contextmanager
def logged() -> Iterator[list[str]]:
    """The warnings that the package logs."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("kd_keras").addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger("kd_keras").removeHandler(handler)


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raises a TimeoutError if the block takes longer."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"not finished after {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def first_line(text: str) -> str:
    """The beginning of a message, without colors, as a cell of a table."""
    line = re.sub(r"\x1b\[[0-9;]*m", "", text).strip().split("\n")[0].replace("|", "\\|")
    line = re.sub(r"/tmp/\w+", "PLACE", line)
    return line if len(line) <= WIDEST else f"{line[:WIDEST]} ..."


def show(rows: dict[str, Callable[[], Seen]], header: str, limit: int) -> list[str]:
    """Prints a table, and returns the inputs that were not refused."""
    print(f"\n{header}\n| input | first line | result | seconds |\n| --- | --- | --- | ---: |", flush=True)
    wrong = []
    for name, look in rows.items():
        begin = time.perf_counter()
        with time_limit(limit):
            seen = look()
        keras.utils.clear_session(free_memory=False)
        wrong += [] if seen.ok else [name]
        mark = "" if seen.ok else " **not refused**"
        print(f"| {name} | {seen.text} | {seen.outcome}{mark} | {time.perf_counter() - begin:.1f} |", flush=True)
    return wrong


def main(_: list[str]) -> None:
    counts, wrong = [], []
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        print("# Inputs that are refused\n\nWritten by `python -m scripts.bad_inputs`: what a person sees first.")
        if FLAGS.only != "programs":
            calls = python_inputs(directory)
            rows = {name: lambda call=call: see_python(call) for name, call in calls.items()}
            wrong += show(rows, "## From Python\n", FLAGS.limit)
            counts.append(len(rows))
        if FLAGS.only != "python":
            commands = program_inputs(directory)
            rows = {name: lambda given=given: see_program(directory, *given) for name, given in commands.items()}
            wrong += show(rows, "## From the shell\n", FLAGS.limit)
            counts.append(len(rows))
    print(f"\n{sum(counts)} inputs, {len(wrong)} not refused{''.join(f'; {name}' for name in wrong)}.")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    app.run(main)
