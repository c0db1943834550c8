"""Recognizes networks that return probabilities where logits are expected, by the values of their outputs."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from kd_keras.contracts import Outputs, TapSpec
from kd_keras.networks.heads import recognize_probabilities

KINDS = {
    "softmax": ("every row is non-negative and has the same sum", "keras.ops.log(keras.ops.maximum(network(x), 1e-7))"),
    "sigmoid": ("every value is from 0 to 1", "-keras.ops.log(1 / keras.ops.clip(network(x), 1e-7, 1 - 1e-7) - 1)"),
}


class OutputCheck:
    """Warns if what a network delivers as logits looks like probabilities in all batches that are added.

    A softmax or sigmoid within a subclassed model, a Lambda layer or a SavedModel is seen by no look at the layers.

    Args:
        owner: "teacher" or "student".
        spec: of the network's logits, or `None` if it delivers none. If their activation is known, nothing is checked.

    >>> check = OutputCheck("teacher", TapSpec("model", (None, 2)))
    >>> check.add(Outputs({"logits": np.array([[0.5, 0.5], [1.0, 0.0]])}))
    >>> check.kind
    'softmax'
    """

    def __init__(self, owner: str, spec: TapSpec | None):
        self.owner, self.spec = owner, spec
        self.kind: str | None = None if spec is not None and not spec.activation else ""

    @property
    def is_needed(self) -> bool:
        """Whether more batches can change the result."""
        return self.kind != ""

    def add(self, outputs: Outputs) -> None:
        """Looks at the logits of one batch; of several networks at those of each."""
        if not self.is_needed:
            return
        kinds = {recognize_probabilities(_as_array(member["logits"])) for member in outputs.members or (outputs,)}
        kind = kinds.pop() if len(kinds) == 1 else ""
        self.kind = kind if self.kind in (None, kind) else ""

    def warn(self) -> None:
        """Warns if all batches looked alike."""
        if not self.kind or self.spec is None:
            return
        values, remedy = KINDS[self.kind]
        warnings.warn(
            f"Expected logits from the {self.owner} (layer {self.spec.layer!r}), but received what looks like the "
            f"probabilities of a {self.kind}: {values} in the first examples. The methods apply another softmax to "
            f"them, and their losses are wrong. Let the network return its logits, or pass keras.Model(x, {remedy}).",
            stacklevel=2,
        )


def _as_array(logits: Any) -> np.ndarray:
    return np.asarray(logits, "float32")
