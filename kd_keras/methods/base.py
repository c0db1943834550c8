"""What a method is: a layer that says which taps it wants of student and teacher, and returns a loss."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras

from kd_keras.contracts import Batch, Outputs, Step, TapSpec, Tensor
from kd_keras.errors import explain_mismatch
from kd_keras.methods.labels import check_same_classes
from kd_keras.methods.schedules import Weight, as_weight, deserialize_weight, serialize_weight
from kd_keras.networks.taps import Specs


class Taps(NamedTuple):
    """The taps that a method wants of each side: `"logits"`, `"embedding"`, `"stages"`, `"stages:pre"`,
    `"stages[1]"`, or a layer's path such as `"backbone/conv4_out"`."""

    student: tuple[str, ...] = ("logits",)
    teacher: tuple[str, ...] = ("logits",)


class Method(keras.layers.Layer):
    """Base of all methods.

    A method sets `taps`, may create adapters in `bind`, and returns in `call` a loss of shape `(B,)`, or `()` where it
    couples examples, before its weight. It computes in float32 under any dtype policy. It knows nothing of replicas,
    loss scaling or averaging: the Distiller does these. One that couples examples sees its replica's part of the batch,
    or with `across_replicas` the whole, and then returns `()`.

    Args:
        weight: what the loss is multiplied by: a number, numbers by the epoch from which they hold
            (`{0: 1.0, 30: 0.0}`), a Keras learning-rate schedule of the update's number, or a function of the `Step`.
        name: how the term is logged; by default the class's name in lower case.

    Raises:
        TypeError: where `weight` is none of these.
        ValueError: where a number is not finite, or epochs do not begin with 0.
    """

    family = ""  # of which kind it is, for the list of methods: "logits", "features", "relations", "dense", ...
    taps = Taps()
    across_replicas = False  # whether it is given the global batch: taps and labels of all replicas, one after another
    needs_index = False  # whether it needs `batch.index`
    trains_student = True  # whether it teaches the student, and not an adapter of a first stage alone
    published_hard_weight = 1.0  # the hard loss's weight in the setting that the default weight was published for

    def __init__(self, *, weight: Weight = 1.0, name: str | None = None):
        super().__init__(name=name or type(self).__name__.lower(), dtype="float32", autocast=False)
        self.weight = as_weight(type(self).__name__, "weight", weight)
        self._allow_non_tensor_positional_args = True  # Keras's word for a call of dictionaries of tensors

    def student_from(self, student: keras.Model, teacher: keras.Model | None) -> keras.Model:
        """The student that this method trains, made of the one that was chosen; for most methods that one itself."""
        return student

    def bind(self, student: Specs, teacher: Specs) -> None:
        """Builds what the method owns, once, from what the taps will deliver.

        Raises:
            ValueError: where the taps do not fit the method: both layers, both shapes, the nearest remedy.
        """
        if "logits" in self.taps.student and "logits" in self.taps.teacher:
            check_same_classes(student["logits"], teacher["logits"])
        self.built = True

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        """The loss `(B,)` or `()` of one batch, float32, before the weight."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Every argument of the constructor, which each method keeps under the argument's name."""
        own = {argument: getattr(self, argument) for argument in inspect.signature(type(self)).parameters}
        return {**own, "weight": serialize_weight(self.weight)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Method:
        return cls(**{**config, "weight": deserialize_weight(config["weight"])})


class TapPairMethod(Method):
    """Base of the methods whose taps the user may choose: one or several a side, as many on both.

    Args:
        student_tap: the name of a tap, or several; `"stages"` are as many as there are stages.
        teacher_tap: what they follow, in the same order.
        weight: as for every method.
        name: the term's name in the log.
    """

    def __init__(
        self,
        *,
        student_tap: str | Sequence[str],
        teacher_tap: str | Sequence[str],
        weight: Weight = 1.0,
        name: str | None = None,
    ):
        super().__init__(weight=weight, name=name)
        self.taps = Taps(*(((tap,) if isinstance(tap, str) else tuple(tap)) for tap in (student_tap, teacher_tap)))
        self.student_tap, self.teacher_tap = self.taps

    def pairs(
        self, student: Specs, teacher: Specs, rank: int | None = None, sized: bool = True
    ) -> list[tuple[TapSpec, TapSpec]]:
        """What the taps of both sides will deliver, pair by pair.

        Args:
            student: the student's specifications.
            teacher: the teacher's.
            rank: 4 where they must be maps `(B, H, W, C)`, 2 where they must be vectors `(B, D)`.
            sized: whether maps must be of known size.

        Raises:
            ValueError: where the two sides have different numbers of taps, or one is of another rank or of free size.
        """
        ours, theirs = (_listed(side, taps) for side, taps in zip((student, teacher), self.taps))
        came = f"student {_shown(ours)}; teacher {_shown(theirs)}"
        if len(ours) != len(theirs):
            remedy = "name as many of each: student_tap=(...), teacher_tap=(...), such as the stages of equal size"
            raise ValueError(explain_mismatch(f"as many taps of both for {self.name!r}", came, remedy))
        kind = {4: "maps (B, H, W, C)", 2: "vectors (B, D)"}
        if rank and any(len(spec.shape) != rank for spec in ours + theirs):
            remedy = {4: 'tap stages, such as "stages[1]"', 2: 'tap "embedding" or "logits"'}[rank]
            raise ValueError(explain_mismatch(f"{kind[rank]} for {self.name!r}", came, remedy))
        if rank == 4 and sized and any(None in spec.shape[1:] for spec in ours + theirs):
            remedy = "build both networks with a fixed input_shape"
            raise ValueError(explain_mismatch(f"maps of known size for {self.name!r}", came, remedy))
        return list(zip(ours, theirs))

    def pair(self, student: Specs, teacher: Specs, rank: int | None = None) -> tuple[TapSpec, TapSpec]:
        """As `pairs`, for a method that compares one tap of each side.

        Raises:
            ValueError: also where there are several.
        """
        pairs = self.pairs(student, teacher, rank)
        if len(pairs) != 1:
            raise ValueError(explain_mismatch(f"one tap of each side for {self.name!r}", f"{len(pairs)} of each", "name one"))
        return pairs[0]

    def tensors(self, student: Outputs, teacher: Outputs) -> tuple[list[Tensor], list[Tensor]]:
        """The tensors of the taps of both sides, in the order of `pairs`."""
        return tuple(_listed(side, taps) for side, taps in zip((student, teacher), self.taps))


def _listed(side: Mapping[str, Any], taps: tuple[str, ...]) -> list:
    """What one side has for some taps, one after the other; `"stages"` is a list of its own."""
    return [each for tap in taps for each in (side[tap] if isinstance(side[tap], list) else [side[tap]])]


def _shown(specs: list[TapSpec]) -> str:
    return ", ".join(f"{spec.layer!r} {spec.shape}" for spec in specs)



def agreed_hard_weight(methods: Sequence[Method]) -> tuple[float, str]:
    """The published weight of the hard loss if all methods agree on it, else 1, and a reason."""
    values = {method.name: method.published_hard_weight for method in methods}
    if not values:
        return 1.0, "no method changes the weight of the hard loss"
    if len(set(values.values())) == 1:
        return float(next(iter(values.values()))), f"published with {', '.join(values)}"
    differing = ", ".join(f"{name} {value:g}" for name, value in values.items())
    return 1.0, f"the published values differ ({differing})"
