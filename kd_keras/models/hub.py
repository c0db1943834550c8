"""Networks of KerasHub by name, from pixels of 0 to 255: classifiers, segmentation networks, presets of RetinaNet."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kd_keras.errors import explain_mismatch, suggest
from kd_keras.models import hub_encoders, hub_segmenters
from kd_keras.models.hub_detector import hub_detector
from kd_keras.networks.preprocessing import PixelMap, prepend


def hub(
    name: str, input_shape: tuple[int, int, int], classes: int, *, weights: bool = True, **options: Any
) -> keras.Model:
    """A network of KerasHub from pixel values `(B, H, W, C)` from 0 to 255 to `(B, classes)` logits.

    It is an image classifier, a segmentation network with logits `(B, H, W, classes)` (SegFormer or DeepLabV3+), or
    for a preset of RetinaNet a detector, as `hub_detector` makes it.

    The network starts with a layer that does to pixel values what the image converter of the preset does, except that
    it does not resize, because the network is built for `input_shape`. A network without an image converter reads
    pixels divided by 255, as the documentation of KerasHub's `ImageConverter` shows.

    Args:
        name: a class such as `"ResNetImageClassifier"` or `"SegFormerImageSegmenter"`, which gets initial weights; or a
            preset: a name such as `"resnet_50_imagenet"`, a URI such as `"hf://..."`, or the folder of a saved preset.
        input_shape: `(H, W, C)` of an image.
        classes: number of classes K; the classifier is new if a preset has another number.
        weights: whether the weights of a preset are downloaded and loaded, or only its architecture.
        options: for a class, the arguments of its backbone (`stackwise_num_filters=`, ...) and of the class itself
            (`dropout=`, ...), and of a segmentation network `encoder=`, a dictionary of the arguments of its
            `MiTBackbone` or `ResNetBackbone`; for a preset, those of its class.

    Raises:
        ImportError: if KerasHub is not installed.
        ValueError: if the name is unknown, or if a preset cannot be loaded or has no classifier.
        TypeError: if a backbone needs other arguments; the message lists those that it takes.
    """
    keras_hub = _keras_hub()
    models = keras_hub.models
    kind = getattr(models, name, None)
    if inspect.isclass(kind) and issubclass(kind, models.ImageClassifier) and kind is not models.ImageClassifier:
        return prepend(_new(kind, input_shape, classes, options), _pixel_map(None, input_shape[-1]))
    if name in hub_segmenters.ENCODERS:
        network = hub_segmenters.new_segmenter(models, name, input_shape, classes, options)
        return hub_segmenters.on_images(network, _pixel_map(None, input_shape[-1]), input_shape)
    task = _find_task(models, name)
    if task is None:
        raise ValueError(
            f"The preset {name!r} is an image encoder of KerasHub without a classifier. It can be the teacher of "
            "methods that read features, such as queue(teacher_tap='cls')."
        )
    with _loading(name):
        shape = {"image_shape": tuple(input_shape)} if task is models.ImageClassifier else {}
        options = shape | {"load_weights": weights, "preprocessor": None} | options
        network = _preset(functools.partial(task.from_preset, name, **options), classes)
        converter = _image_converter(keras_hub, name)
    pixel_map = _pixel_map(converter, input_shape[-1])
    if task is models.RetinaNetObjectDetector:
        return hub_detector(network, input_shape, pixel_map)
    if task is models.ImageSegmenter:
        network = hub_segmenters.resized_segmenter(network, input_shape, classes)
        return hub_segmenters.on_images(network, pixel_map, input_shape)
    return prepend(network, pixel_map)


def preset_classes(name: str) -> int | None:
    """The number of classes of a preset's own classifier; `None` if the preset is a backbone without one.

    Raises:
        ImportError: if KerasHub is not installed.
        ValueError: if the preset is unknown or cannot be loaded.
    """
    task = _find_task(_keras_hub().models, name)
    if task is None:
        return None
    with _loading(name):
        try:
            return task.from_preset(name, load_weights=False, preprocessor=None).num_classes
        except TypeError:  # a backbone alone, for which num_classes has no default
            return None


def is_encoder(name: str) -> bool:
    """Whether a preset is an image encoder of which KerasHub has no classifier, such as DINOv2.

    Raises:
        ImportError: if KerasHub is not installed.
        ValueError: if the preset is unknown or cannot be loaded.
    """
    return _find_task(_keras_hub().models, name) is None


def hub_encoder(name: str, input_shape: tuple[int, int, int]) -> keras.Model:
    """The image encoder of a preset, from pixels of 0 to 255 to its features, without a classifier.

    It is the teacher of methods that read features: of a transformer the taps "cls" and "tokens", of a convolutional
    network its stages.

    Args:
        name: such as "dinov2_small", or the folder of a preset.
        input_shape: `(H, W, C)` of an image; an encoder of one fixed size keeps that.

    Raises:
        ImportError: if KerasHub is not installed.
        ValueError: if the preset cannot be loaded, or does not encode images.
    """
    keras_hub = _keras_hub()
    with _loading(name):
        encoder = hub_encoders.image_encoder(keras_hub.models, name, input_shape)
        converter = _image_converter(keras_hub, name)
    return prepend(encoder, _pixel_map(converter, input_shape[-1]))


def names_class(name: str) -> bool:
    """Whether a name is that of a class of KerasHub, whose weights are initial ones, and not that of a preset.

    >>> names_class("ResNetImageClassifier"), names_class("SegFormerImageSegmenter"), names_class("resnet_50_imagenet")
    (True, True, False)
    """
    return name.endswith("ImageClassifier") or name in hub_segmenters.ENCODERS


def _find_task(models: Any, name: str) -> Any:
    """The task of a preset, as `_task_of`.

    Raises:
        ValueError: if the preset is unknown or cannot be loaded.
    """
    presets = [preset for kind in (*_tasks(models), models.Backbone) for preset in kind.presets]
    if name not in presets and "://" not in name and not Path(name).is_dir():
        known = [known for known in dir(models) if known.endswith("ImageClassifier") and known != "ImageClassifier"]
        advice = suggest(name, [*known, *hub_segmenters.ENCODERS, *presets])
        raise ValueError(explain_mismatch("an image classifier or a preset of KerasHub", repr(name), advice))
    with _loading(name):
        return _task_of(models, name)


@contextlib.contextmanager
def _loading(name: str) -> Iterator[None]:
    """Explains an error while a preset is loaded."""
    try:
        yield
    except Exception as error:  # a download fails in many ways
        raise ValueError(
            f"KerasHub cannot load preset {name!r}. Check the connection, the folder and the options. KerasHub "
            f"downloads a preset when it is first used. KerasHub reports {type(error).__name__}: {error}"
        ) from error


def _keras_hub() -> Any:
    try:
        import keras_hub
    except ImportError as error:
        advice = 'install it with pip install "kd_keras[hub]"'
        raise ImportError(
            explain_mismatch("KerasHub, for a model hub/...", "an environment without it", advice)
        ) from error
    return keras_hub


def _preset(load: Callable[..., keras.Model], classes: int) -> keras.Model:
    """The preset with its own classifier if that has the right number of classes, else with a new classifier."""
    try:
        network = load()
    except TypeError:  # a backbone alone, for which num_classes has no default
        return load(num_classes=classes)
    return network if network.num_classes == classes else load(num_classes=classes)


def _tasks(models: Any) -> tuple[Any, Any, Any]:
    return models.ImageClassifier, models.ImageSegmenter, models.RetinaNetObjectDetector


def _task_of(models: Any, name: str) -> Any:
    """The one of `_tasks` that a preset is for; `None` if no classifier has its backbone."""
    for task in _tasks(models):
        if name in task.presets:
            return task
    backbone = models.Backbone.from_preset(name, load_weights=False)
    if isinstance(backbone, models.RetinaNetObjectDetector.backbone_cls):
        return models.RetinaNetObjectDetector
    if any(isinstance(backbone, getattr(models, kind).backbone_cls) for kind in hub_segmenters.ENCODERS):
        return models.ImageSegmenter
    return models.ImageClassifier if hub_encoders.find_classifier(models, type(backbone)) else None


def _new(kind: Any, input_shape: tuple[int, int, int], classes: int, options: dict[str, Any]) -> keras.Model:
    """A classifier of a class, with initial weights."""
    arguments = list(inspect.signature(kind.backbone_cls.__init__).parameters)[1:]
    of_the_classifier = set(inspect.signature(kind.__init__).parameters) & set(options)
    shape_argument = "image_shape" if "image_shape" in arguments else "input_shape"
    of_the_backbone = {key: options[key] for key in set(options) - of_the_classifier}
    try:
        backbone = kind.backbone_cls(**{shape_argument: tuple(input_shape)} | of_the_backbone)
    except TypeError as error:
        expected = f"the arguments of {kind.backbone_cls.__name__}: {', '.join(arguments)}"
        raise TypeError(explain_mismatch(expected, f"other arguments ({error})")) from error
    return kind(backbone=backbone, num_classes=classes, **{key: options[key] for key in of_the_classifier})


def _image_converter(keras_hub: Any, name: str) -> Any | None:
    """The image converter of a preset, or `None` if it was saved without one."""
    try:
        return keras_hub.layers.ImageConverter.from_preset(name)
    except FileNotFoundError:
        return None


def _pixel_map(converter: Any | None, channels: int) -> PixelMap:
    """The map of pixels that a converter computes: it multiplies by its scale and adds its offset, if it has any."""
    scale, offset = (1 / 255, 0.0) if converter is None else (converter.scale, converter.offset)
    scale, offset = 1.0 if scale is None else scale, 0.0 if offset is None else offset
    count = max(np.size(scale), np.size(offset))
    scale, offset = (tuple(float(value) for value in np.broadcast_to(values, (count,))) for values in (scale, offset))
    return PixelMap(tuple(range(count)), scale, offset).for_channels(channels)
