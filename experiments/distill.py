"""Distills a student from a trained teacher, from several, or from itself.

    python -m experiments.distill --teacher=runs/teacher --student=mobilenet_v2 --data=digits \\
        --method="kd(temperature=4, weight=0.9)" --run=runs/student

Unlabeled images (a folder of them) need --hard_weight=0. A network that teaches itself needs no --teacher:

    python -m experiments.distill --student=multi_exit/resnet20 --method=byot --run=runs/exits

With --recording=DIR, which experiments.record writes, the outputs of the teacher are read from the disk, and --teacher
is optional: if it is given, its outputs for one batch are compared with the recorded ones.
"""

from absl import flags

import kd_keras
from experiments.flags import data, devices, teacher, training
from experiments.flags.program import recipe_options, run_program
from kd_keras.runs.parsing import parse_weight

FLAGS = flags.FLAGS
data.define_data()
data.define_views()
training.define_model("student", "mobilenet_v2")
training.define_training()
teacher.define_teacher()
devices.define_devices()
devices.define_survival()
for group in (data, training, teacher, devices):
    flags.adopt_module_key_flags(group)
flags.DEFINE_string("recording", None, "Directory of a teacher's recorded outputs, recorded with the same data flags.")
flags.DEFINE_multi_string(
    "method", ["kd"], "A method, such as 'kd(temperature=4, weight=0.9)' or 'my_methods.py:Cosine(weight=1)'"
)
text = (
    "Weight of the loss on the labels, or {epoch: weight, ...}; with 0 no labels are needed; by default as published."
)
flags.DEFINE_string("hard_weight", None, text)
text = (
    "Train a trained student for its int8 files, which experiments.export writes; int8_lsq learns ranges by gradient."
)
flags.DEFINE_enum("quantize", None, ("int8", "int8_lsq"), text)
flags.DEFINE_multi_string("keep_float", [], "With --quantize: a convolution or dense layer that stays in float")
flags.DEFINE_integer("kernel_bits", 8, "With --quantize: 8, or 4 for kernels of 15 values.")


def main() -> None:
    kd_keras.distill(
        teacher=FLAGS.teacher,
        student=FLAGS.student,
        methods=FLAGS.method,
        hard_weight=None if FLAGS.hard_weight is None else parse_weight(FLAGS.hard_weight, "--hard_weight"),
        run=FLAGS.run,
        recording=FLAGS.recording,
        weights=FLAGS.weights,
        quantize=FLAGS.quantize,
        keep_float=FLAGS.keep_float,
        kernel_bits=FLAGS.kernel_bits,
        overwrite=FLAGS.overwrite,
        **teacher.teacher_options(),
        **recipe_options(),
    )


if __name__ == "__main__":
    run_program(main)
