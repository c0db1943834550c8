"""Prints a table of the costs of all models of the zoo, or with --model the costs and the taps of some models.

    python -m experiments.models --image_size=32,32 --classes=100
    python -m experiments.models --model="shufflenet_v2(width=0.5)" --model=applications/ResNet50 --image_size=224,224
    python -m experiments.models --model=runs/teacher

A run or a file has its own image size and classes.
"""

from absl import flags

from experiments.flags import devices
from experiments.flags.program import pair, run_program
from kd_keras.runs.devices import works_here
from kd_keras.runs.tables import model_tables, zoo_table

FLAGS = flags.FLAGS
devices.define_place()
flags.adopt_module_key_flags(devices)
text = "A model of the zoo, such as 'mlp(hidden=(32,))', a run or a .keras file"
flags.DEFINE_multi_string("model", [], text)
flags.DEFINE_list("image_size", ["32", "32"], "Height,width of the images, in pixels.")
flags.DEFINE_integer("channels", 3, "Channels of the images.", lower_bound=1)
flags.DEFINE_integer("classes", 100, "Number of classes.", lower_bound=2)


def main() -> None:
    if not works_here(FLAGS.strategy):
        return
    shape = (*pair("image_size"), FLAGS.channels)
    if not FLAGS.model:
        for line in zoo_table(shape, FLAGS.classes):
            print(line, flush=True)
    for model in FLAGS.model:
        print(model_tables(model, shape, FLAGS.classes))


if __name__ == "__main__":
    run_program(main)
