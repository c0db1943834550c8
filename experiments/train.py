"""Trains a network on labels alone: a teacher, or a student to compare with.

    python -m experiments.train --model=resnet20 --dataset=digits --shift=1 --run=runs/teacher
"""

import tensorflow as tf
from absl import app, flags

from experiments import arguments, devices, training
from experiments.runs import Run
from kd_keras import Distiller, distribute
from kd_keras.errors import explain_mismatch

FLAGS = flags.FLAGS
arguments.define_data()
arguments.define_training()
arguments.define_model("model", "resnet20")
devices.define_devices()
devices.define_survival()
flags.adopt_module_key_flags(arguments)
flags.adopt_module_key_flags(devices)


def main(_: list[str]) -> None:
    arguments.quiet()
    with devices.chosen() as strategy:
        train(strategy)


def train(strategy: tf.distribute.Strategy) -> None:
    with distribute.chief_first(strategy):
        run = Run(FLAGS.run, FLAGS.overwrite and distribute.is_chief(strategy))
        images = None if run.complete else training.load_images()
    if images is None:
        print(f"{run.path} is complete: nothing to do.")
        return
    devices.begin(strategy)
    if not images.train.labelled:
        raise ValueError(explain_mismatch("labelled images to train on", f"{FLAGS.dataset!r}, unlabelled"))
    with strategy.scope():
        model = training.network(FLAGS.model, images, images.train.classes)
        distiller = Distiller(student=model)
    print(f"Training {FLAGS.model} ({model.count_params():,} parameters) on {images.train.size:,} images.")
    training.fit(distiller, images, run, strategy)


if __name__ == "__main__":
    app.run(main)
