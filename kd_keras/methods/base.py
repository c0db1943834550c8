"""The base classes of the methods: a method names the taps it reads from student and teacher, and returns a loss."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import keras

from kd_keras.contracts import Batch, Outputs, Step, TapSpec, Tensor
from kd_keras.errors import explain_mismatch, shorten
from kd_keras.methods.labels import check_same_classes, check_same_positions, refuse_binary
from kd_keras.methods.schedules import Weight, as_weight, deserialize_weight, serialize_weight
from kd_keras.networks.specs import Specs
from kd_keras.private_api import allow_structured_inputs


class Taps(NamedTuple):
    """The taps that a method reads on each side: `"logits"`, `"embedding"`, `"stages"`, `"stages:pre"`, `"stages[1]"`,
    or a layer's path such as `"backbone/conv4_out"`."""

    student: tuple[str, ...] = ("logits",)
    teacher: tuple[str, ...] = ("logits",)


class MethodOptions(TypedDict, total=False):
    """The arguments that every method takes. A constructor with hyper-parameters passes them on as `**options`."""

    weight: Weight | None
    name: str | None


class TapPairOptions(MethodOptions, total=False):
    """The arguments that every method with a choice of taps takes."""

    student_tap: str | Sequence[str] | None
    teacher_tap: str | Sequence[str] | None


def _signature(cls: type[Method]) -> inspect.Signature:
    """The constructor's parameters, with those that it passes on as `**options` and the defaults of the class."""
    parameters: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        of_base = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        parameters |= {p.name: p for p in of_base if p.kind is not p.VAR_KEYWORD and p.name not in parameters}
        if not any(p.kind is p.VAR_KEYWORD for p in of_base):
            break
    defaults = {"weight": cls.default_weight, "student_tap": cls.taps.student, "teacher_tap": cls.taps.teacher}
    for name, default in defaults.items():
        if name in parameters and parameters[name].default is None:
            parameters[name] = parameters[name].replace(default=default)
    return inspect.Signature(list(parameters.values()))


class Method(keras.layers.Layer):
    """Base class of all methods.

    A method sets the class attributes below, may create adapters in `bind`, and returns its loss in `call`: shape
    `(B,)`, `(B, ...)` if it has a value for each position, or `()` if it couples examples, in float32 under every dtype
    policy, before the weight. The Distiller takes care of averaging, replicas and loss scaling. A method that couples
    examples sees the slice of the batch on its replica, or, with `across_replicas`, the global batch, for which it
    returns `()`.

    A method with hyper-parameters of its own defines a constructor that passes all other arguments on:

    >>> class Scaled(Method):
    ...     default_weight = 0.5
    ...     def __init__(self, *, scale: float = 2.0, **options):
    ...         super().__init__(**options)
    ...         self.scale = scale
    >>> print(inspect.signature(Scaled))
    (*, scale: 'float' = 2.0, weight: 'Weight | None' = 0.5, name: 'str | None' = None)

    Args:
        weight: the factor of the loss: a number, numbers by the first epoch in which they apply (`{0: 1.0, 30: 0.0}`),
            a Keras learning-rate schedule over the number of updates, or a function of the `Step`. The default is the
            class attribute `default_weight`.
        name: the name of the loss in the log. The default is the name of the class in lower case.

    Raises:
        TypeError: if `weight` is not one of these.
        ValueError: if a number is not finite, or if the epochs do not start at 0.

    Attributes:
        family: the kind of method in the list of methods: "logits", "features", "relations", "dense", ...
        paper: authors and year, then the arXiv number or the venue.
        taps: what the method reads by default.
        default_weight: the published weight of the loss, or 1 if none was published.
        published_hard_weight: the weight of the hard loss in the setting that `default_weight` was published for.
        across_replicas: whether the method gets the global batch, the taps and labels of all replicas concatenated.
        allows_positions: whether logits may be `(B, ..., K)`, a prediction for each position, and not only `(B, K)`.
        least_examples: the smallest batch for which the loss of a method that compares examples is not constant.
        weighs_examples: whether a loss `()` already contains the sample weights of the batch.
        needs_index: whether the method reads `batch.index`.
        supports_binary: whether the method also has a loss for units with a sigmoid each. After `bind`, `is_binary`
            says whether the logits are such units; before, only an argument such as `binary=True` does.
        nonfinite_advice: what to check if the loss is not finite, besides the learning rate; for the error message.
        trains_student: whether the loss has a gradient for the student, not only for adapters of a first stage.
    """

    family = ""
    paper = ""
    taps = Taps()
    default_weight = 1.0
    published_hard_weight = 1.0
    across_replicas = False
    allows_positions = True
    least_examples = 1
    weighs_examples = False
    needs_index = False
    supports_binary = False
    is_binary = False
    nonfinite_advice = ""
    trains_student = True

    def __init__(self, *, weight: Weight | None = None, name: str | None = None):
        super().__init__(name=name or type(self).__name__.lower(), dtype="float32", autocast=False)
        self.weight = self.default_weight if weight is None else weight
        allow_structured_inputs(self)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.__signature__ = _signature(cls)

    @property
    def weight(self) -> Weight:
        """The factor of the loss; a new one holds from the next epoch on, or from the next call of a Distiller."""
        return self._weight

    @weight.setter
    def weight(self, weight: Weight) -> None:
        self._weight = as_weight(type(self).__name__, "weight", weight)

    def student_from(self, student: keras.Model, teacher: keras.Model | None) -> keras.Model:
        """The model that this method trains, for most methods the student itself; `teacher` may be `None`."""
        return student

    def bind(self, student: Specs, teacher: Specs) -> None:
        """Builds the variables of the method, once, from the specifications of the taps.

        Raises:
            ValueError: if the taps do not fit the method; the message names both layers and both shapes.
        """
        self.check_heads(student, teacher)
        self.built = True

    def check_heads(self, student: Specs, teacher: Specs) -> None:
        """Checks that the logits of both sides fit the method, and notes in `is_binary` of which kind they are.

        Raises:
            ValueError: if the classes differ, or the method has no loss for sigmoid units.
        """
        if "logits" in self.taps.student and "logits" in self.taps.teacher:
            self.is_binary = check_same_classes(student["logits"], teacher["logits"])
            check_same_positions(self.name, student["logits"], teacher["logits"])
            if self.is_binary and not self.supports_binary:
                raise ValueError(refuse_binary(self.name, student["logits"], teacher["logits"]))
        if not isinstance(self.across_replicas, bool):
            received = f"{shorten(self.across_replicas)} for method {self.name!r}"
            raise TypeError(explain_mismatch("across_replicas=True or False", received))

    def check_batch(self, batch: Batch) -> None:
        """Checks the values of one of the first batches, before training.

        Raises:
            ValueError: if the method cannot use them.
        """

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        """The loss `(B,)`, `(B, ...)` or `()` of one batch, float32, before the weight."""
        raise NotImplementedError(f"{type(self).__name__} does not define call(student, teacher, batch, step).")

    def get_config(self) -> dict[str, Any]:
        """All arguments of the constructor; each method keeps them as attributes of the same names."""
        arguments = {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
        return {**arguments, "weight": serialize_weight(self.weight)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Method:
        return cls(**{**config, "weight": deserialize_weight(config["weight"])})


class TapPairMethod(Method):
    """Base class of the methods whose taps the user may choose: one or several taps, as many for both sides.

    Args:
        student_tap: the name of a tap, or several names; `"stages"` names the maps of all stages.
        teacher_tap: the taps that they follow, in the same order.
        weight: the factor of the loss, as for every method.
        name: the name of the loss in the log.
    """

    def __init__(
        self,
        *,
        student_tap: str | Sequence[str] | None = None,
        teacher_tap: str | Sequence[str] | None = None,
        weight: Weight | None = None,
        name: str | None = None,
    ):
        super().__init__(weight=weight, name=name)
        default, chosen = type(self).taps, (student_tap, teacher_tap)
        self.taps = Taps(*(_as_names(taps) or names for taps, names in zip(chosen, default, strict=True)))
        self.student_tap, self.teacher_tap = self.taps

    def pairs(
        self, student: Specs, teacher: Specs, rank: int | None = None, sized: bool = True
    ) -> list[tuple[TapSpec, TapSpec]]:
        """The specifications of the taps of both sides, pair by pair.

        Args:
            student: the specifications of the student.
            teacher: the specifications of the teacher.
            rank: 4 if the taps must be maps `(B, H, W, C)`, 2 if they must be vectors `(B, D)`.
            sized: whether maps must have a fixed size.

        Raises:
            ValueError: if the numbers of taps differ, or if a tap has another rank or no fixed size.
        """
        specs = _flatten_taps(student, self.taps.student), _flatten_taps(teacher, self.taps.teacher)
        received = f"student {_describe(specs[0])} and teacher {_describe(specs[1])}"
        if len(specs[0]) != len(specs[1]):
            expected = f"as many taps of the student as of the teacher for method {self.name!r}"
            names = _flat_names(student, self.taps.student), _flat_names(teacher, self.taps.teacher)
            advice = f"pass {_suggest_taps(*names, *specs)}"
            raise ValueError(explain_mismatch(expected, received, advice))
        if rank and any(len(spec.shape) != rank for spec in (*specs[0], *specs[1])):
            kind = {4: "maps (B, H, W, C)", 2: "vectors (B, D)"}[rank]
            advice = {
                4: 'tap stages, for example "stages[1]", or use FitNet for vectors and tokens',
                2: 'tap "embedding" or "logits"',
            }[rank]
            raise ValueError(explain_mismatch(f"{kind} for method {self.name!r}", received, advice))
        if rank == 4 and sized and any(None in spec.shape[1:] for spec in (*specs[0], *specs[1])):
            advice = "build both networks with a fixed input_shape"
            raise ValueError(explain_mismatch(f"maps of known size for method {self.name!r}", received, advice))
        return list(zip(*specs, strict=True))

    def pair(self, student: Specs, teacher: Specs, rank: int | None = None) -> tuple[TapSpec, TapSpec]:
        """Like `pairs`, for a method that compares one tap of the student with one tap of the teacher.

        Raises:
            ValueError: also if there are several taps.
        """
        pairs = self.pairs(student, teacher, rank)
        if len(pairs) != 1:
            expected = f"one tap of each side for method {self.name!r}"
            raise ValueError(explain_mismatch(expected, f"{len(pairs)} taps", 'name one, such as "stages[-1]"'))
        return pairs[0]

    def tensors(self, student: Outputs, teacher: Outputs) -> tuple[list[Tensor], list[Tensor]]:
        """The tensors of the taps of both sides, in the order of `pairs`."""
        return _flatten_taps(student, self.taps.student), _flatten_taps(teacher, self.taps.teacher)


def _as_names(taps: str | Sequence[str] | None) -> tuple[str, ...]:
    names = (taps,) if isinstance(taps, str) else () if taps is None else taps
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise TypeError(
            explain_mismatch("the name of a tap, or a list of names, as student_tap or teacher_tap", shorten(taps))
        )
    return tuple(names)


def _flatten_taps(side: Mapping[str, Any], taps: tuple[str, ...]) -> list:
    """The values of some taps in one list; `"stages"` is a list of its own."""
    return [value for tap in taps for value in (side[tap] if isinstance(side[tap], list) else [side[tap]])]


def _flat_names(side: Mapping[str, Any], taps: tuple[str, ...]) -> list[str]:
    """A name for each value in `_flatten_taps`: `"stages[0]"`, `"stages[1]"`, ... for `"stages"`."""
    counts = {tap: len(side[tap]) if isinstance(side[tap], list) else None for tap in taps}
    return [name for tap, n in counts.items() for name in ([tap] if n is None else [f"{tap}[{i}]" for i in range(n)])]


def _suggest_taps(
    student_names: list[str], teacher_names: list[str], student: list[TapSpec], teacher: list[TapSpec]
) -> str:
    """As many taps of the student as of the teacher: those of equal size, or else the deepest of each."""
    sizes = [[spec.shape[1:-1] for spec in specs] for specs in (student, teacher)]
    pairs, begin = [], 0
    for index, size in enumerate(sizes[0]):
        if size in sizes[1][begin:]:
            begin += sizes[1][begin:].index(size) + 1
            pairs.append((student_names[index], teacher_names[begin - 1]))
    count = min(len(student), len(teacher))
    chosen = list(zip(*pairs, strict=True)) if pairs else [student_names[-count:], teacher_names[-count:]]
    texts = [f'"{taps[0]}"' if len(taps) == 1 else f"({', '.join(f'{tap!r}' for tap in taps)})" for taps in chosen]
    return f"student_tap={texts[0]} and teacher_tap={texts[1]}".replace("'", '"')


def _describe(specs: list[TapSpec]) -> str:
    return ", ".join(f"{spec.layer!r} {spec.shape}" for spec in specs)
