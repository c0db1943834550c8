"""Prints the methods: family, taps, the parameters of their adapters for a pair of networks, default weight and the
hard loss's beside it as published, paper.

    python -m experiments.methods
    python -m experiments.methods --teacher=resnet32x4 --student=resnet8x4
"""

from collections.abc import Iterator

import keras
from absl import app, flags

from experiments import arguments, devices
from kd_keras import Distiller, models
from kd_keras.methods import Method
from kd_keras.methods.listing import COLUMNS, describe_kind, list_kinds

FLAGS = flags.FLAGS
devices.define_place()
flags.adopt_module_key_flags(devices)
flags.DEFINE_string("teacher", "wrn_40_2", "The pair's teacher, a model of the zoo.")
flags.DEFINE_string("student", "wrn_40_1", "The pair's student.")
flags.DEFINE_list("image_size", ["32", "32"], "Height,width of the images, in pixels.")
flags.DEFINE_integer("classes", 100, "Number of classes.", lower_bound=2)


def main(_: list[str]) -> None:
    arguments.quiet()
    if not devices.chief_alone():
        return
    print(f"Adapters' trainable parameters for {FLAGS.teacher} and {FLAGS.student}, {FLAGS.classes} classes.\n")
    columns = [*COLUMNS[:4], "adapters", *COLUMNS[4:]]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for kind in list_kinds():
        cells = describe_kind(kind)
        print("| " + " | ".join([*cells[:4], adapters(kind), *cells[4:]]) + " |", flush=True)
        keras.backend.clear_session()


def adapters(kind: type[Method]) -> str:
    """How many trainable parameters a method adds to the pair's student while it is taught, or why it does not fit.

    A student that a method does not fit is tried once more with a classifier at each stage.
    """
    reason = ""
    for name in (FLAGS.student, f"multi_exit/{FLAGS.student}"):
        size = arguments.integers("image_size", 2)
        teacher, student = (models.build(each, (*size, 3), FLAGS.classes) for each in (FLAGS.teacher, name))
        before = count(student.trainable_variables)
        method = kind()
        try:
            student = method.student_from(student, teacher)
            Distiller(student=student, teacher=teacher, methods=[method])
        except ValueError as error:
            reason = reason or str(error)
        else:
            return f"{count(method.trainable_variables) + max(count(student.trainable_variables) - before, 0):,}"
    return reason


def count(variables: Iterator) -> int:
    return sum(int(keras.ops.size(variable)) for variable in variables)


if __name__ == "__main__":
    app.run(main)
