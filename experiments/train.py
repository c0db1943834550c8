"""Trains a network on labels alone: a teacher, or a student to compare with.

    python -m experiments.train --model=resnet20 --dataset=digits --shift=1 --run=runs/teacher
"""

from absl import app, flags

from experiments import arguments, training
from experiments.runs import Run
from kd_keras import Distiller
from kd_keras.contracts import mismatch

FLAGS = flags.FLAGS
arguments.define_data()
arguments.define_training()
arguments.define_model("model", "resnet20")
flags.adopt_module_key_flags(arguments)


def main(_: list[str]) -> None:
    arguments.quiet()
    run = Run(FLAGS.run, FLAGS.overwrite)
    if run.complete:
        print(f"{run.path} is complete: nothing to do.")
        return
    images = training.load_images()
    training.begin(FLAGS.seed)
    if not images.train.labelled:
        raise ValueError(mismatch("labelled images to train on", f"{FLAGS.dataset!r}, unlabelled"))
    model = training.network(FLAGS.model, images, images.train.classes)
    print(f"Training {FLAGS.model} ({model.count_params():,} parameters) on {images.train.size:,} images.")
    training.fit(Distiller(student=model), images, run)


if __name__ == "__main__":
    app.run(main)
