"""Networks that are not Keras models, as Keras models: single layers, loaded SavedModels, models of tf_keras."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kd_keras.errors import explain_mismatch, shorten
from kd_keras.networks.heads import SMALLEST
from kd_keras.networks.square_inputs import check_square_input

EXPECTED = "a built Keras model, or several, as teacher"


def as_networks(networks: Any) -> list[keras.Model]:
    """The networks of a teacher as a list of Keras models.

    Args:
        networks: a Keras model, a built layer, a `keras.layers.TFSMLayer`, what `tf.saved_model.load` returns, a model
            of tf_keras, or a list of these.

    Raises:
        TypeError: if one is of another kind.
        ValueError: if the shape of a layer's input is unknown, or a network cannot be computed for its input.

    >>> layer = keras.layers.Dense(3, name="classify")
    >>> layer.build((None, 4))
    >>> [network.input_shape for network in as_networks([layer])]
    [(None, 4)]
    """
    return [_as_model(network) for network in (networks if isinstance(networks, (list, tuple)) else [networks])]


def is_plain_function(network: Any) -> bool:
    """Whether a teacher is a function that `as_networks` cannot make a network of.

    >>> is_plain_function(lambda images: images), is_plain_function(keras.layers.Dense(2))
    (True, False)
    """
    # A SavedModel has signatures, and a teacher, which is callable too, has the shapes of its taps.
    is_network = isinstance(network, keras.layers.Layer) or hasattr(network, "signatures") or hasattr(network, "specs")
    return callable(network) and not is_network and not isinstance(getattr(network, "input_shape", None), tuple)


class ForeignFunction(keras.layers.Layer):
    """A function as a layer; Keras tracks none of its variables.

    Args:
        function: the function.
        name: of the layer.
        digest: identifies the function with its variables, or "" if that is unknown.
    """

    def __init__(self, function: Callable[[Any], Any], name: str, digest: str = ""):
        super().__init__(name=name, trainable=False)
        self.digest = digest
        self._functions = (lambda inputs: function(inputs),)

    def call(self, inputs: Any) -> Any:
        return self._functions[0](inputs)


def _as_model(network: Any) -> keras.Model:
    if isinstance(network, keras.Model):
        check_square_input(network)
        return network
    if isinstance(network, keras.layers.Layer):
        return _model_of_layer(network, _shape_of_layer(network))
    signatures = getattr(network, "signatures", None)
    if signatures is not None and "serving_default" in signatures:
        return model_of_signature(signatures["serving_default"], network)
    shape = getattr(network, "input_shape", None)
    if callable(network) and isinstance(shape, tuple):  # a model of tf_keras, which is not a class of Keras 3
        layer = ForeignFunction(lambda inputs: network(inputs, training=False), getattr(network, "name", "teacher"))
        return _model_of_layer(layer, shape)
    raise TypeError(explain_mismatch(EXPECTED, f"{shorten(network)} ({type(network).__name__})", _advice(network)))


def _advice(network: Any) -> str:
    if isinstance(network, (str, os.PathLike)):
        return "load a file with keras.saving.load_model(path), or a SavedModel with tf.saved_model.load(path)"
    if callable(network):
        return "pass Teacher(function) alone to record it, or wrap it in keras.layers.Lambda in a Sequential model"
    return "pass the model itself"


def _model_of_layer(layer: keras.layers.Layer, shape: tuple) -> keras.Model:
    model = keras.Sequential([keras.Input(batch_shape=shape), layer], name=f"{layer.name}_model")
    if not model.built:
        received = f"the layer {layer.name!r}, whose output shape Keras cannot infer"
        raise ValueError(explain_mismatch(EXPECTED, received, "wrap it in a Functional model"))
    return model


def model_of_signature(
    signature: Any, owner: Any, output: str | None = None, *, probabilities: bool = False, digest: str = ""
) -> keras.Model:
    """The model of a signature of a SavedModel that takes one tensor by name.

    Args:
        signature: a concrete function; integer images are rounded and clipped for it.
        owner: the loaded SavedModel, which has the variables.
        output: the name of the output; by default everything that the signature returns.
        probabilities: whether the output is probabilities; the model then returns their logarithm.
        digest: identifies the SavedModel, or "" if that is unknown.

    Raises:
        ValueError: if it takes several tensors.
    """
    inputs = signature.structured_input_signature[1]
    if len(inputs) != 1:
        received = f"a SavedModel with the inputs {shorten(sorted(inputs))}"
        raise ValueError(explain_mismatch("a SavedModel with one input as teacher", received, "export one with one"))
    ((name, spec),) = inputs.items()

    def call(images: Any, owner: Any = owner) -> Any:  # keeps the owner, and with it the variables
        outputs = signature(**{name: _as_type(images, spec.dtype)})
        values = outputs if output is None else outputs[output]
        return ops.log(ops.maximum(values, SMALLEST)) if probabilities else values

    return _model_of_layer(ForeignFunction(call, "saved_model", digest), tuple(spec.shape))


def _as_type(images: Any, dtype: Any) -> Any:
    """Images as the type that a SavedModel reads; integers are rounded and clipped to 0..255."""
    if dtype.is_integer:
        images = ops.clip(ops.round(ops.cast(images, "float32")), 0, 255)
    return ops.cast(images, dtype.name)


def _shape_of_layer(layer: keras.layers.Layer) -> tuple:
    """The shape of a layer's input with the batch dimension."""
    endpoint = getattr(layer, "call_endpoint_fn", None)  # of a TFSMLayer
    if endpoint is not None:
        function = getattr(endpoint, "concrete_functions", [endpoint])[0]
        specs = keras.tree.flatten(function.structured_input_signature)
        shapes = [tuple(spec.shape) for spec in specs if getattr(spec, "shape", None) is not None]
        if len(shapes) == 1:
            return shapes[0]
    shape = (layer.get_build_config() or {}).get("input_shape") if layer.built else None
    if not isinstance(shape, (tuple, list)) or not all(size is None or isinstance(size, int) for size in shape):
        received = f"the layer {layer.name!r}, whose input shape is unknown"
        advice = "wrap it in keras.Sequential([keras.Input(shape), layer])"
        raise ValueError(explain_mismatch(EXPECTED, received, advice))
    return (None, *shape[1:])
