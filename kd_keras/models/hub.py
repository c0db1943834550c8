"""Every image classifier of KerasHub, by the name of its class or of a preset, with logits as output."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from kd_keras.errors import explain_mismatch, suggest


def hub(
    name: str, input_shape: tuple[int, int, int], classes: int, *, weights: bool = True, **options: Any
) -> keras.Model:
    """An image classifier of KerasHub with `(B, classes)` logits.

    Args:
        name: a class, `"ResNetImageClassifier"`, which is built anew; or a preset, `"resnet_50_imagenet"`, a URI such
            as `"hf://..."`, or the folder of a saved one.
        input_shape: `(H, W, C)` of an image.
        classes: number of classes K; the classifier is new where a preset has another number.
        weights: whether a preset's weights are loaded (and downloaded first) or only its architecture.
        options: for a class the arguments of its backbone (`stackwise_num_filters=`, ...) and of itself (`dropout=`,
            ...); for a preset those of the class.

    Raises:
        ImportError: where KerasHub is not installed.
        ValueError: for an unknown name, and where a preset cannot be loaded.
        TypeError: where a backbone lacks an argument, with those that it takes.
    """
    models = _keras_hub().models
    kind = getattr(models, name, None)
    if inspect.isclass(kind) and issubclass(kind, models.ImageClassifier) and kind is not models.ImageClassifier:
        return _new(kind, input_shape, classes, options)
    if name not in models.ImageClassifier.presets and "://" not in name and not Path(name).is_dir():
        known = [each for each in dir(models) if each.endswith("ImageClassifier") and each != "ImageClassifier"]
        choices = [*known, *models.ImageClassifier.presets]
        raise ValueError(explain_mismatch("an image classifier or a preset of KerasHub", repr(name), suggest(name, choices)))
    try:
        options = {"image_shape": tuple(input_shape), "load_weights": weights, "preprocessor": None} | options
        return _preset(functools.partial(models.ImageClassifier.from_preset, name, **options), classes)
    except Exception as error:  # a download fails in many ways
        remedy = "check the network, or the folder; KerasHub downloads a preset when it is first used"
        raise ValueError(explain_mismatch(f"KerasHub's preset {name!r}", f"{type(error).__name__}: {error}", remedy)) from error


def _keras_hub() -> Any:
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError(explain_mismatch("KerasHub for a model hub/...", "none", 'pip install "kd_keras[hub]"')) from error
    return keras_hub


def _preset(load: Callable[..., keras.Model], classes: int) -> keras.Model:
    """The preset with its own classifier, where that has as many classes, or with a new one."""
    try:
        model = load()
    except TypeError:  # a backbone alone, which needs to be told
        return load(num_classes=classes)
    return model if model.num_classes == classes else load(num_classes=classes)


def _new(kind: type, input_shape: tuple[int, int, int], classes: int, options: dict[str, Any]) -> keras.Model:
    own = set(inspect.signature(kind.__init__).parameters) & set(options)
    backbone = {"image_shape": tuple(input_shape)} | {key: options[key] for key in set(options) - own}
    try:
        made = kind.backbone_cls(**backbone)
    except TypeError as error:
        takes = ", ".join(list(inspect.signature(kind.backbone_cls.__init__).parameters)[1:])
        raise TypeError(explain_mismatch(f"the arguments of {kind.backbone_cls.__name__}: {takes}", str(error))) from error
    return kind(backbone=made, num_classes=classes, **{key: options[key] for key in own})
