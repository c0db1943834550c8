"""What `train` and `distill` share: from flags to data, from flags to a compiled Distiller, and the fit."""

from __future__ import annotations

import sys
import time
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from absl import flags

from experiments import devices
from experiments.arguments import integers, parse_call
from experiments.runs import Run
from kd_keras import Distiller, Teacher, callbacks, data, distribute, models
from kd_keras.errors import explain_mismatch
from kd_keras.evaluation import accuracy, predict
from kd_keras.networks.loading import load_weights
from kd_keras.recording.reader import Recording
from kd_keras.training import Checkpoint, NonFinite, Position

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
            raise ValueError(explain_mismatch("images of one size", f"{self.train.name}, of several", "--image_size=H,W"))
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
    train = train.without(integers("without_classes")) if FLAGS.without_classes else train
    test = None
    if train.labelled or FLAGS.test_dataset:
        test = data.load(FLAGS.test_dataset or FLAGS.dataset, FLAGS.test_split, FLAGS.data_dir)
        if test.labelled and train.labelled and test.class_names != train.class_names:
            came = f"{train.class_names} and {test.class_names}"
            raise ValueError(explain_mismatch("training and test images of the same classes, in one order", came))
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
    known = dict(accuracy(predict(teacher, test)))
    print(f"The teacher's accuracy on {images.test.size:,} test images is {known['accuracy']:.4f}.")
    return {"teacher_accuracy": known["accuracy"]}


def fit(
    distiller: Distiller,
    images: Images,
    run: Run,
    strategy: tf.distribute.Strategy,
    known: dict[str, float] | None = None,
    recorded: Recording | None = None,
) -> None:
    """Trains a Distiller's student as the flags say, from the run's last checkpoint, and finishes the run.

    Args:
        distiller: not yet compiled.
        images: what it trains and is tested on.
        run: where the chief writes everything.
        strategy: what the Distiller was built under.
        known: what else the result shall record.
        recorded: the teacher's outputs, where they are on disk.
    """
    chief, begun = distribute.is_chief(strategy), time.perf_counter()
    if chief:
        run.begin()
    steps = data.steps_per_epoch(images.train, FLAGS.batch_size, FLAGS.drop_remainder)
    with strategy.scope():
        compile_from_flags(distiller, steps, images.train.labelled or images.test is not None, devices.jit(strategy))
    often = {"every_epochs": FLAGS.test_every, "every_steps": FLAGS.checkpoint_every, "keep": FLAGS.keep}
    checkpoint = Checkpoint(run.path / "checkpoint", writes=chief, **often)
    start = checkpoint.restore(distiller)
    if any(start):
        within = f" and {start.step} of {steps} steps of the next" * (start.step > 0)
        print(f"Going on after epoch {start.epoch} of {FLAGS.epochs}{within}.", flush=True)
    distribute.seed_replicas(strategy, distiller)
    indexed = any(method.needs_index for method in distiller.methods)
    callbacks.fit(
        distiller,
        checkpoint,
        lambda at: distribute.batches(
            strategy, lambda share: training_batches(images, at, recorded, share=share, with_index=indexed)
        ),
        epochs=FLAGS.epochs,
        steps_per_epoch=steps,
        callbacks=lambda at: watching(images, run, at, chief),
        shuffle=False,  # the pipeline has done it
        # In a log, a line an epoch.
        verbose=0 if FLAGS.test_every > 1 or not chief else "auto" if sys.stdout.isatty() else 2,
        **testing(images, strategy),
    )
    if chief:
        known = {"seconds": round(time.perf_counter() - begun, 1), **(known or {})}
        conclude(distiller, checkpoint, images, run, known)


def view_options(images: Images) -> dict[str, Any]:
    """What the training views follow from, as the flags say; for `data.training` and `recording.record`."""
    return {
        "batch_size": FLAGS.batch_size,
        "image_size": images.image_size,
        "augmentation": augmentation(),
        "normalisation": images.normalisation,
        "seed": FLAGS.seed,
        "drop_remainder": FLAGS.drop_remainder,
    }


def training_batches(
    images: Images, at: Position, recorded: Recording | None = None, **options: Any
) -> tf.data.Dataset:
    """The training images from a position on, with the recorded outputs where there are any."""
    if recorded is not None and FLAGS.views not in (None, recorded.views):
        raise ValueError(explain_mismatch(f"--views={recorded.views}, as was recorded", str(FLAGS.views)))
    return data.training(
        images.train,
        start_epoch=at.epoch,
        start_step=at.step,
        one_hot=soft_labels() and images.train.labelled,
        views=FLAGS.views if recorded is None else recorded.views,
        recorded=recorded,
        sharding=FLAGS.sharding,
        **view_options(images),
        **options,
    )


def testing(images: Images, strategy: tf.distribute.Strategy) -> dict[str, Any]:
    """What `fit` is told of the test images."""
    if images.test is None:
        return {}
    view = {"batch_size": FLAGS.batch_size, "image_size": images.image_size, "normalisation": images.normalisation}
    view["one_hot"] = soft_labels()
    batches = distribute.batches(strategy, lambda share: data.evaluation(images.test, share=share, **view))
    return {
        "validation_data": batches,
        "validation_steps": data.steps_per_epoch(images.test, FLAGS.batch_size),
        "validation_freq": [*range(FLAGS.test_every, FLAGS.epochs, FLAGS.test_every), FLAGS.epochs],
    }


def watching(images: Images, run: Run, at: Position, chief: bool) -> list[keras.callbacks.Callback]:
    """The callbacks of a `fit` that begins at a position: all watch for what is not finite, the chief writes logs."""

    def replay(epoch: int, step: int) -> Any:
        return next(iter(training_batches(images, Position(epoch, step), with_index=True)))

    guard = NonFinite(FLAGS.on_nonfinite, run.path if chief else None, replay, at)
    if not chief:
        return [guard]
    return [guard, *run.callbacks(at.epoch), *([one_bar()] if FLAGS.test_every > 1 else [])]


def conclude(
    distiller: Distiller, checkpoint: Checkpoint, images: Images, run: Run, known: dict[str, float]
) -> None:
    """Saves the student and the result."""
    result = {
        "epochs": FLAGS.epochs,
        "seed": FLAGS.seed,
        **run.metrics(),
        **known,
        "parameters": distiller.student.count_params(),
        "data": images.describe(),
    }
    run.finish(distiller.student, result, best=lambda: checkpoint.restore(distiller, best=True))
    if "val_accuracy" in result["last"]:
        print(f"{run.path}: accuracy {result['last']['val_accuracy']:.4f} after {FLAGS.epochs} epochs")


def soft_labels() -> bool:
    return FLAGS.label_smoothing > 0 or FLAGS.mixup > 0 or FLAGS.cutmix > 0


def one_bar() -> keras.callbacks.Callback:
    """One progress bar over all epochs, for many short ones, that moves at every test."""
    bar = keras.utils.Progbar(FLAGS.epochs, unit_name="epoch")

    def move(epoch: int, logs: dict[str, float]) -> None:
        if any(name.startswith("val_") for name in logs) or (epoch + 1) % FLAGS.test_every == 0:
            bar.stateful_metrics = set(logs)
            bar.update(epoch + 1, list(logs.items()))

    return keras.callbacks.LambdaCallback(on_epoch_end=move)


def compile_from_flags(distiller: Distiller, steps: int, labelled: bool, jit: bool | str) -> None:
    """Compiles with the optimizer, the schedule and the loss of the flags."""
    rate = learning_rate(devices.learning_rate(), FLAGS.epochs * steps, round(FLAGS.warmup_epochs * steps))
    decay = {"weight_decay": FLAGS.weight_decay or None}
    optimizer = {
        "sgd": lambda: keras.optimizers.SGD(rate, momentum=0.9, **decay),
        "adam": lambda: keras.optimizers.Adam(rate, **decay),
        "adamw": lambda: keras.optimizers.AdamW(rate, weight_decay=FLAGS.weight_decay),
    }[FLAGS.optimizer]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if soft_labels():
        loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=FLAGS.label_smoothing)
    if FLAGS.sync_batch_norm:
        print(f"{distribute.synchronize_batch_norm(distiller)} BatchNorms compute over the global batch.")
    distiller.compile(
        optimizer=optimizer,
        loss=loss if labelled else None,
        weighted_metrics=["accuracy"] if labelled else None,  # weighted: what fills up a last batch must not count
        jit_compile=jit,
        steps_per_execution=FLAGS.steps_per_execution,
    )


def learning_rate(peak: float, steps: int, warmup: int) -> Any:
    """The learning rate over `steps` updates, with a linear warm-up over the first ones."""
    if warmup and FLAGS.schedule != "cosine":
        raise ValueError(explain_mismatch("--schedule=cosine with --warmup_epochs", f"--schedule={FLAGS.schedule}"))
    if FLAGS.schedule == "constant":
        return peak
    if FLAGS.schedule == "steps":
        marks = [round(steps * part) for part in (5 / 8, 6 / 8, 7 / 8)]
        return keras.optimizers.schedules.PiecewiseConstantDecay(marks, [peak, peak / 10, peak / 100, peak / 1000])
    if not warmup:
        return keras.optimizers.schedules.CosineDecay(peak, steps)
    return keras.optimizers.schedules.CosineDecay(0.0, steps - warmup, warmup_target=peak, warmup_steps=warmup)
