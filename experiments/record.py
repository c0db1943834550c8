"""Records a teacher's answers to views of the training images, once, to train students from.

    python -m experiments.record --dataset=cifar10 --teacher=runs/teacher --crop=4 --flip --views=10 \\
        --logits=top-5 --output=recordings/teacher
    python -m experiments.distill --dataset=cifar10 --student=resnet8 --crop=4 --flip --recording=recordings/teacher \\
        --run=runs/student

The data and augmentation flags must be those of the training; --batch_size only where mixup or cutmix mix a batch. The
same command goes on where it stopped. Several workers write parts of one recording with --shard=0/4 to --shard=3/4, or
by themselves where TF_CONFIG or Slurm names a cluster; the devices of one machine share every batch (--strategy).
--verify reads a finished one through.
"""

import re
from typing import Any

from absl import app, flags

from experiments import arguments, devices, teachers, training
from kd_keras import Teacher, distribute
from kd_keras.errors import explain_mismatch
from kd_keras.recording.format import TEMPERATURES
from kd_keras.recording.reader import Recording
from kd_keras.recording.writer import record

FLAGS = flags.FLAGS
arguments.define_data()
arguments.define_views()
teachers.define_teacher()
devices.define_local()
flags.adopt_module_key_flags(arguments)
flags.adopt_module_key_flags(devices)
flags.adopt_module_key_flags(teachers)
flags.DEFINE_string("output", None, "Directory of the recording.", required=True)
flags.DEFINE_multi_string("method", ["kd"], "A method whose taps of the teacher are recorded; repeat to combine.")
flags.DEFINE_string("logits", "float32", "How logits are kept: float32, float16 or top-<k>.")
flags.DEFINE_string("shard", None, "This worker's part, i/n with i from 0; by default all, or what a cluster says.")
flags.DEFINE_boolean("verify", False, "Only compare the checksums of a finished recording.")


def main(_: list[str]) -> None:
    arguments.quiet()
    if FLAGS.verify:
        verify()
        return
    if not FLAGS.teacher:
        raise ValueError(explain_mismatch("--teacher=", "none"))
    with devices.of_this_machine().scope():
        images = training.load_images()
        recording = record(
            FLAGS.output,
            teachers.load_teacher(images),
            images.train,
            taps=list(dict.fromkeys(tap for text in FLAGS.method for tap in arguments.parse_method(text).taps.teacher)),
            views=FLAGS.views or 1,
            logits=FLAGS.logits,
            part=part(),
            **training.view_options(images),
        )
    if recording is None:
        print(f"{FLAGS.output}: this part is done; others are missing.")
    else:
        report(recording)


def part() -> tuple[int, int]:
    """This worker's place and the number of workers: of --shard, of the cluster, or the only one."""
    if FLAGS.shard:
        numbers = re.fullmatch(r"(\d+)/(\d+)", FLAGS.shard)
        if not numbers:
            raise ValueError(explain_mismatch("--shard=i/n, such as 0/4", FLAGS.shard))
        return int(numbers[1]), int(numbers[2])
    return distribute.worker_rank()


def verify() -> None:
    """Reads a finished recording through; with --teacher its weights are compared too."""
    recording = Recording(FLAGS.output)
    recording.verify()
    if FLAGS.teacher:
        images = training.load_images()
        Teacher.recorded(FLAGS.output, live=teachers.load_teacher(images))
    print(f"{FLAGS.output}: every shard is whole.")
    report(recording)


def report(recording: Recording) -> None:
    """What there is, and how far the kept logits are from the teacher's."""
    print(f"{recording.directory}: {recording.views} views of {recording.examples:,} examples, "
          f"{', '.join(recording.specs)}, logits as {recording.plan['logits']}.")
    errors: list[dict[str, Any]] = [shard["error"] for shard in recording.plan["shards"] if shard["error"]]
    for name in (f"T={temperature}" for temperature in TEMPERATURES if errors):
        mean = sum(error[name][0] for error in errors) / len(errors)
        worst = max(error[name][1] for error in errors)
        print(f"KL(teacher || kept) at {name}: mean {mean:.2g}, greatest {worst:.2g} nats.")


if __name__ == "__main__":
    app.run(main)
