"""Recognizes networks that return probabilities where logits are expected, by the values of their outputs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

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
        specs: of the logits of each network, or of a single one; `None` if it delivers none. A network whose activation
            is known is not checked.

    >>> import numpy as np
    >>> check = OutputCheck("teacher", TapSpec("model", (None, 2)))
    >>> check.add(Outputs({"logits": np.array([[0.5, 0.5], [1.0, 0.0]])}))
    >>> check.kinds
    ['softmax']
    """

    def __init__(self, owner: str, specs: TapSpec | None | Sequence[TapSpec]):
        self.owner = owner
        self.specs: list[TapSpec] = [] if specs is None else [specs] if isinstance(specs, TapSpec) else list(specs)
        self.kinds: list[str | None] = ["" if spec.activation else None for spec in self.specs]

    @property
    def is_needed(self) -> bool:
        """Whether more batches can change the result."""
        return any(kind != "" for kind in self.kinds)

    def add(self, outputs: Outputs) -> None:
        """Looks at the logits of one batch; of several networks at those of each."""
        members = outputs.members or (outputs,)
        if not self.is_needed or len(members) != len(self.kinds):
            return
        for number, (earlier, member) in enumerate(zip(self.kinds, members, strict=True)):
            kind = recognize_probabilities(member["logits"]) if earlier != "" else ""
            self.kinds[number] = kind if earlier in (None, kind) else ""

    def warn(self) -> None:
        """Warns of the first network whose batches all looked alike."""
        alike = [(spec, kind) for spec, kind in zip(self.specs, self.kinds, strict=True) if kind]
        if not alike:
            return
        spec, kind = alike[0]
        values, remedy = KINDS[kind]
        warnings.warn(
            f"Expected logits from the {self.owner} (layer {spec.layer!r}), but received what looks like the "
            f"probabilities of a {kind}: {values} in the first examples. The methods apply another softmax to "
            f"them, and their losses are wrong. Let the network return its logits, or pass keras.Model(x, {remedy}).",
            stacklevel=2,
        )
