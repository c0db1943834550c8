"""Every classifier of `keras.applications` by its name there, with logits as output."""

from __future__ import annotations

import inspect

import keras

from kd_keras.errors import explain_mismatch, suggest


def names() -> list[str]:
    """The classifiers that `keras.applications` has, as it spells them.

    >>> "ResNet50" in names()
    True
    """
    members = inspect.getmembers(keras.applications, inspect.isfunction)
    return [name for name, function in members if "classifier_activation" in inspect.signature(function).parameters]


def application(
    name: str, input_shape: tuple[int, int, int], classes: int, *, weights: str | None = None, **options
) -> keras.Model:
    """`keras.applications.<name>` with `(B, classes)` logits.

    Args:
        name: as `keras.applications` spells it, in any case: `"ResNet50"` or `"resnet50"`.
        input_shape: `(H, W, C)`; most need at least 32 pixels, and three channels where `weights="imagenet"`.
        classes: number of classes K.
        weights: `None`, `"imagenet"` (downloaded by Keras; with K other than 1000 the backbone is loaded and the
            classifier is new) or a file of weights for the whole model.
        options: what else that constructor takes (`alpha`, `include_preprocessing`, ...).

    Raises:
        ValueError: for an unknown name, and whatever Keras says of the other arguments.
    """
    found = {each.lower(): each for each in names()}.get(name.lower())
    if found is None:
        raise ValueError(explain_mismatch("a classifier of keras.applications", repr(name), suggest(name, names())))
    build = getattr(keras.applications, found)
    if weights == "imagenet" and classes != 1000:
        backbone = build(include_top=False, weights=weights, input_shape=input_shape, pooling="avg", **options)
        logits = keras.layers.Dense(classes, name="logits")(backbone.output)
        return keras.Model(backbone.input, logits, name=backbone.name)
    return build(weights=weights, input_shape=input_shape, classes=classes, classifier_activation=None, **options)
