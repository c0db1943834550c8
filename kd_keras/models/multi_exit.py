"""Multi-exit networks: a classifier at each stage, and the mean of their predictions.

The positions and the layers of the exits are those of Zhang et al. 2019, *Be Your Own Teacher*, 1905.08094, section 3.
The prediction of all N exits is the normalized sum P(y|x) = (1/N) sum_i P(y_i|x). `methods.BYOT` trains them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import keras
from keras import layers, ops, tree

from kd_keras.contracts import Tensor
from kd_keras.errors import explain_mismatch
from kd_keras.models.base import MeanOfPredictions, batch_norm, fan_out
from kd_keras.networks.classifier import DROPOUTS
from kd_keras.networks.graph import functional
from kd_keras.networks.taps import Tapped


def multi_exit(model: keras.Model, *, name: str | None = None) -> keras.Model:
    """Gives a classifier to every stage of a network, sharing the network's layers.

    An exit after stage i takes a separable 3x3 convolution, BatchNorm and ReLU for each later stage, of that stage's
    size (the last of the embedding's width), then the mean over space and a dense layer. The layers `"exit1"`, ... are
    the logits `(B, K)` of each exit; the last exit is the network itself. The layers `"exit1_features"`, ... are what
    these logits are computed from, all `(B, D)` as the network's embedding. Few maps lie on all paths to the mean
    prediction, so methods on maps must name their taps if the network does not declare its stages as those of the zoo
    do.

    Args:
        model: a Functional classifier whose output is logits that one dense layer computes from its embedding, and
            whose stages are among its own layers and not in a nested model, as in all of the zoo.
        name: the new model's name; by default `"multi_exit_"` and the model's.

    Returns:
        A model from the same images to `(B, K)` logits of the mean prediction: their softmax is the mean of the
        exits' softmax.

    Raises:
        ValueError: if the model is not of this kind, or has only one stage.

    >>> from kd_keras.models.resnet import resnet8
    >>> network = multi_exit(resnet8((32, 32, 3), 10))
    >>> exit_count(network)
    3
    >>> single_exit(network, 1).output_shape
    (None, 10)
    """
    model = functional(model)
    specs = Tapped(model, ["stages", "embedding", "logits"]).specs
    paths = [*(spec.layer for spec in specs["stages"]), specs["embedding"].layer, specs["logits"].layer]
    names = {layer.name for layer in model.layers}
    if len(specs["stages"]) < 2 or not set(paths) <= names:
        expected = "a Functional classifier of logits, with two or more stages among its own layers"
        received = (
            f"{model.name!r} with {len(specs['stages'])} stages, and in nested models {set(paths) - names or 'none'}"
        )
        advice = "build it without a final softmax, and not around another model"
        raise ValueError(explain_mismatch(expected, received, advice))
    stages = [model.get_layer(spec.layer).output for spec in specs["stages"]]
    width, classes = specs["embedding"].shape[-1], specs["logits"].shape[-1]
    logits = [_exit(stages[number:], width, classes, f"exit{number + 1}") for number in range(len(stages) - 1)]
    logits.append(_deepest(model, paths[-2], f"exit{len(stages)}"))
    mean = MeanOfPredictions(name="mean_of_predictions")(logits)
    return keras.Model(model.input, mean, name=name or f"multi_exit_{model.name}")


def _exit(stages: list[Tensor], width: int, classes: int, name: str) -> Tensor:
    """The logits of an exit after the first of some stages."""
    x = stages[0]
    for number, (before, stage) in enumerate(itertools.pairwise(stages), start=1):
        strides = tuple(-(-size // later) for size, later in zip(before.shape[1:3], stage.shape[1:3], strict=True))
        filters = width if number == len(stages) - 1 else stage.shape[-1]
        # A separable layer has one stride for both directions.
        x = layers.SeparableConv2D(
            filters,
            3,
            strides=max(strides),
            padding="same",
            use_bias=False,
            depthwise_initializer=fan_out(),
            pointwise_initializer=fan_out(),
            name=f"{name}_conv{number}",
        )(x)
        x = layers.ReLU(name=f"{name}_relu{number}")(batch_norm(x, f"{name}_bn{number}"))
    return layers.Dense(classes, name=name)(layers.GlobalAveragePooling2D(name=f"{name}_features")(x))


def _deepest(model: keras.Model, embedding: str, name: str) -> Tensor:
    """The logits of the network itself; they and its embedding get an exit's names."""
    index = model.layers.index(model.get_layer(embedding))
    x = layers.Identity(name=f"{name}_features")(model.layers[index].output)
    for layer in model.layers[index + 1 :]:
        if not isinstance(layer, (*DROPOUTS, layers.Dense)):
            received = f"the layer {layer.name!r} of {model.name!r} after it"
            expected = "logits that one dense layer computes from the embedding"
            raise ValueError(explain_mismatch(expected, received, "build it without a final softmax"))
        x = layer(x)
    return layers.Identity(name=name)(x)


def exit_count(model: keras.Model) -> int:
    """The number of exits of a model that `multi_exit` built, including the deepest exit.

    Raises:
        ValueError: if it has no exits.
    """
    names = {layer.name for layer in model.layers}
    count = sum(f"exit{number}" in names for number in range(1, len(names)))
    if not count:
        advice = 'build it with multi_exit, or by the name "multi_exit/<name>"'
        raise ValueError(explain_mismatch("a model with exits", f"{model.name!r}, which has none", advice))
    return count


def single_exit(model: keras.Model, number: int) -> keras.Model:
    """One exit of a multi-exit model as a separate model, with only the layers that lead to it.

    Args:
        model: a model that `multi_exit` built.
        number: of the exit, from 1; the last exit is the network itself, without the other exits.

    Raises:
        ValueError: if there is no such exit.
    """
    count = exit_count(model)
    if not 1 <= number <= count:
        raise ValueError(explain_mismatch(f"an exit from 1 to {count} of {model.name!r}", str(number)))
    return keras.Model(model.input, model.get_layer(f"exit{number}").output, name=f"{model.name}_exit{number}")


def _parts(model: keras.Model) -> Iterator[keras.Model]:
    """The parts between exits: each from the image or the maps of the part before to its maps and its exit's logits."""
    count, inputs = exit_count(model), model.input
    for number in range(1, count):
        maps = model.get_layer(f"exit{number}_conv1").input
        yield keras.Model(inputs, [maps, model.get_layer(f"exit{number}").output], name=f"part{number}")
        inputs = maps
    yield keras.Model(inputs, [model.get_layer(f"exit{count}").output], name=f"part{count}")


@keras.saving.register_keras_serializable("kd_keras")
class EarlyExit(keras.Model):
    """A multi-exit model that stops at the first exit that is confident enough.

    After exit i its prediction is the mean of the first i exits' predictions. An example whose highest probability
    reaches the threshold keeps that prediction. The later layers run only if some example of the batch needs them, so
    that time is saved for images that come one at a time or are all easy. With a threshold above 1 no example stops
    early, and the prediction is that of the multi-exit model.

    Args:
        model: a model that `multi_exit` built.
        threshold: the lowest probability, above 0, with which an example stops.

    Raises:
        ValueError: if the model has no exits, or the threshold is not above 0.

    >>> from kd_keras.models.resnet import resnet8
    >>> EarlyExit(multi_exit(resnet8((32, 32, 3), 10)), 0.9)(ops.zeros((2, 32, 32, 3))).shape[-1]
    10
    """

    def __init__(self, model: keras.Model, threshold: float, name: str = "early_exit"):
        super().__init__(name=name)
        if not threshold > 0:
            raise ValueError(explain_mismatch("a threshold above 0", repr(threshold)))
        self.model, self.threshold = model, float(threshold)
        self.parts = list(_parts(model))
        self(model.inputs[0])  # builds it with its input shape, which an export needs

    def call(self, images: Tensor) -> Tensor:
        """The logits `(B, K)`: logarithms of the prediction's probabilities, float32."""
        return self._predict_from(0, images, None)

    def _predict_from(self, number: int, maps: Tensor, total: Tensor | None) -> Tensor:
        """The prediction from part `number` on; `total` is the logarithm of the sum of the earlier predictions."""
        *next_maps, logits = tree.flatten(self.parts[number](maps))
        log_probabilities = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
        total = log_probabilities if total is None else ops.logaddexp(total, log_probabilities)
        mean = total - math.log(number + 1)
        if not next_maps:
            return mean
        confident = ops.max(mean, axis=-1, keepdims=True) >= math.log(self.threshold)
        deeper = ops.cond(ops.all(confident), lambda: mean, lambda: self._predict_from(number + 1, next_maps[0], total))
        return ops.where(confident, mean, deeper)

    def get_config(self) -> dict[str, Any]:
        model = keras.saving.serialize_keras_object(self.model)
        return {"model": model, "threshold": self.threshold, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> EarlyExit:
        return cls(**{**config, "model": keras.saving.deserialize_keras_object(config["model"])})
