"""The flags that several programs share, and the text form `name(argument=value)` of models and methods."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from typing import Any

from absl import flags, logging

from kd_keras.errors import explain_mismatch, suggest

FLAGS = flags.FLAGS


def quiet() -> None:
    """Leaves out what TensorFlow and TFDS log of every file they open, unless --verbosity asks for it."""
    if not FLAGS["verbosity"].present:
        logging.set_verbosity(logging.ERROR)


def define_data() -> None:
    """Flags that say which images."""
    flags.DEFINE_string("dataset", "digits", "A TFDS name, a folder of <split>/<class>/ or of images, or 'digits'.")
    flags.DEFINE_string("data_dir", None, "Where TFDS keeps prepared datasets; TFDS's own place by default.")
    flags.DEFINE_string("train_split", "train", "Split to train on, in TFDS's notation: 'train[:5000]'.")
    flags.DEFINE_list("without_classes", None, "Numbers of classes to leave out of the training images.")
    flags.DEFINE_string("test_dataset", None, "Dataset to test on; --dataset by default.")
    flags.DEFINE_string("test_split", "test", "Split to test on.")
    flags.DEFINE_list("image_size", None, "Height,width to resize to, in pixels; the images' own by default.")
    flags.DEFINE_integer("batch_size", 128, "Images a step, over all devices.", lower_bound=1)


def load_test(record: dict[str, Any]) -> Any:
    """The test images of the flags, or where they name none, of the data that a run recorded."""
    from kd_keras import data

    named = FLAGS["dataset"].present or FLAGS.test_dataset
    name = (FLAGS.test_dataset or FLAGS.dataset) if named else record.get("dataset", FLAGS.dataset)
    return data.load(name, FLAGS.test_split, FLAGS.data_dir)


def define_training() -> None:
    """Flags that say how to train."""
    flags.DEFINE_string("run", None, "Directory of the run; the same command goes on where it stopped.", required=True)
    flags.DEFINE_boolean("overwrite", False, "Delete what stands in --run first.")
    flags.DEFINE_integer("epochs", 30, "Passes over the training images.", lower_bound=1)
    flags.DEFINE_integer("test_every", 1, "Epochs from one test and checkpoint to the next.", lower_bound=1)
    flags.DEFINE_enum("optimizer", "sgd", ["sgd", "adam", "adamw"], "Optimizer; sgd has momentum 0.9.")
    flags.DEFINE_float("learning_rate", 0.05, "Highest learning rate.", lower_bound=0.0)
    flags.DEFINE_enum(
        "schedule", "cosine", ["cosine", "steps", "constant"], "Learning rate; steps: x0.1 at 5/8, 6/8 and 7/8."
    )
    flags.DEFINE_float("warmup_epochs", 0.0, "Epochs of linear warm-up.", lower_bound=0.0)
    flags.DEFINE_float("weight_decay", 0.0, "Decoupled weight decay, as Keras's optimizers apply it.", lower_bound=0.0)
    flags.DEFINE_float("label_smoothing", 0.0, "Share of a label spread over all classes.", lower_bound=0.0)
    define_views()


def define_views() -> None:
    """Flags that say what the views of the training images look like."""
    flags.DEFINE_integer("seed", 0, "Seed of weights, order and augmentation.", lower_bound=0)
    text = "Views of every image: epoch e shows view e mod --views; a new one in every epoch by default."
    flags.DEFINE_integer("views", None, text, lower_bound=1)
    flags.DEFINE_boolean("drop_remainder", False, "Leave out an epoch's smaller last batch; shapes are static (TPU).")
    flags.DEFINE_boolean("normalise", True, "Bring images to mean 0 and deviation 1 by channel; else leave 0..1.")
    flags.DEFINE_integer("crop", 0, "Augmentation: pad by so many pixels and crop.", lower_bound=0)
    flags.DEFINE_boolean("flip", False, "Augmentation: mirror left to right.")
    flags.DEFINE_integer("shift", 0, "Augmentation: move by up to so many pixels.", lower_bound=0)
    flags.DEFINE_boolean("resized_crop", False, "Augmentation: a random part, resized.")
    flags.DEFINE_list("rand_augment", None, "Augmentation: RandAugment's layers,magnitude.")
    flags.DEFINE_float("mixup", 0.0, "Augmentation: mixup's alpha; 0 is off, 1 mixes evenly.", lower_bound=0.0)
    flags.DEFINE_float("cutmix", 0.0, "Augmentation: cutmix's alpha; 0 is off.", lower_bound=0.0)


def define_model(name: str, default: str) -> None:
    """The flag of the network to train."""
    flags.DEFINE_string(name, default, "A model of the zoo, with options: 'mlp(hidden=(32,))', 'applications/VGG16'.")
    flags.DEFINE_string("weights", None, f"A .keras or .weights.h5 file to start --{name} from, whole or in part.")


def parse_call(text: str, nested: Callable[[str], Any] | None = None) -> tuple[str, dict[str, Any]]:
    """Reads `name` or `name(argument=literal, ...)`; nothing in it is ever evaluated.

    Args:
        text: what the user wrote.
        nested: what to make of an argument that is such a call itself; by default that is an error.

    Raises:
        ValueError: where it is anything else.

    >>> parse_call("kd(temperature=4, weight=0.9)")
    ('kd', {'temperature': 4, 'weight': 0.9})
    """
    name, bracket, rest = text.strip().partition("(")

    def value(node: ast.expr) -> Any:
        if nested and isinstance(node, ast.Call):
            return nested(ast.unparse(node))
        try:
            return ast.literal_eval(node)
        except ValueError as error:
            raise SyntaxError("only literals") from error

    try:
        call = ast.parse(f"f({rest}" if bracket else "f()", mode="eval").body
        plain = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args
        if not (plain and all(keyword.arg for keyword in call.keywords) and re.fullmatch(r"[\w./:-]+", name.strip())):
            raise SyntaxError("only name=value")
        return name.strip(), {keyword.arg: value(keyword.value) for keyword in call.keywords}
    except SyntaxError as error:
        needed = "name(argument=value, ...) with literal values"
        remedy = "for instance kd(temperature=4, weight=0.9); text in quotes: logits(form='mse')"
        raise ValueError(explain_mismatch(needed, repr(text), remedy)) from error


def parse_method(text: str, **known: Any) -> Any:
    """The method of a text such as `kd(temperature=4)` or `lskd(host=dkd(beta=2))`.

    Args:
        text: what the user wrote.
        known: arguments that the program knows, such as `examples=`; given to a method that takes them and is not
            told otherwise.

    Raises:
        ValueError: for an unknown method, an unknown argument (with those that there are) or a wrong value.

    >>> parse_method("kd(temperature=2)").temperature
    2.0
    """
    from kd_keras import methods

    name, arguments = parse_call(text, nested=parse_method)
    classes = {each.lower(): getattr(methods, each) for each in methods.__all__}
    classes = {each: kind for each, kind in classes.items() if inspect.isclass(kind) and each not in ("method", "taps")}
    if name not in classes:
        raise ValueError(explain_mismatch("--method= a method", repr(name), suggest(name, classes)))
    accepted = list(inspect.signature(classes[name]).parameters)
    for argument in arguments:
        if argument not in accepted:
            needed = f"arguments of {name}: {', '.join(accepted)}"
            raise ValueError(explain_mismatch(needed, repr(argument), suggest(argument, accepted)))
    return classes[name](**{key: value for key, value in known.items() if key in accepted} | arguments)


def parse_weight(text: str, flag: str) -> Any:
    """A weight of a flag: a number, or numbers by the epoch from which they hold.

    Raises:
        ValueError: where it is neither, or below 0.

    >>> parse_weight("0.1", "hard_weight"), parse_weight("{0: 0, 30: 1}", "hard_weight")
    (0.1, {0: 0, 30: 1})
    """
    try:
        weight = ast.literal_eval(text)
        numbers = weight.values() if isinstance(weight, dict) else [weight]
        if not all(isinstance(each, (int, float)) and each >= 0 for each in numbers):
            raise SyntaxError("only numbers from 0")
        return weight
    except (ValueError, SyntaxError) as error:
        raise ValueError(explain_mismatch(f"--{flag}= a number from 0, or {{epoch: number, ...}}", text)) from error


def integers(name: str, count: int | None = None) -> tuple[int, ...] | None:
    """The value of a list flag as so many whole numbers, any number of them by default, or `None`.

    Raises:
        ValueError: where it is anything else.
    """
    texts = FLAGS[name].value
    if texts is None:
        return None
    if len(texts) != (count or len(texts)) or not all(text.strip().isdigit() for text in texts):
        raise ValueError(explain_mismatch(f"--{name}= {count or ''} whole numbers with commas", ",".join(texts)))
    return tuple(int(text) for text in texts)
