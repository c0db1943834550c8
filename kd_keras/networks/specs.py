"""What the taps of a network deliver: layers, shapes, and the constants of the network that some methods read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import keras
import numpy as np

from kd_keras.contracts import TapSpec


class Constants(Protocol):
    """The constants of a network that some methods read, from the network itself or from a recording."""

    def classifier_weights(self) -> tuple[np.ndarray, ...]:
        """The kernel `(D, K)` and the bias `(K,)` from embedding to logits, float32."""

    def class_centers(self) -> np.ndarray:
        """The direction `(D, K)` of each class in the space of the embedding, float32."""

    def batch_norms(self, tap: str) -> list[tuple[np.ndarray, ...]]:
        """The scale and the offset `(C,)` of the BatchNorm behind each map of a tap, float32."""

    def layer(self, tap: str) -> keras.layers.Layer | None:
        """The layer that returns a tap; `None` without the network."""

    def between(self, inputs: Sequence[str], outputs: Sequence[str]) -> Callable[[list], list] | None:
        """The part of the network from some taps to others; `None` without the network."""


class Specs(dict[str, Any]):
    """What a network's taps will deliver, by name: a `TapSpec`, or for stages a list of them.

    If the network is available, it also gives the constants that some methods read. After loading from a file there is
    no network; the file then contains what the methods computed from the constants.

    Args:
        specs: by the tap's name.
        constants: those of the network; `None` if it is not available or has no graph that can be replayed.
        class_order: for each class its position among the network's classes; `None` for the same order.
    """

    def __init__(
        self, specs: Mapping[str, Any], constants: Constants | None = None, class_order: list[int] | None = None
    ):
        super().__init__(specs)
        self._constants = constants
        self._class_order = class_order

    @property
    def shapes(self) -> dict[str, Any]:
        """The shape of each tap without the batch dimension, or a list of shapes for stages."""
        return {
            tap: [part.shape[1:] for part in spec] if isinstance(spec, list) else spec.shape[1:]
            for tap, spec in self.items()
        }

    def get_config(self) -> dict[str, list]:
        """The specifications in plain values: `[layer, shape]` by tap, or a list of these for stages. The logits also
        have their activation if it is known.

        >>> Specs({"logits": TapSpec("head", (None, 10))}).get_config()
        {'logits': ['head', [None, 10]]}
        """

        def as_entry(spec: TapSpec) -> list:
            return [spec.layer, list(spec.shape), *([spec.activation] if spec.activation else [])]

        return {
            tap: [as_entry(part) for part in spec] if isinstance(spec, list) else as_entry(spec)
            for tap, spec in self.items()
        }

    @classmethod
    def from_config(cls, config: Mapping[str, list], constants: Constants | None = None) -> Specs:
        """The specifications from their form in plain values.

        Args:
            config: as `get_config` returns it, also after a round trip through JSON.
            constants: those of the network; `None` if there are none.

        >>> Specs.from_config({"stages": [["conv1", [None, 8, 8, 4]]]})
        {'stages': [TapSpec(layer='conv1', shape=(None, 8, 8, 4), activation='')]}
        """

        def as_spec(entry: list) -> Any:
            if isinstance(entry[0], str):
                return TapSpec(entry[0], tuple(entry[1]), *entry[2:])
            return [as_spec(part) for part in entry]

        return cls({tap: as_spec(entry) for tap, entry in config.items()}, constants)

    def reordered(self, class_order: list[int] | None) -> Specs:
        """The same specifications with another order of the classes."""
        return Specs(self, self._constants, class_order)

    def classifier(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The kernel `(D, K)` and the bias `(K,)` from embedding to logits, float32; `None` without a network.

        Raises:
            ValueError: if the logits are not one linear layer of the embedding.
        """
        if self._constants is None:
            return None
        kernel, bias = self._constants.classifier_weights()
        if self._class_order is not None and kernel.shape[-1] == 1:  # one unit z is (0, z)
            kernel, bias = np.pad(kernel, ((0, 0), (1, 0))), np.pad(bias, (1, 0))
        order = slice(None) if self._class_order is None else self._class_order
        return kernel[:, order], bias[order]

    def class_centers(self) -> np.ndarray | None:
        """The direction `(D, K)` of each class in the space of the embedding, float32; `None` without a network.

        Raises:
            ValueError: if the classifier is neither linear nor one that compares angles.
        """
        if self._constants is None:
            return None
        return self._constants.class_centers()[:, slice(None) if self._class_order is None else self._class_order]

    def batch_norms(self, tap: str) -> list[tuple[np.ndarray, ...]] | None:
        """The scale and the offset `(C,)` of the BatchNorm that returns each map of a tap; `None` without a network.

        For a map that is a sum, they are those of the BatchNorm that ends the longest branch.

        Raises:
            ValueError: if a map does not come from a BatchNorm.
        """
        if self._constants is None:
            return None
        return self._constants.batch_norms(tap)

    def layer(self, tap: str) -> keras.layers.Layer | None:
        """The network's own layer that returns a tap of one tensor; `None` without a network."""
        return None if self._constants is None else self._constants.layer(tap)

    def between(self, inputs: Sequence[str], outputs: Sequence[str]) -> Callable[[list], list] | None:
        """A function from the tensors of some taps to those of others, by the network's own layers in inference.

        Args:
            inputs: taps of one tensor each, which the outputs depend on and nothing else.
            outputs: taps of one tensor each.

        Returns:
            `None` without a network.
        """
        return None if self._constants is None else self._constants.between(inputs, outputs)
