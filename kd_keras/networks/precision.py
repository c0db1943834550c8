"""Lets a network of mixed precision compute in float32 for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras

from kd_keras.private_api import sub_layers

LOW_PRECISION = ("float16", "bfloat16")


@contextlib.contextmanager
def computing_in_float32(model: keras.Model) -> Iterator[None]:
    """Within the context, all layers of a model compute in float32; the weights are not changed.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, dtype="mixed_float16")])
    >>> with computing_in_float32(model):
    ...     model.layers[0].compute_dtype
    'float32'
    >>> model.layers[0].compute_dtype
    'float16'
    """
    policies = {layer: _policy_of(layer) for layer in sub_layers(model) if layer.compute_dtype in LOW_PRECISION}
    try:
        for layer, policy in policies.items():
            mode = policy.quantization_mode
            layer.dtype_policy = f"{mode}_from_float32" if mode else keras.DTypePolicy("float32")
        if policies:
            model.predict_function = None  # Keras would reuse the function that it traced in the other precision
        yield
    finally:
        for layer, policy in policies.items():
            layer.dtype_policy = policy
        if policies:
            model.predict_function = None


def _policy_of(layer: keras.layers.Layer) -> keras.DTypePolicy:
    """The policy of a layer, also if its model has one for each path."""
    policy = layer.dtype_policy
    return policy[layer.path] if isinstance(policy, keras.dtype_policies.DTypePolicyMap) else policy
