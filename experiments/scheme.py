"""Runs a scheme made of several trainings, or of a network that teaches itself. The same command resumes it.

    python -m experiments.scheme --scheme=assistants --teacher=runs/resnet56 --assistant=resnet32 \\
        --assistant=resnet14 --student=resnet8 --data=cifar10 --run=runs/assistants

Every file of kd_keras/schemes has the paper of a scheme and its command. The runs are in the directory --run, and one
line for each of them is printed at the end.
"""

from absl import flags

from experiments.flags import data, devices, schemes, teacher, training
from experiments.flags.program import recipe_options, run_program

FLAGS = flags.FLAGS
data.define_data()
data.define_views()
training.define_model("student", "resnet8")
training.define_training()
teacher.define_teacher()
devices.define_devices()
devices.define_survival()
schemes.define_schemes()
for group in (data, training, teacher, devices, schemes):
    flags.adopt_module_key_flags(group)


def main() -> None:
    function, _ = schemes.SCHEMES[FLAGS.scheme]
    options = {**recipe_options(), **schemes.scheme_options()}
    outcome = function(run=FLAGS.run, overwrite=FLAGS.overwrite, **options)
    print("\n".join(outcome.lines()))


if __name__ == "__main__":
    run_program(main)
