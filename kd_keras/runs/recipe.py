"""The settings of a training apart from its networks: one frozen dataclass, checked at construction."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import tensorflow as tf

from kd_keras import distribute
from kd_keras.data import SHARDING, Augmentation, Source
from kd_keras.errors import check_choice, check_number, check_whole_number, suggest
from kd_keras.runs.parsing import parse_normalization
from kd_keras.runs.settings import GivenObject
from kd_keras.tasks import NAMES as TASKS

Data: TypeAlias = str | os.PathLike | Source | tf.data.Dataset
OPTIMIZERS = ("sgd", "adam", "adamw", "lars", "dot")
# Trained weights are lost at the rates that train new ones.
FINE_TUNING_RATES = {"sgd": 0.005, "adam": 1e-4, "adamw": 1e-4, "dot": 0.005}
SCHEDULES = ("cosine", "steps", "constant")
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
JIT = ("auto", "on", "off")
NONFINITE = ("stop", "skip")
# Not recorded with a run, because they change no result.
NOT_RECORDED = ("worker_timeout", "download_timeout")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train. Every field is also a flag of `experiments.train` and `experiments.distill`.

    Args:
        data: training images: a TFDS name, a folder of `<split>/<class>/` or of images, "digits", a `Source`, or a
            `tf.data.Dataset` of (image or images in 0..255, label or labels), which `kd_keras.runs.images` describes.
        data_dir: where TFDS keeps prepared datasets; its usual place by default.
        task: what the labels are, a name of `tasks.NAMES`; by default what the dataset has.
        train_split: split to train on, such as "train[:5000]"; unused for a `Source` or a `Dataset`.
        without_classes: numbers of classes to leave out of the training images.
        test_data: images to test on; by default `data`, if that is a name.
        test_split: split to test on.
        image_size: (height, width) to resize to, in pixels; by default the size of the images.
        image_channels: 1 to read gray images, 3 for colors; by default what the dataset has.
        image_bits: of a folder of images with 16 bits per channel, the number of low bits that their values use.
        class_names: of masks whose dataset does not name their classes, the names in the order of the values 0, 1, ...
        ignored: values of the pixels of masks that belong to no class, such as (255,).
        download_timeout: seconds without progress after which the download of a dataset is given up.
        normalization: the first layer of a model of the zoo: "fit" (mean 0 and standard deviation 1 of each channel
            over the training images), "unit" (to 0..1), "symmetric" (to -1..1), or ((mean, ...), (standard deviation,
            ...)) in pixel units.
        batch_size: images per step, over all devices.
        drop_remainder: leave out the smaller last batch of an epoch; shapes are then static.
        images_per_identity: the number of images of each person in a batch, such as 4 for the method EKD; by default
            they come in any order. Images must fit into memory, and have one class each.
        epochs: passes over the training images.
        test_every: number of epochs between tests, each with a checkpoint.
        optimizer: "sgd", "adam", "adamw", "lars" for large batches, as `training.LARS`, or for `distill` "dot", as
            `training.DOT`; "sgd", "lars" and "dot" have momentum 0.9.
        dot_delta: of "dot", how much the momentum of the distillation is above and that of the hard loss below 0.9.
        learning_rate: the highest learning rate. `train` and `distill` start from trained weights with the lower rate
            of `FINE_TUNING_RATES`, unless they receive one.
        first_layer_rate: for networks with trained weights, the ratio of the first layer's learning rate to the
            classifier's; the rates of the layers in between are spaced geometrically. A decay of d per block over n
            blocks corresponds to d ** n.
        freeze_backbone: train only the classifier of a network with trained weights.
        schedule: of the learning rate: "cosine", "steps" (divided by 10 at 5/8, 6/8 and 7/8 of the training) or
            "constant".
        decay_epochs: the epochs after which the schedule "steps" divides the rate by 10, instead of its own.
        warmup_epochs: epochs of linear warm-up.
        weight_decay: decoupled weight decay, as Keras's optimizers apply it.
        coupled_weight_decay: weight decay as published recipes apply it, added to the gradient before momentum; of
            "sgd", "lars" and "dot" only. See `training.CoupledSGD`.
        clip_norm: the highest norm of all gradients together, to which longer ones are scaled down; 0 is off.
        label_smoothing: fraction of a label that is spread evenly over all classes.
        seed: of weights, order and augmentation.
        views: number of views of every image: epoch e shows view e mod `views`; by default a new one in every epoch.
        crop: pixels of padding before a random crop to the original size; 0 is off.
        flip: mirror left to right at random.
        shift: the largest random shift, in pixels; 0 is off.
        resized_crop: crop a random part of the image and resize it.
        scale: the smallest and the largest factor of a random scale, which a random crop to the original size follows,
            such as (0.5, 2.0) for masks.
        rand_augment: (layers, magnitude) of RandAugment.
        mixup: alpha of mixup; 0 is off. For boxes, the objects of both images count.
        cutmix: alpha of CutMix; 0 is off.
        mosaic: for boxes, the share of images that become a window of four images, from 0 to 1.
        strategy: how to use the devices: a name of `distribute.NAMES`, or a `tf.distribute.Strategy`.
        devices: number of devices of this machine: GPUs, or logical CPUs if it has no GPU.
        worker_timeout: seconds after which a worker that does not start or does not respond counts as lost.
        deterministic: make a repeated call give the same numbers bit for bit.
        sharding: "auto", "data" (each worker reads all data) or "file" (each worker reads its own files).
        sync_batch_norm: compute the student's batch normalization over the global batch.
        scale_learning_rate: "none", "sqrt" or "linear" in batch_size / base_batch_size.
        base_batch_size: the batch size that `learning_rate` was chosen for.
        jit: XLA: "auto" (where it works and helps), "on" or "off".
        steps_per_execution: steps to run in one call; the steps of an epoch must be a multiple of it.
        precision: of the student's layers: "float32", "mixed_float16" (which scales the loss) or "mixed_bfloat16".
        checkpoint_every: number of steps between checkpoints; 0 saves one at the end of epochs only.
        keep: number of the newest checkpoints to keep, in addition to the best one.
        on_nonfinite: what to do if the loss or gradients are not finite: "stop" the training, or "skip" the batch.

    Raises:
        TypeError: if a value is of the wrong type.
        ValueError: if a value is out of range.

    >>> Recipe(data="cifar10", epochs=3, flip=True).batch_size
    128
    """

    data: Data = "digits"
    data_dir: str | None = None
    task: str | None = None
    train_split: str = "train"
    without_classes: tuple[int, ...] | None = None
    test_data: Data | None = None
    test_split: str = "test"
    image_size: tuple[int, int] | None = None
    image_channels: int | None = None
    image_bits: int | None = None
    class_names: tuple[str, ...] | None = None
    ignored: tuple[int, ...] | None = None
    download_timeout: float = 60.0
    normalization: Any = "fit"
    batch_size: int = 128
    drop_remainder: bool = False
    images_per_identity: int | None = None
    epochs: int = 30
    test_every: int = 1
    optimizer: str = "sgd"
    dot_delta: float = 0.075
    learning_rate: float = 0.05
    first_layer_rate: float = 1.0
    freeze_backbone: bool = False
    schedule: str = "cosine"
    decay_epochs: tuple[int, ...] | None = None
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0
    coupled_weight_decay: float = 0.0
    clip_norm: float = 0.0
    label_smoothing: float = 0.0
    seed: int = 0
    views: int | None = None
    crop: int = 0
    flip: bool = False
    shift: int = 0
    resized_crop: bool = False
    scale: tuple[float, float] | None = None
    rand_augment: tuple[int, int] | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    mosaic: float = 0.0
    strategy: str | tf.distribute.Strategy = "auto"
    devices: int | None = None
    worker_timeout: float = 60.0
    deterministic: bool = False
    sharding: str = "auto"
    sync_batch_norm: bool = False
    scale_learning_rate: str = "none"
    base_batch_size: int = 128
    jit: str = "auto"
    steps_per_execution: int = 1
    precision: str = "float32"
    checkpoint_every: int = 500
    keep: int = 2
    on_nonfinite: str = "stop"

    def __post_init__(self) -> None:
        self._check_values()
        for name, count in TUPLES.items():
            object.__setattr__(self, name, _whole_numbers(name, self._value(name), count))
        object.__setattr__(self, "scale", _factors(self.scale))
        object.__setattr__(self, "class_names", _names(self.class_names))
        object.__setattr__(self, "normalization", parse_normalization(self.normalization))
        self._check_combinations()

    def _check_values(self) -> None:
        """Checks each value by itself."""
        for name, least in WHOLE_NUMBERS.items():
            if self._value(name) is not None or name not in OPTIONAL:
                check_whole_number("Recipe", name, self._value(name), least=least)
        for name in NUMBERS:
            check_number("Recipe", name, self._value(name), least=0)
        check_number("Recipe", "worker_timeout", self.worker_timeout, least=1)
        check_number("Recipe", "download_timeout", self.download_timeout, least=1)
        for name in SWITCHES:
            if not isinstance(self._value(name), bool):
                raise TypeError(f"Recipe({name}=...) must be True or False, but received {self._value(name)!r}.")
        for name in ("data", "test_data"):
            if not isinstance(self._value(name), Data) and (name, self._value(name)) != ("test_data", None):
                kind = type(self._value(name)).__name__
                message = "must be a name, a folder, a Source or a tf.data.Dataset, but received an object of type"
                raise TypeError(f"Recipe({name}=...) {message} {kind}.")
        if self.task is not None:
            check_choice("Recipe", "task", self.task, TASKS)
        for name, choices in CHOICES.items():
            value = self._value(name)
            if not (name == "strategy" and isinstance(value, tf.distribute.Strategy)):
                check_choice("Recipe", name, value, choices)

    def _check_combinations(self) -> None:
        """Checks values that need others."""
        if self.warmup_epochs and self.schedule != "cosine":
            raise ValueError(
                f"warmup_epochs={self.warmup_epochs} needs schedule='cosine', but received {self.schedule!r}."
                " Change the schedule, or leave out the warm-up."
            )
        if self.warmup_epochs and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"Expected a warm-up shorter than the training of epochs={self.epochs}, but received "
                f"warmup_epochs={self.warmup_epochs}. Make it shorter."
            )
        if (marks := self.decay_epochs) is not None:
            is_rising = bool(marks) and list(marks) == sorted({*marks}) and 0 < marks[0] and marks[-1] < self.epochs
            if self.schedule != "steps" or not is_rising:
                raise ValueError(
                    f"Expected decay_epochs in rising order, from 1 to below epochs={self.epochs}, with "
                    f"schedule='steps', but received {','.join(map(str, marks))} with {self.schedule!r}."
                )
        if self.coupled_weight_decay and self.optimizer not in ("sgd", "lars", "dot"):
            raise ValueError(
                f"coupled_weight_decay={self.coupled_weight_decay} needs optimizer='sgd', 'lars' or 'dot', but received"
                f" {self.optimizer!r}. Pass weight_decay instead."
            )
        if self.weight_decay and self.optimizer == "lars":
            raise ValueError(
                f"weight_decay={self.weight_decay} needs another optimizer than 'lars', whose steps contain the decay. "
                "Pass coupled_weight_decay instead."
            )
        if self.clip_norm and self.optimizer == "dot":
            raise ValueError(f"clip_norm={self.clip_norm} needs another optimizer than 'dot', which does not clip.")
        if not 0 < self.first_layer_rate <= 1 or self.first_layer_rate < 1 and self.optimizer in ("lars", "dot"):
            raise ValueError(
                "first_layer_rate must be above 0 and at most 1, and 1 for the optimizers 'lars' and 'dot', but "
                f"received {self.first_layer_rate} for {self.optimizer!r}."
            )
        if self.first_layer_rate < 1 and self.freeze_backbone:
            raise ValueError(
                f"first_layer_rate={self.first_layer_rate} has no effect with freeze_backbone, which trains only the "
                "classifier. Leave one of them out."
            )
        if self.dot_delta != Recipe.dot_delta and self.optimizer != "dot":
            raise ValueError(f"dot_delta={self.dot_delta} needs optimizer='dot', but received {self.optimizer!r}.")

    def _value(self, name: str) -> Any:
        return self.__dict__[name]

    @property
    def has_soft_labels(self) -> bool:
        """Whether the labels are distributions over classes, because they are smoothed or mixed."""
        return self.label_smoothing > 0 or self.mixup > 0 or self.cutmix > 0

    @property
    def reading(self) -> dict[str, Any]:
        """The options of `open_source` that say how a dataset is read."""
        return {name: self._value(name) for name in READING}

    def settings(self) -> dict[str, Any]:
        """The values as a flagfile records them, by name of the flag."""
        values = {name: value for name, value in self.__dict__.items() if name not in NOT_RECORDED}
        for name in ("data", "test_data"):
            values[name] = _as_setting(values[name])
        if isinstance(self.strategy, tf.distribute.Strategy):
            values["strategy"] = GivenObject(
                f"{type(self.strategy).__name__} of {self.strategy.num_replicas_in_sync} replicas"
            )
        if isinstance(self.normalization, tuple):
            values["normalization"] = repr(self.normalization)
        return values

    @classmethod
    def from_settings(cls, settings: Mapping[str, str | list[str]]) -> Recipe:
        """The recipe of a run, from `Run.settings`; settings that are no fields of a recipe are ignored.

        >>> Recipe.from_settings({"flip": "true", "image_size": "8,8", "model": "mlp"}).image_size
        (8, 8)
        """
        names = [field.name for field in dataclasses.fields(cls) if field.name in settings]
        return cls(**{name: _from_text(name, settings[name]) for name in names})


# The checks by kind: for whole numbers the lowest allowed value, for tuples their length.
WHOLE_NUMBERS = {
    "batch_size": 1, "epochs": 1, "test_every": 1, "seed": 0, "views": 1, "crop": 0, "shift": 0, "devices": 1,
    "base_batch_size": 1, "steps_per_execution": 1, "checkpoint_every": 0, "keep": 2,
    "image_channels": 1, "image_bits": 8, "images_per_identity": 2,
}  # fmt: skip
READING = ("class_names", "image_channels", "image_bits", "ignored", "download_timeout")
OPTIONAL = ("views", "devices", "image_channels", "image_bits", "images_per_identity")
NUMBERS = (
    "learning_rate",
    "dot_delta",
    "first_layer_rate",
    "warmup_epochs",
    "weight_decay",
    "coupled_weight_decay",
    "clip_norm",
    "label_smoothing",
    "mixup",
    "cutmix",
    "mosaic",
)
SWITCHES = ("drop_remainder", "flip", "resized_crop", "deterministic", "sync_batch_norm", "freeze_backbone")
TUPLES = {"without_classes": None, "decay_epochs": None, "image_size": 2, "rand_augment": 2, "ignored": None}
CHOICES: dict[str, Sequence[str]] = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "strategy": distribute.NAMES,
    "sharding": SHARDING,
    "scale_learning_rate": tuple(distribute.RULES),
    "jit": JIT,
    "precision": PRECISIONS,
    "on_nonfinite": NONFINITE,
}


def make_recipe(pretrained: bool = False, /, **options: Any) -> Recipe:
    """Makes a recipe of the options that `train`, `distill` and `record` pass on.

    Args:
        pretrained: whether the network starts from trained weights; the learning rate is then lower by default.
        options: as `Recipe` takes them; a `learning_rate` of `None` is the default.

    Raises:
        TypeError: if an option is unknown (the message suggests the closest names), or as `Recipe`.
        ValueError: as `Recipe`.
    """
    known = [field.name for field in dataclasses.fields(Recipe)]
    for name in options:
        if name not in known:
            raise TypeError(f"There is no option {name!r}: {suggest(name, known)}")
    if options.get("learning_rate") is None:
        options.pop("learning_rate", None)
        optimizer = options.get("optimizer", Recipe.optimizer)
        if pretrained and optimizer in FINE_TUNING_RATES:
            options["learning_rate"] = FINE_TUNING_RATES[optimizer]
    return Recipe(**options)


def _whole_numbers(name: str, value: Any, count: int | None) -> tuple[int, ...] | None:
    """A tuple of whole numbers from a sequence of them or of their texts."""
    if value is None:
        return None
    items = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    texts = [str(item).strip() for item in items]
    if len(texts) != (count or len(texts)) or not all(text.isdigit() for text in texts):
        raise ValueError(f"{name} must be {count or 'a list of'} whole numbers, but received {','.join(texts)}.")
    return tuple(int(text) for text in texts)


def _factors(value: Any) -> tuple[float, float] | None:
    """The two factors of a scale, from numbers or their texts."""
    if value is None:
        return None
    try:
        smallest, largest = (float(factor) for factor in value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"scale must be two numbers, such as (0.5, 2.0), but received {value!r}.") from error
    Augmentation(scale=(smallest, largest))
    return smallest, largest


def _names(value: Any) -> tuple[str, ...] | None:
    """The names of classes as a tuple of texts that a flag can hold."""
    if value is None:
        return None
    names = (value,) if isinstance(value, str) else tuple(value)
    if not names or not all(isinstance(name, str) and name.strip() and "," not in name for name in names):
        raise ValueError(f"class_names must be names without commas, one for each class, but received {value!r}.")
    return tuple(name.strip() for name in names)


def _as_setting(data: Data | None) -> Any:
    if data is None or isinstance(data, (str, os.PathLike)):
        return None if data is None else os.fspath(data)
    if isinstance(data, Source):
        return GivenObject(f"a Source named {data.name!r} of {data.size} examples")
    return GivenObject(f"a tf.data.Dataset of {data.element_spec}")


def _from_text(name: str, text: Any) -> Any:
    if name in SWITCHES:
        return text == "true"
    if name in (*TUPLES, "scale", "class_names"):
        return text.split(",")
    if name in WHOLE_NUMBERS:
        return int(text)
    return float(text) if name in (*NUMBERS, "worker_timeout", "download_timeout") else text


DEFAULTS = Recipe().settings()
