"""Prints a table of the methods: family, taps, parameters of their adapters for a pair of networks, weights, paper.

    python -m experiments.methods
    python -m experiments.methods --teacher=resnet32x4 --student=resnet8x4

The weights are the default weight of the method and the weight of the loss on the labels that was published with it.
"""

from absl import flags

from experiments.flags import devices
from experiments.flags.program import pair, run_program
from kd_keras.runs.devices import works_here
from kd_keras.runs.tables import method_table

FLAGS = flags.FLAGS
devices.define_place()
flags.adopt_module_key_flags(devices)
flags.DEFINE_string("teacher", "wrn_40_2", "The teacher of the pair, a model of the zoo.")
flags.DEFINE_string("student", "wrn_40_1", "The student of the pair, a model of the zoo.")
flags.DEFINE_list("image_size", ["32", "32"], "Height,width of the images, in pixels.")
flags.DEFINE_integer("classes", 100, "Number of classes.", lower_bound=2)


def main() -> None:
    if works_here(FLAGS.strategy):
        for line in method_table(FLAGS.teacher, FLAGS.student, (*pair("image_size"), 3), FLAGS.classes):
            print(line, flush=True)


if __name__ == "__main__":
    run_program(main)
