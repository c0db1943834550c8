"""The values that a recipe may have: the choices, the least numbers, and what texts and sequences stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kd_keras import distribute
from kd_keras.data import SHARDING, Augmentation
from kd_keras.errors import check_choice, check_number, check_whole_number
from kd_keras.tasks import NAMES as TASKS

OPTIMIZERS = ("sgd", "adam", "adamw", "lars", "dot")
# Trained weights are lost at the rates that train new ones.
FINE_TUNING_RATES = {"sgd": 0.005, "adam": 1e-4, "adamw": 1e-4, "dot": 0.005}
DOT_DELTA = 0.075  # the published one
SCHEDULES = ("cosine", "steps", "constant")
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
JIT = ("auto", "on", "off")
NONFINITE = ("stop", "skip")
# The fields by kind: for numbers the lowest allowed value, for tuples their length.
WHOLE_NUMBERS = {
    "batch_size": 1, "epochs": 1, "test_every": 1, "seed": 0, "views": 1, "crop": 0, "shift": 0, "devices": 1,
    "base_batch_size": 1, "steps_per_execution": 1, "checkpoint_every": 0, "keep": 2,
    "image_channels": 1, "image_bits": 8, "images_per_identity": 2,
}  # fmt: skip
READING = ("class_names", "image_channels", "image_bits", "ignored", "download_timeout")
OPTIONAL = ("task", "views", "devices", "image_channels", "image_bits", "images_per_identity")
NUMBERS = {
    "learning_rate": 0, "dot_delta": 0, "first_layer_rate": 0, "warmup_epochs": 0, "weight_decay": 0,
    "coupled_weight_decay": 0, "clip_norm": 0, "label_smoothing": 0, "mixup": 0, "cutmix": 0, "mosaic": 0,
    "worker_timeout": 1, "download_timeout": 1,
}  # fmt: skip
TRUE, FALSE = ("true", "t", "1"), ("false", "f", "0")  # as absl takes them
SWITCHES = ("drop_remainder", "flip", "resized_crop", "deterministic", "sync_batch_norm", "freeze_backbone")
TUPLES = {"without_classes": None, "decay_epochs": None, "image_size": 2, "rand_augment": 2, "ignored": None}
EMPTY = ("without_classes", "ignored")  # fields for which an empty list means None
CHOICES: dict[str, Sequence[str]] = {
    "task": TASKS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "strategy": distribute.NAMES,
    "sharding": SHARDING,
    "scale_learning_rate": tuple(distribute.RULES),
    "jit": JIT,
    "precision": PRECISIONS,
    "on_nonfinite": NONFINITE,
}


def check_value(name: str, value: Any) -> None:
    """Checks a value by itself.

    Raises:
        TypeError: if it is of the wrong type.
        ValueError: if it is out of range.
    """
    if value is None and name in OPTIONAL:
        return
    if name in WHOLE_NUMBERS:
        check_whole_number("Recipe", name, value, least=WHOLE_NUMBERS[name])
    if name in NUMBERS:
        check_number("Recipe", name, value, least=NUMBERS[name], below=1 if name == "label_smoothing" else None)
    if name in SWITCHES and not isinstance(value, bool):
        raise TypeError(f"Recipe({name}=...) must be True or False, but received {value!r}.")
    if name in CHOICES:
        check_choice("Recipe", name, value, CHOICES[name])


def parse_whole_numbers(name: str, value: Any, count: int | None) -> tuple[int, ...] | None:
    """A tuple of whole numbers from a sequence of them or of their texts."""
    if value is None:
        return None
    items = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    texts = [str(item).strip() for item in items]
    if name in EMPTY and texts in ([], [""]):  # as a run records no numbers
        return None
    if len(texts) != (count or len(texts)) or not all(text.isdigit() for text in texts):
        raise ValueError(f"{name} must be {count or 'a list of'} whole numbers, but received {','.join(texts)}.")
    return tuple(int(text) for text in texts)


def parse_factors(value: Any) -> tuple[float, float] | None:
    """The two factors of a scale, from numbers or their texts."""
    if value is None:
        return None
    try:
        smallest, largest = (float(factor) for factor in value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"scale must be two numbers, such as (0.5, 2.0), but received {value!r}.") from error
    Augmentation(scale=(smallest, largest))
    return smallest, largest


def parse_names(value: Any) -> tuple[str, ...] | None:
    """The names of classes as a tuple of texts that a flag can hold."""
    if value is None:
        return None
    names = (value,) if isinstance(value, str) else tuple(value)
    if not names or not all(isinstance(name, str) and name.strip() and "," not in name for name in names):
        raise ValueError(f"class_names must be names without commas, one for each class, but received {value!r}.")
    return tuple(name.strip() for name in names)


def from_text(name: str, text: Any) -> Any:
    """The value of a field from the text of its flag."""
    if name in SWITCHES:
        if str(text).lower() not in (*TRUE, *FALSE):
            raise ValueError(f"--{name} must be true or false, but received {text!r}.")
        return str(text).lower() in TRUE
    if name in (*TUPLES, "scale", "class_names"):
        return text.split(",")
    if name in WHOLE_NUMBERS:
        return int(text)
    return float(text) if name in NUMBERS else text
