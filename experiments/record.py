"""Records the outputs of a teacher for views of the training images, so that students can be trained from them.

    python -m experiments.record --data=cifar10 --teacher=runs/teacher --crop=4 --flip --views=10 \\
        --logits=top-5 --output=recordings/teacher
    python -m experiments.distill --data=cifar10 --student=resnet8 --crop=4 --flip \\
        --recording=recordings/teacher --run=runs/student
    python -m experiments.record --data=cifar10 --teacher=http://localhost:8501/v1/models/resnet --output=recordings/b

The flags of data, seed and augmentation must be those of the training, and with mixup or CutMix --batch_size too. The
same command resumes an interrupted recording. --teacher also takes what is no TensorFlow graph: teacher.onnx,
teacher.tflite, predictions.npz, or the address of a server in TensorFlow Serving's REST form. Several workers write
parts of one recording with --shard=0/4 to --shard=3/4, or without this flag if TF_CONFIG or Slurm describes a cluster.
The devices of one machine divide every batch (--strategy). --verify reads a complete recording and compares its
checksums.
"""

from absl import flags

import kd_keras
from experiments.flags import data, devices, teacher
from experiments.flags.program import recipe_options, run_program
from experiments.flags.recipes import parse_shard

FLAGS = flags.FLAGS
data.define_data()
data.define_views()
teacher.define_teacher()
devices.define_local()
for group in (data, teacher, devices):
    flags.adopt_module_key_flags(group)
flags.DEFINE_string("output", None, "Directory of the recording.", required=True)
flags.DEFINE_multi_string("method", ["kd"], "A method whose teacher taps are recorded")
flags.DEFINE_string("logits", "float32", "How logits are stored: float32, float16 or top-<k>.")
flags.DEFINE_string("shard", None, "Write part i of n, as i/n with i from 0; by default as the cluster, or everything.")
flags.DEFINE_boolean("unlabeled", False, "Read the images as pretrain does: without labels, folders to any depth.")
flags.DEFINE_boolean(
    "verify", False, "Only compare the checksums of a complete recording, and the weights of --teacher."
)


def main() -> None:
    kd_keras.record(
        teacher=FLAGS.teacher,
        output=FLAGS.output,
        methods=FLAGS.method,
        logits=FLAGS.logits,
        shard=parse_shard(FLAGS.shard) if FLAGS.shard else None,
        unlabeled=FLAGS.unlabeled,
        verify=FLAGS.verify,
        **teacher.teacher_options(),
        **recipe_options(),
    )


if __name__ == "__main__":
    run_program(main)
