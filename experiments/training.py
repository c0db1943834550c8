"""What `train` and `distill` share: from flags to data, from flags to a compiled Distiller, and the fit."""

from __future__ import annotations

import sys
import time
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from absl import flags

from experiments.arguments import integers, parse_call
from experiments.runs import Run
from kd_keras import Distiller, Teacher, data, models
from kd_keras.callbacks import Checkpoint
from kd_keras.contracts import mismatch
from kd_keras.evaluation import accuracy, answers
from kd_keras.weights import load_weights

FLAGS = flags.FLAGS


class Images(NamedTuple):
    """The sources of a run, and how their images are prepared."""

    train: data.Source
    test: data.Source | None
    image_size: tuple[int, int] | None
    normalisation: data.Normalisation

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` as the network reads it."""
        if not (self.image_size or self.train.image_shape):
            raise ValueError(mismatch("images of one size", f"{self.train.name}, of several", "--image_size=H,W"))
        channels = self.train.examples.element_spec["image"].shape[-1]
        return (*(self.image_size or self.train.image_shape[:2]), channels)

    def describe(self) -> dict[str, Any]:
        """What a result records of its data."""
        names = self.train.class_names
        return {
            "dataset": self.train.name,
            "classes": self.train.classes,
            "class_names": list(names) if names else None,
            "image_shape": list(self.shape),
            "mean": list(self.normalisation.mean),
            "std": list(self.normalisation.std),
        }


def load_images() -> Images:
    """The sources that the flags name; where the training images are unlabelled, a test set must be named."""
    train = data.load(FLAGS.dataset, FLAGS.train_split, FLAGS.data_dir)
    test = None
    if train.labelled or FLAGS.test_dataset:
        test = data.load(FLAGS.test_dataset or FLAGS.dataset, FLAGS.test_split, FLAGS.data_dir)
        if test.labelled and train.labelled and test.class_names != train.class_names:
            came = f"{train.class_names} and {test.class_names}"
            raise ValueError(mismatch("training and test images of the same classes, in one order", came))
        test = test if test.labelled else None
    normalisation = data.measure(train) if FLAGS.normalise else data.Normalisation()
    return Images(train, test, integers("image_size", 2), normalisation)


def network(text: str, images: Images, classes: int) -> keras.Model:
    """The network that a flag names, with the weights of --weights where that is given."""
    name, options = parse_call(text)
    model = models.build(name, images.shape, classes, **options)
    if FLAGS.weights:
        print(f"{FLAGS.weights}: {load_weights(model, FLAGS.weights)}")
    return model


def augmentation() -> data.Augmentation:
    return data.Augmentation(
        crop=FLAGS.crop,
        flip=FLAGS.flip,
        shift=FLAGS.shift,
        resized_crop=FLAGS.resized_crop,
        rand_augment=integers("rand_augment", 2),
        mixup=FLAGS.mixup,
        cutmix=FLAGS.cutmix,
    )


def teacher_accuracy(teacher: Teacher, images: Images) -> dict[str, float]:
    """What the student is to hold up against: the teacher's accuracy on the test images, where there are any."""
    if images.test is None:
        return {}
    test = data.evaluation(
        images.test,
        batch_size=FLAGS.batch_size,
        image_size=images.image_size,
        normalisation=images.normalisation,
    )
    known = dict(accuracy(answers(teacher, test)))
    print(f"The teacher's accuracy on {images.test.size:,} test images is {known['accuracy']:.4f}.")
    return {"teacher_accuracy": known["accuracy"]}


def view_options(images: Images) -> dict[str, Any]:
    """What the training views follow from, as the flags say; for `data.training` and `recording.record`."""
    return {
        "batch_size": FLAGS.batch_size,
        "image_size": images.image_size,
        "normalisation": images.normalisation,
        "augmentation": augmentation(),
        "seed": FLAGS.seed,
    }


def training_batches(images: Images, start_epoch: int, recorded: Any = None, **options: Any) -> tf.data.Dataset:
    """The training batches of the flags; with a recording its outputs ride in them."""
    if recorded is not None and FLAGS.views not in (None, recorded.views):
        raise ValueError(mismatch(f"--views={recorded.views}, as was recorded", str(FLAGS.views)))
    given = {"views": FLAGS.views, "recorded": recorded, "start_epoch": start_epoch}
    return data.training(images.train, **view_options(images), **given, **options)


def fit(
    distiller: Distiller,
    images: Images,
    run: Run,
    known: dict[str, float] | None = None,
    recorded: data.base.Recorded | None = None,
) -> None:
    """Trains a Distiller's student as the flags say, from the run's last checkpoint, and finishes the run.

    Args:
        distiller: not yet compiled.
        images: what it trains and is tested on.
        run: where everything is written.
        known: what else the result shall record.
        recorded: the teacher's outputs, where they are on disk.
    """
    run.begin()
    soft_labels = FLAGS.label_smoothing > 0 or FLAGS.mixup > 0 or FLAGS.cutmix > 0
    steps = data.steps_per_epoch(images.train, FLAGS.batch_size)
    compile_from_flags(distiller, steps, soft_labels, images.train.labelled or images.test is not None)
    checkpoint = Checkpoint(run.path / "checkpoint", FLAGS.test_every)
    start = checkpoint.restore(distiller)
    if start:
        print(f"Going on after epoch {start} of {FLAGS.epochs}.")
    train = training_batches(images, start, recorded, one_hot=soft_labels and images.train.labelled)
    view = {"batch_size": FLAGS.batch_size, "image_size": images.image_size, "normalisation": images.normalisation}
    view["one_hot"] = soft_labels
    test = data.evaluation(images.test, **view) if images.test else None
    begun = time.perf_counter()
    distiller.fit(
        train,
        validation_data=test,
        validation_freq=[*range(FLAGS.test_every, FLAGS.epochs, FLAGS.test_every), FLAGS.epochs],
        epochs=FLAGS.epochs,
        initial_epoch=start,
        steps_per_epoch=steps,
        shuffle=False,  # the pipeline has done it
        callbacks=[*run.callbacks(start), checkpoint, *([one_bar()] if FLAGS.test_every > 1 else [])],
        verbose=(0 if FLAGS.test_every > 1 else "auto" if sys.stdout.isatty() else 2),  # in a log a line an epoch
    )
    result = {
        "epochs": FLAGS.epochs,
        "seconds": round(time.perf_counter() - begun, 1),
        "seed": FLAGS.seed,
        **run.metrics(),
        **(known or {}),
        "parameters": distiller.student.count_params(),
        "data": images.describe(),
    }
    run.finish(distiller.student, result)
    if "val_accuracy" in result["last"]:
        print(f"{run.path}: accuracy {result['last']['val_accuracy']:.4f} after {FLAGS.epochs} epochs")


def one_bar() -> keras.callbacks.Callback:
    """One progress bar over all epochs, for many short ones, that moves at every test."""
    bar = keras.utils.Progbar(FLAGS.epochs, unit_name="epoch")

    def move(epoch: int, logs: dict[str, float]) -> None:
        if any(name.startswith("val_") for name in logs) or (epoch + 1) % FLAGS.test_every == 0:
            bar.stateful_metrics = set(logs)
            bar.update(epoch + 1, list(logs.items()))

    return keras.callbacks.LambdaCallback(on_epoch_end=move)


def compile_from_flags(distiller: Distiller, steps: int, soft_labels: bool, labelled: bool) -> None:
    """Compiles with the optimizer, the schedule and the loss of the flags."""
    rate = learning_rate(FLAGS.epochs * steps, round(FLAGS.warmup_epochs * steps))
    decay = {"weight_decay": FLAGS.weight_decay or None}
    optimizer = {
        "sgd": lambda: keras.optimizers.SGD(rate, momentum=0.9, **decay),
        "adam": lambda: keras.optimizers.Adam(rate, **decay),
        "adamw": lambda: keras.optimizers.AdamW(rate, weight_decay=FLAGS.weight_decay),
    }[FLAGS.optimizer]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if soft_labels:
        loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=FLAGS.label_smoothing)
    distiller.compile(optimizer=optimizer, loss=loss if labelled else None, metrics=["accuracy"] if labelled else None)


def learning_rate(steps: int, warmup: int) -> Any:
    """The learning rate over `steps` updates, with a linear warm-up over the first ones."""
    peak = FLAGS.learning_rate
    if warmup and FLAGS.schedule != "cosine":
        raise ValueError(mismatch("--schedule=cosine with --warmup_epochs", f"--schedule={FLAGS.schedule}"))
    if FLAGS.schedule == "constant":
        return peak
    if FLAGS.schedule == "steps":
        marks = [round(steps * part) for part in (5 / 8, 6 / 8, 7 / 8)]
        return keras.optimizers.schedules.PiecewiseConstantDecay(marks, [peak, peak / 10, peak / 100, peak / 1000])
    if not warmup:
        return keras.optimizers.schedules.CosineDecay(peak, steps)
    return keras.optimizers.schedules.CosineDecay(0.0, steps - warmup, warmup_target=peak, warmup_steps=warmup)


def begin(seed: int) -> None:
    """Seeds every generator, and says what device there is; after the data, whose preparing may draw numbers too."""
    keras.utils.set_random_seed(seed)
    devices = ", ".join(device.name for device in tf.config.get_visible_devices() if device.device_type != "CPU")
    print(f"Training on {devices or 'the CPU'}.")
