"""The settings of a training apart from its networks: one frozen dataclass, checked at construction."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import tensorflow as tf

from kd_keras.data import Source
from kd_keras.errors import suggest
from kd_keras.runs.parsing import parse_normalization
from kd_keras.runs.recipe_checks import check_optimizer, check_schedule
from kd_keras.runs.recipe_values import (
    DOT_DELTA,
    FINE_TUNING_RATES,
    READING,
    TUPLES,
    check_value,
    from_text,
    parse_factors,
    parse_names,
    parse_whole_numbers,
)
from kd_keras.runs.settings import GivenObject

Data: TypeAlias = str | os.PathLike | Source | tf.data.Dataset
# Not recorded with a run, because they change no result.
NOT_RECORDED = ("worker_timeout", "download_timeout")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train. Every field is also a flag of `experiments.train` and `experiments.distill`.

    Args:
        data: training images: a TFDS name, a folder of `<split>/<class>/` or of images, "digits", a `Source`, or a
            `tf.data.Dataset` of (image or images in 0..255, label or labels), as `kd_keras.runs.datasets` describes.
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
        ignored: values of the pixels of masks that belong to no class, such as (255,). Colors can be ignored only by
            `data.load_masks(ignored=...)`, whose source is then passed as `data`.
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
        dot_delta: for "dot", the amount by which the momentum of the distillation gradient is above 0.9 and that of
            the hard loss's gradient below 0.9.
        learning_rate: the highest learning rate. `train` and `distill` start from trained weights with the lower rate
            of `FINE_TUNING_RATES`, unless they receive one; "lars" needs one.
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
            "sgd", "lars" and "dot" only. See `training.CoupledSGD` and, for kernels only, `training.LARS`.
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
    dot_delta: float = DOT_DELTA
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
        self._check_data()
        for name, value in self.__dict__.items():
            if not (name == "strategy" and isinstance(value, tf.distribute.Strategy)):
                check_value(name, value)
        for name, count in TUPLES.items():
            object.__setattr__(self, name, parse_whole_numbers(name, self._value(name), count))
        object.__setattr__(self, "scale", parse_factors(self.scale))
        object.__setattr__(self, "class_names", parse_names(self.class_names))
        object.__setattr__(self, "normalization", parse_normalization(self.normalization))
        check_schedule(self)
        check_optimizer(self)

    def _check_data(self) -> None:
        for name in ("data", "test_data"):
            if not isinstance(self._value(name), Data) and (name, self._value(name)) != ("test_data", None):
                kind = type(self._value(name)).__name__
                message = "must be a name, a folder, a Source or a tf.data.Dataset, but received an object of type"
                raise TypeError(f"Recipe({name}=...) {message} {kind}.")

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
        """The recipe of a run, from `Run.settings`; settings that are not fields of a recipe are ignored.

        >>> Recipe.from_settings({"flip": "true", "image_size": "8,8", "model": "mlp"}).image_size
        (8, 8)
        """
        known = [field.name for field in dataclasses.fields(cls) if field.name in settings]
        return cls(**{name: from_text(name, settings[name]) for name in known})


def make_recipe(pretrained: bool = False, own: Iterable[str] = (), /, **options: Any) -> Recipe:
    """Makes a recipe of the options that `train`, `distill` and `record` pass on.

    Args:
        pretrained: whether the network starts from trained weights; the learning rate is then lower by default.
        own: the names of the function's own arguments, for the advice on an unknown option.
        options: as `Recipe` takes them; a `learning_rate` of `None` is the default.

    Raises:
        TypeError: if an option is unknown (the message suggests the closest names), or as `Recipe`.
        ValueError: if "lars" has no learning rate, or as `Recipe`.
    """
    known = [field.name for field in dataclasses.fields(Recipe)]
    for name in options:
        if name not in known:
            raise TypeError(f"There is no option {name!r}: {suggest(name, {*known, *own} - {'options'})}")
    if options.get("learning_rate") is None:
        options.pop("learning_rate", None)
        optimizer = options.get("optimizer", Recipe.optimizer)
        if optimizer == "lars":
            raise ValueError(
                "optimizer='lars' needs a learning_rate, because its rates are much higher than those of other "
                "optimizers. Pass one, such as 1.8 for batches of 1536."
            )
        if pretrained and optimizer in FINE_TUNING_RATES:
            options["learning_rate"] = FINE_TUNING_RATES[optimizer]
    return Recipe(**options)


def _as_setting(data: Data | None) -> Any:
    if data is None or isinstance(data, (str, os.PathLike)):
        return None if data is None else os.fspath(data)
    if isinstance(data, Source):
        return GivenObject(f"a Source named {data.name!r} of {data.size} examples")
    return GivenObject(f"a tf.data.Dataset of {data.element_spec}")


DEFAULTS = Recipe().settings()
