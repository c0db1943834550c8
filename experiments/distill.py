"""Distils a student from a trained teacher, from several, or from itself.

    python -m experiments.distill --teacher=runs/teacher --student=mobilenet_v2 --dataset=digits \\
        --method="kd(temperature=4, weight=0.9)" --hard_weight=0.1 --run=runs/student

Unlabelled images (a folder of them) need --hard_weight=0. A network that teaches itself needs no --teacher:

    python -m experiments.distill --student=multi_exit/resnet20 --method=byot --hard_weight=0 --run=runs/exits

With --recording=DIR, which experiments.record writes, the teacher's answers are read; --teacher need not be given, and
where it is, its answers to one batch are compared.
"""

import keras
import tensorflow as tf
from absl import app, flags

from experiments import arguments, devices, teachers, training
from experiments.runs import Run
from kd_keras import Distiller, Teacher, distribute
from kd_keras.errors import explain_mismatch
from kd_keras.methods import Method
from kd_keras.methods.schedules import Weight
from kd_keras.recording.teacher import RecordedTeacher

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
flags.DEFINE_string(
    "hard_weight", "1.0", "Weight of the loss on the labels, or {epoch: weight, ...}, as a method's; 0 needs no labels."
)


def main(_: list[str]) -> None:
    arguments.quiet()
    hard_weight = arguments.parse_weight(FLAGS.hard_weight, "hard_weight")
    check_methods([arguments.parse_method(text) for text in FLAGS.method])
    with devices.chosen() as strategy:
        distil(strategy, hard_weight)


def distil(strategy: tf.distribute.Strategy, hard_weight: Weight) -> None:
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
        known = {"examples": images.train.size, "batch_size": FLAGS.batch_size}
        methods = [arguments.parse_method(text, **known) for text in FLAGS.method]
        student = chosen_student(images, teacher, live, methods)
    taught = " and ".join(FLAGS.teacher or [FLAGS.recording or "itself"])
    size = f" ({sum(network.count_params() for network in live.networks):,} parameters)" if live else ""
    print(f"Distilling {taught}{size} into {FLAGS.student} ({student.count_params():,})", end=" ")
    print(f"on {images.train.size:,} images.")
    known = training.teacher_accuracy(live, images) if live else None
    with strategy.scope():
        distiller = Distiller(student=student, teacher=teacher, methods=methods, hard_weight=hard_weight)
    training.fit(distiller, images, run, strategy, known, teacher.recording if FLAGS.recording else None)


def chosen_student(
    images: training.Images, teacher: Teacher | RecordedTeacher | None, live: Teacher | None, methods: list[Method]
) -> keras.Model:
    """The student of the flags, as the methods train it."""
    if not (images.train.classes or teacher):
        raise ValueError(explain_mismatch("labelled images, or a --teacher=", f"{FLAGS.dataset!r}, unlabelled, and none"))
    classes = images.train.classes or teacher.tapped(["logits"]).specs["logits"].shape[-1]
    student = training.network(FLAGS.student, images, classes)
    for method in methods:
        chosen, student = student, method.student_from(student, live.networks[0] if live else None)
        if student is not chosen and live and live.class_order:
            remedy = "name the classes of the images in the teacher's order"
            raise ValueError(explain_mismatch(f"the images' classes in one order for {method.name}", "another order", remedy))
    return student


def check_methods(methods: list[Method]) -> None:
    """Refuses, before any data is loaded, what could not be trained."""
    wanting = [method.name for method in methods if method.taps.teacher]
    if wanting and not (FLAGS.teacher or FLAGS.recording):
        raise ValueError(explain_mismatch(f"--teacher= or --recording= for {', '.join(wanting)}", "neither"))
    if FLAGS.teacher and not wanting:
        raise ValueError(explain_mismatch("no --teacher=", f"{', '.join(FLAGS.teacher)}, which no --method= asks for"))
    first_stage = [method.name for method in methods if not method.trains_student]
    if first_stage:
        remedy = "run a method of two stages from Python, which hands on what the first one trained"
        raise ValueError(explain_mismatch("methods that teach the student", ", ".join(first_stage), remedy))


if __name__ == "__main__":
    app.run(main)
