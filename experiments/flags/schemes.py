"""Flags of the schemes: which scheme, and the settings that only some of them have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from absl import flags

from experiments.flags import teacher
from experiments.flags.program import given
from kd_keras import schemes
from kd_keras.runs.parsing import parse_weight

FLAGS = flags.FLAGS
# By scheme, its function and its flags among those below.
SCHEMES: dict[str, tuple[Callable[..., schemes.Outcome], tuple[str, ...]]] = {
    "assistants": (
        schemes.distill_by_assistants,
        ("student", "teacher", "assistant", "dense", "method", "hard_weight"),
    ),
    "born_again": (schemes.train_generations, ("student", "generations", "method", "hard_weight")),
    "virtual_teacher": (schemes.train_with_virtual_teacher, ("student", "accuracy", "share")),
    "past_student": (schemes.train_with_past_student, ("student", "alpha")),
    "mean_teacher": (schemes.train_with_mean_teacher, ("student", "decay", "consistency", "rampup_epochs")),
    "mutual": (schemes.train_peers, ("peer", "teacher", "teacher_weight", "temperature")),
}
PLURALS = {
    "assistant": "assistants",
    "peer": "peers",
    "method": "methods",
}  # of the flags that may be repeated
NUMBERS = {
    "accuracy": "The probability that the virtual teacher gives to the true class.",
    "share": "The share of the virtual teacher in the loss.",
    "alpha": "The weight of the past student's predictions in the last epoch.",
    "decay": "The decay of the average of the student's weights.",
    "consistency": "The weight of the average's predictions.",
    "teacher_weight": "The weight of the teacher's predictions for peers that have a teacher.",
    "temperature": "The temperature of the peers' predictions.",
}


def define_schemes() -> None:
    """Defines the flags of all schemes."""
    flags.DEFINE_enum("scheme", None, list(SCHEMES), "The scheme.", required=True)
    text = "A model of the zoo between teacher and student; by default they halve in size"
    flags.DEFINE_multi_string("assistant", None, text)
    flags.DEFINE_multi_string("peer", None, "One of the models of the zoo that learn from each other")
    flags.DEFINE_boolean("dense", None, "Each assistant and the student learn from all networks before them.")
    flags.DEFINE_integer("generations", None, "Number of generations after generation 0.", lower_bound=1)
    flags.DEFINE_integer("rampup_epochs", None, "Epochs in which the weight of the average grows.", lower_bound=0)
    flags.DEFINE_multi_string("method", None, "A method of every distillation, such as 'kd(temperature=4, weight=0.9)'")
    flags.DEFINE_string("hard_weight", None, "Weight of the loss on the labels in every distillation.")
    for name, text in NUMBERS.items():
        flags.DEFINE_float(name, None, text)


def scheme_options() -> dict[str, Any]:
    """The options of the chosen scheme that are set.

    Raises:
        ValueError: if a flag of another scheme is set.
    """
    names = SCHEMES[FLAGS.scheme][1]
    own = sorted({flag for _, flags_of_scheme in SCHEMES.values() for flag in flags_of_scheme})
    options = {name: given(name) for name in own if given(name) is not None}
    for name in options.keys() - set(names):
        raise ValueError(f"--scheme={FLAGS.scheme} has the flags --{', --'.join(names)}, but received --{name}.")
    if "student" in names:
        options["student"] = FLAGS.student
    options = ({"peer": []} if "peer" in names else {}) | options
    if given("weights") is not None:
        options["weights"] = given("weights")
    if "teacher" in names:
        options |= {name: value for name, value in teacher.teacher_options().items() if given(name) is not None}
        teachers = options.get("teacher") or [None]
        options["teacher"] = teachers[0] if len(teachers) == 1 else teachers
    elif unused := [name for name in teacher.teacher_options() if given(name) is not None]:
        raise ValueError(f"--scheme={FLAGS.scheme} has no teacher, but received --{', --'.join(unused)}.")
    if "hard_weight" in options:
        options["hard_weight"] = parse_weight(options["hard_weight"], "--hard_weight")
    return {PLURALS.get(name, name): value for name, value in options.items()}
