"""Runs a scheme made of several trainings. The same command resumes it.

    python -m experiments.scheme --scheme=assistants --teacher=runs/resnet56 --assistant=resnet32 \\
        --assistant=resnet14 --student=resnet8 --data=cifar10 --run=runs/assistants

Every file of kd_keras/schemes has the paper of a scheme and its command. The runs are in the directory --run, and one
line for each of them is printed at the end.
"""

from absl import flags

from experiments.flags import data, devices, teacher, training
from experiments.flags.program import given, recipe_options, run_program
from kd_keras import schemes
from kd_keras.runs.parsing import parse_weight

FLAGS = flags.FLAGS
data.define_data()
data.define_views()
training.define_model("student", "resnet8")
training.define_training()
teacher.define_teacher()
devices.define_devices()
devices.define_survival()
for group in (data, training, teacher, devices):
    flags.adopt_module_key_flags(group)
# By scheme, its function and the flags that only some schemes have.
SCHEMES = {
    "assistants": (schemes.distill_by_assistants, ("teacher", "assistant", "dense", "method", "hard_weight")),
    "born_again": (schemes.train_generations, ("generations", "method", "hard_weight")),
}
PLURALS = {"assistant": "assistants", "method": "methods"}  # of the flags that may be repeated
OWN = sorted({flag for _, names in SCHEMES.values() for flag in names})
flags.DEFINE_enum("scheme", None, list(SCHEMES), "The scheme.", required=True)
flags.DEFINE_multi_string("assistant", None, "A model of the zoo between teacher and student; by default halving sizes")
flags.DEFINE_boolean("dense", None, "Each assistant and the student learn from all networks before them.")
flags.DEFINE_integer("generations", None, "Number of generations after generation 0.", lower_bound=1)
flags.DEFINE_multi_string("method", None, "A method of every distillation, such as 'kd(temperature=4, weight=0.9)'")
flags.DEFINE_string("hard_weight", None, "Weight of the loss on the labels in every distillation.")


def main() -> None:
    function, names = SCHEMES[FLAGS.scheme]
    options = {name: given(name) for name in (*OWN, "weights") if given(name) is not None}
    for name in options.keys() - {*names, "weights"}:
        raise ValueError(f"--scheme={FLAGS.scheme} has the flags --{', --'.join(names)}, but received --{name}.")
    if "teacher" in names:
        options |= {name: value for name, value in teacher.teacher_options().items() if given(name) is not None}
        teachers = options.get("teacher", [None])
        options["teacher"] = teachers[0] if len(teachers) == 1 else teachers
    if "hard_weight" in options:
        options["hard_weight"] = parse_weight(options["hard_weight"], "--hard_weight")
    options = {PLURALS.get(name, name): value for name, value in options.items()}
    outcome = function(student=FLAGS.student, run=FLAGS.run, overwrite=FLAGS.overwrite, **options, **recipe_options())
    print("\n".join(outcome.lines()))


if __name__ == "__main__":
    run_program(main)
