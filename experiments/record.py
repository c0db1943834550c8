"""Records the outputs of a teacher for views of the training images, once, to train students from.

    python -m experiments.record --data=cifar10 --teacher=runs/teacher --crop=4 --flip --views=10 \\
        --logits=top-5 --output=recordings/teacher
    python -m experiments.distill --data=cifar10 --student=resnet8 --crop=4 --flip \\
        --recording=recordings/teacher --run=runs/student

The data and augmentation flags must be those of the training; --batch_size only if mixup or CutMix mix a batch. The
same command resumes. Several workers write parts of one recording with --shard=0/4 to --shard=3/4, or by themselves if
TF_CONFIG or Slurm names a cluster; the devices of one machine divide every batch (--strategy). --verify reads a
complete recording through.
"""

import re

from absl import flags

import kd_keras
from experiments.flags import data, devices, teacher
from experiments.flags.program import recipe_options, run_program

FLAGS = flags.FLAGS
data.define_data()
data.define_views()
teacher.define_teacher()
devices.define_local()
for group in (data, teacher, devices):
    flags.adopt_module_key_flags(group)
flags.DEFINE_string("output", None, "Directory of the recording.", required=True)
flags.DEFINE_multi_string("method", ["kd"], "A method whose teacher taps are recorded; repeat to combine.")
flags.DEFINE_string("logits", "float32", "How logits are stored: float32, float16 or top-<k>.")
flags.DEFINE_string("shard", None, "Write part i of n, i/n with i from 0; by default all, or what a cluster says.")
flags.DEFINE_boolean("verify", False, "Only compare the checksums of a complete recording.")


def main() -> None:
    numbers = re.fullmatch(r"(\d+)/(\d+)", FLAGS.shard or "0/1")
    if not numbers:
        raise ValueError(f"--shard must be i/n, such as 0/4, but received {FLAGS.shard!r}.")
    kd_keras.record(
        teacher=FLAGS.teacher,
        output=FLAGS.output,
        methods=FLAGS.method,
        logits=FLAGS.logits,
        shard=(int(numbers[1]), int(numbers[2])) if FLAGS.shard else None,
        verify=FLAGS.verify,
        **teacher.teacher_options(),
        **recipe_options(),
    )


if __name__ == "__main__":
    run_program(main)
