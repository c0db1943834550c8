"""Builds or loads the network that a run trains: a model of the zoo, a run, a file, or a Keras model."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import TypeAlias

import keras
import tensorflow as tf

from kd_keras import models
from kd_keras.errors import explain_mismatch, shorten
from kd_keras.models.hub import names_class
from kd_keras.networks.backbone import Trainable, freeze_backbone, trainable_layers
from kd_keras.networks.embedding_networks import add_classifier, ends_in_embedding
from kd_keras.networks.loading import load_weights, pixel_statistics
from kd_keras.networks.moving_statistics import set_momentum
from kd_keras.private_api import own_variables, sub_layers
from kd_keras.runs.images import Images
from kd_keras.runs.parsing import parse_call
from kd_keras.runs.recipe import Recipe
from kd_keras.runs.run import Run, Trained, load_network
from kd_keras.runs.settings import GivenObject

logger = logging.getLogger("kd_keras")
Network: TypeAlias = Trained  # or a text that names a model of the zoo


def build_network(
    source: Network, images: Images, classes: int | None, weights: str | os.PathLike | None = None
) -> keras.Model:
    """Builds or loads the network to train, under the current strategy and dtype policy.

    Args:
        source: a model of the zoo with options such as "mlp(hidden=(32,))", a run, a `.keras` file, or a Keras model. A
            Keras model itself is trained, or a copy of it under a strategy of several replicas. For classification, a
            network that ends in an embedding gets a new classifier. BatchNorm layers of a named network with new
            weights have a momentum of 0.9, because those of keras.applications and KerasHub would need thousands of
            steps.
        images: the images of the run, which determine the input shape and the normalization of a model of the zoo.
        classes: the number of classes; `None` for a network whose classifier will be removed.
        weights: a `.keras`, `.weights.h5` or `.h5` file to start from, as a whole or in part. If it is of a model of
            the zoo, the network takes over its normalization too.

    Raises:
        TypeError: if the source is of another type.
        ValueError: if a name is unknown, a file is damaged, or the network is of another task, has another number of
            classes, or is to get a classifier of another precision.
    """
    is_given = isinstance(source, keras.Model) or is_saved(source)
    if is_given:
        model = _of_this_strategy(load_network(source))
        images.check_channels(model, "student")
        if classes is not None and images.task.name == "classification" and ends_in_embedding(model):
            _check_precision(model, source, images.recipe.precision)  # before the classifier, which has the recipe's
            logger.info("%s gets a new classifier of %d classes.", describe(source), classes)
            model = add_classifier(model, classes)
    elif isinstance(source, str):
        name, options = parse_call(source)
        if models.takes_normalization(name):
            trained = None if weights is None else pixel_statistics(weights)
            options["normalization"] = trained or images.normalization
            if weights is not None and trained is None:
                logger.info("%s has no normalization: %s normalizes as %s.", weights, name, images.normalization)
        model = models.build(name, images.shape, classes or 2, **options)
        if not is_pretrained(source, weights):
            set_momentum(model)
    else:
        raise TypeError(f"Expected a name, a path, a Run or a Keras model to train, but received {shorten(source)}.")
    if classes is not None:
        images.task.check_network(model, describe(source), images.shape, classes, is_given)
    if weights is not None:
        report = load_weights(model, weights)
        logger.info("%s: %s", os.fspath(weights), report)
        count = len(report.loaded) + len(report.mismatched) + len(report.missing)
        if len(report.loaded) < count / 2:
            warnings.warn(
                f"Only {len(report.loaded)} of {count} layers of {model.name!r} have weights in {os.fspath(weights)}, "
                "for example because it is of another architecture; the other layers start anew. Check the file.",
                stacklevel=2,
            )
    return model


def prepare_training(
    network: keras.Model, source: Network, weights: str | os.PathLike | None, recipe: Recipe
) -> Trainable:
    """Freezes the backbone if the recipe says so, and logs the learning rate of a network with trained weights.

    Returns:
        Which layers were trainable before a backbone was frozen, so that they are trainable again afterwards.

    Raises:
        ValueError: as `check_fine_tuning`, and if a given network computes in another precision than the recipe's.
    """
    check_fine_tuning(source, weights, recipe)
    if isinstance(source, keras.Model) or is_saved(source):
        _check_precision(network, source, recipe.precision)
    if is_pretrained(source, weights):
        logger.info("Learning rate %g, from trained weights.", recipe.learning_rate)
    if not recipe.freeze_backbone:
        return ()
    before = trainable_layers(network)
    count = freeze_backbone(network)
    logger.info("%d layers of the backbone are frozen; only the classifier is trained.", count)
    return before


def _check_precision(network: keras.Model, source: Network, precision: str) -> None:
    """Checks that a given network, whose layers keep the precision they were built in, computes in that of the recipe.

    Otherwise a network in float16 would train without loss scaling, and the precision would have no effect on a network
    in float32.
    """
    computed = {layer.compute_dtype for layer in sub_layers(network) if own_variables(layer)}
    half = sorted(computed & {"float16", "bfloat16"})
    expected = [] if precision == "float32" else [precision.removeprefix("mixed_")]
    if half != expected:
        built = f"mixed_{half[0]}" if half else "float32"
        advice = f"pass precision={built!r}, or the name of its architecture and weights=, in any precision"
        raise ValueError(explain_mismatch(f"{describe(source)} in {precision}", f"a network built in {built}", advice))


def check_fine_tuning(source: Network, weights: str | os.PathLike | None, recipe: Recipe) -> None:
    """Raises a ValueError if the backbone of a network with new weights is to be frozen or to have lower rates."""
    asked = [name for name in ("freeze_backbone", "first_layer_rate") if getattr(recipe, name) != getattr(Recipe, name)]
    if asked and not is_pretrained(source, weights) and not isinstance(source, keras.Model):
        raise ValueError(
            f"{asked[0]} needs a network with trained weights, but {describe(source)} starts from new ones. Pass "
            f"weights=, or leave out {asked[0]}."
        )


def is_pretrained(source: Network, weights: str | os.PathLike | None = None) -> bool:
    """Whether a network starts from trained weights: a run, a file, or a name with weights.

    >>> is_pretrained("resnet20"), is_pretrained("applications/ResNet50(weights='imagenet')")
    (False, True)
    """
    if weights is not None or isinstance(source, Run) or (isinstance(source, (str, Path)) and is_saved(source)):
        return True
    if not isinstance(source, str):
        return False
    name, options = parse_call(source)
    return bool(options.get("weights", preset_name(name) is not None))


def preset_name(name: str) -> str | None:
    """The preset of KerasHub that a model's name names; `None` for any other model.

    >>> preset_name("hub/resnet_50_imagenet"), preset_name("hub/ViTImageClassifier"), preset_name("resnet8")
    ('resnet_50_imagenet', None, None)
    """
    family, _, member = _without_family(name).partition("/")
    return member if family == "hub" and not names_class(member) else None


def is_saved(source: Network) -> bool:
    """Whether a source is a run or a file, and not the name of a model of the zoo."""
    if isinstance(source, (Run, Path)):
        return True
    return isinstance(source, str) and (source.endswith(".keras") or Path(source).exists())


def names_model(source: str) -> bool:
    """Whether a text names a model that `build` knows, and not a run or a file.

    >>> names_model("applications/ResNet50(weights='imagenet')"), names_model("runs/teacher")
    (True, False)
    """
    name = _without_family(source.partition("(")[0].strip())
    return not is_saved(source) and (name in models.names() or name.startswith(("applications/", "hub/")))


def _without_family(name: str) -> str:
    """The name of the network in the name of a model such as "detector/resnet8"."""
    family, _, member = name.partition("/")
    return member if family in models.FAMILIES else name


def describe(source: Network) -> str:
    """The name, the path or the type of a network, for messages."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    return f"{type(source).__name__} {getattr(source, 'name', '')!r}"


def as_setting(source: Network) -> str | GivenObject:
    """A network as flags.txt records it."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if not isinstance(source, keras.Model):
        return GivenObject(f"an object of type {type(source).__name__}")
    shapes = f"{getattr(source, 'input_shape', None)} -> {getattr(source, 'output_shape', None)}"
    return GivenObject(f"a Keras model, {shapes}, {source.count_params():,} parameters")


def _of_this_strategy(model: keras.Model) -> keras.Model:
    """The model, or under several replicas a copy whose variables belong to the current strategy."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return model
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy
