"""Distils a student from a trained teacher, or from several.

    python -m experiments.distill --teacher=runs/teacher --student=mobilenet_v2 --dataset=digits \\
        --method="kd(temperature=4, weight=0.9)" --hard_weight=0.1 --run=runs/student

Unlabelled images (a folder of them) need --hard_weight=0. With --recording=DIR, which experiments.record writes, the
teacher's answers are read; --teacher need not be given, and where it is, its answers to one batch are compared.
"""

import keras
import tensorflow as tf
from absl import app, flags

from experiments import arguments, devices, teachers, training
from experiments.runs import Run
from kd_keras import Distiller, distribute
from kd_keras.contracts import mismatch
from kd_keras.methods import Method

FLAGS = flags.FLAGS
arguments.define_data()
arguments.define_training()
arguments.define_model("student", "mobilenet_v2")
teachers.define_teacher()
devices.define_devices()
devices.define_survival()
flags.adopt_module_key_flags(arguments)
flags.adopt_module_key_flags(devices)
flags.adopt_module_key_flags(teachers)
flags.DEFINE_string("recording", None, "A teacher's recorded answers to the views of the same flags.")
flags.DEFINE_multi_string("method", ["kd"], "A method, such as 'kd(temperature=4, weight=0.9)'; repeat to combine.")
flags.DEFINE_float("hard_weight", 1.0, "Weight of the loss on the labels; 0 needs no labels.", lower_bound=0.0)


def main(_: list[str]) -> None:
    arguments.quiet()
    methods = [arguments.parse_method(text) for text in FLAGS.method]
    if not (FLAGS.teacher or FLAGS.recording):
        raise ValueError(mismatch("--teacher= or --recording=", "neither"))
    with devices.chosen() as strategy:
        distil(strategy, methods)


def distil(strategy: tf.distribute.Strategy, methods: list[Method]) -> None:
    with distribute.chief_first(strategy):
        run = Run(FLAGS.run, FLAGS.overwrite and distribute.is_chief(strategy))
        images = None if run.complete else training.load_images()
    if images is None:
        print(f"{run.path} is complete: nothing to do.")
        return
    devices.begin(strategy)
    with strategy.scope():
        live = teachers.load_teacher(images) if FLAGS.teacher else None
        teacher = teachers.load_recorded(images, live) if FLAGS.recording else live
        keras.utils.set_random_seed(FLAGS.seed)  # loading a teacher draws numbers, and a recorded one draws none
        classes = images.train.classes or teacher.tapped(["logits"]).specs["logits"].shape[-1]
        student = training.network(FLAGS.student, images, classes)
    taught = sum(network.count_params() for network in live.networks) if live else 0
    print(f"Distilling {' and '.join(FLAGS.teacher or [FLAGS.recording])} ({taught:,} parameters)", end=" ")
    print(f"into {FLAGS.student} ({student.count_params():,}) on {images.train.size:,} images.")
    known = training.teacher_accuracy(live, images) if live else None
    with strategy.scope():
        distiller = Distiller(student=student, teacher=teacher, methods=methods, hard_weight=FLAGS.hard_weight)
    training.fit(distiller, images, run, strategy, known, teacher.recording if FLAGS.recording else None)


if __name__ == "__main__":
    app.run(main)
