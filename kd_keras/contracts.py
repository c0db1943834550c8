"""The types that every room shares: a batch, a network's outputs, a step, the specification of a tap.

Nothing here computes. `as_batch` makes a batch of what Keras passes to a training step; a network's outputs travel as
`Outputs`, a dictionary of taps by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import keras

# Keys of the dictionary that a dataset may give as `x`. A dataset that needs none of them gives the images as `x`.
INPUTS = "kd_inputs"  # the student's inputs, unless the other keys of `x` are the names of its inputs
INDEX = "kd_index"  # (B,) integer: the example's number in its dataset, the same in every epoch
RECORDED = "kd_recorded"  # dict from tap name to tensor: a teacher's outputs, read from disk

IGNORED = -1  # in a mask of classes, the label of a position that belongs to no class and takes part in no loss

Tensor: TypeAlias = Any  # a tensor of the back end, a KerasTensor or a NumPy array
Taps: TypeAlias = Mapping[str, "Tensor | list[Tensor]"]


class Batch(NamedTuple):
    """One batch of a step.

    Attributes:
        inputs: what the student reads: a tensor `(B, ...)` or a structure of them; images are float32 from 0 to 255.
        label: `(B,)` integer classes or `(B, K)` probabilities, `(B, ...)` or `(B, ..., K)` for logits with positions,
            any structure that the compiled loss takes, or `None`.
        weight: float sample weights `(B,)`, `(B, ...)` for positions, or `None` for all ones.
        index: `(B,)` integer example numbers, or `None`.
        recorded: a recorded teacher's outputs by tap name, or `None`.
    """

    inputs: Any
    label: Any = None
    weight: Any = None
    index: Any = None
    recorded: Any = None


class Step(NamedTuple):
    """The progress of training: `number` of updates and `epoch`, both from 0, scalar int tensors."""

    number: Any
    epoch: Any


class Outputs(dict):
    """A network's outputs by tap name; `"stages"` is a list of maps `(B, H, W, C)`, every other tap one tensor.

    Several teachers give their combined logits in the dictionary, and the outputs of each of them in `members`. For a
    single network, `members` is empty.
    """

    def __init__(self, taps: Taps | Iterable = (), members: Iterable[Outputs] = ()):
        super().__init__(taps)
        self.members = tuple(members)


class TapSpec(NamedTuple):
    """What a tap delivers.

    Attributes:
        layer: the path of the layer whose output it reads, such as `"backbone/conv4_out"`.
        shape: `(None, ...)`, with `None` for every dimension of unknown size.
        activation: of the tap "logits", what the network makes of them: "softmax", "sigmoid", "linear" if it returns
            them, or "" if that is unknown.
    """

    layer: str
    shape: tuple
    activation: str = ""


def as_batch(data: Any) -> Batch:
    """Makes a `Batch` of what Keras passes to a step.

    Args:
        data: `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`; x is what the student reads, or a dictionary with the
            keys `INPUTS`, `INDEX` and `RECORDED`.

    Raises:
        ValueError: if a dictionary with `INDEX` or `RECORDED` has no inputs.

    >>> as_batch(({"kd_inputs": [[1.0]], "kd_index": [7]}, [0])).index
    [7]
    """
    x, label, weight = keras.utils.unpack_x_y_sample_weight(data)
    if not isinstance(x, Mapping) or not {INPUTS, INDEX, RECORDED} & set(x):
        return Batch(x, label, weight)
    inputs = {key: value for key, value in x.items() if key not in (INPUTS, INDEX, RECORDED)}
    if INPUTS not in x and not inputs:
        raise ValueError(
            f"Expected a batch with the student's inputs under the key {INPUTS!r}, but received a dictionary with the "
            f"keys {sorted(x)}. Add the images to it."
        )
    recorded = x.get(RECORDED)
    if recorded is not None:  # tf.data has no lists: a tap's several maps come as a tuple
        recorded = {tap: list(maps) if isinstance(maps, tuple) else maps for tap, maps in recorded.items()}
    return Batch(x.get(INPUTS, inputs), label, weight, x.get(INDEX), recorded)
