"""Trains a network on labels, without distillation: a teacher, or the baseline of a student.

    python -m experiments.train --model=resnet20 --data=digits --shift=1 --run=runs/teacher

The same command resumes an interrupted run.
"""

from absl import flags

import kd_keras
from experiments.flags import data, devices, training
from experiments.flags.program import recipe_options, run_program

FLAGS = flags.FLAGS
data.define_data()
data.define_views()
training.define_model("model", "resnet20")
training.define_training()
devices.define_devices()
devices.define_survival()
for group in (data, training, devices):
    flags.adopt_module_key_flags(group)


def main() -> None:
    kd_keras.train(
        model=FLAGS.model, run=FLAGS.run, weights=FLAGS.weights, overwrite=FLAGS.overwrite, **recipe_options()
    )


if __name__ == "__main__":
    run_program(main)
