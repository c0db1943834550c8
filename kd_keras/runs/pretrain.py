"""Pretrains a network without labels: it follows the features of a teacher on any images."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kd_keras import data as room
from kd_keras.data.selection import take_evenly
from kd_keras.data.shared_examples import warn_of_shared
from kd_keras.distiller import Distiller
from kd_keras.errors import explain_mismatch
from kd_keras.methods import Method
from kd_keras.networks.embedding_networks import remove_classifier
from kd_keras.private_api import sub_layers
from kd_keras.runs import devices, students
from kd_keras.runs.distill import Request
from kd_keras.runs.images import Images
from kd_keras.runs.methods import make_methods
from kd_keras.runs.parsing import parse_call
from kd_keras.runs.recipe import DEFAULTS, Data, Recipe, make_recipe
from kd_keras.runs.run import Run
from kd_keras.runs.session import Session, open_session, train_student
from kd_keras.runs.settings import GivenObject, Settings
from kd_keras.runs.sources import open_source
from kd_keras.runs.students import Network
from kd_keras.runs.teachers import TEACHER_OPTIONS, TeacherOptions, TeacherSource
from kd_keras.runs.unlabeled import open_unlabeled
from kd_keras.tasks.pretraining import Pretraining
from kd_keras.training.throughput import ReportThroughput

logger = logging.getLogger("kd_keras")
# The published schedule, that of LightlyTrain's distillation.
SCHEDULE: dict[str, Any] = {
    "epochs": 100,
    "mixup": 1.0,
    "optimizer": "adamw",
    "learning_rate": 5e-4,
    "scale_learning_rate": "sqrt",
    "base_batch_size": 1536,
    "clip_norm": 1.0,
}
LARS_RATE = 1.8  # its learning rate, for the same base_batch_size
WEIGHT_DECAY, WEIGHT_DECAY_OF_TRANSFORMERS = 1e-6, 0.04
TRANSFORMERS = ("vit", "deit", "dino", "swin", "siglip")  # in the names of models
METHODS = ("queue", "tokens")
PROBED = 10000  # labeled images, and as many test images, that measure the embeddings


def pretrain(
    *,
    data: Data,
    teacher: TeacherSource | None = None,
    student: Network = "mobilenet_v2",
    methods: Sequence[str | Method] = METHODS,
    run: str | os.PathLike,
    recording: str | os.PathLike | None = None,
    labeled: Data | None = None,
    labeled_split: str = "train",
    weights: str | os.PathLike | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Run:
    """Pretrains a network on images without labels. It resumes, reports and handles SIGTERM as `train` does.

    The student's embedding, and its last map, follow the teacher's by the methods "queue" and "tokens", the combined
    loss of version 3 of LightlyTrain's distillation (based on Fang et al. 2021, 2101.04731, and Liu et al. 2019,
    1903.04197). "queue" alone is its version 1, "dense" alone its version 2. Each method has a linear layer of its own,
    which the run does not keep; the student's classifier is taken off before the training.

    The defaults are the published ones: a new mixup of every batch with ratios that are uniform from 0 to 1, AdamW with
    the rate 5e-4 times the square root of batch_size / 1536 and a cosine schedule, weight decay 1e-6 (0.04 for
    transformers), gradients clipped at norm 1, a queue of a third of the images, at most 8192. `optimizer="lars"`, for
    large batches, has the rate 1.8 and the coupled weight decay 1e-6. Published trainings have 100 to 3000 epochs; here
    100 is the default. Further augmentation is up to the user: `flip=True`, `resized_crop=True`.

    The run contains the network from images to embeddings. `kd_keras.train(model=RUN, data=LABELED)` puts a new
    classifier on it and fine-tunes; `freeze_backbone=True` trains only the classifier. A detector or a segmentation
    network takes its layers: `weights=RUN/model.keras`.

    Args:
        data: a folder with images in it and in its folders, to any depth; a text file of paths; the name of a dataset,
            a `Source` or a `tf.data.Dataset`, whose labels are not used. Damaged files are left out with a warning.
            Images of several sizes need `image_size=`.
        teacher: as for `distill`; `None` for a recorded teacher.
        student: as for `distill`; its number of classes does not matter.
        methods: methods that need no labels, as for `distill`.
        run: the directory of the run.
        recording: directory of the recorded outputs of a teacher, as for `distill`. `record` makes it with
            `unlabeled=True`, the same data, seed, batch size and augmentation, of which `mixup=1.0` is a default here.
        labeled: images with classes, on which the embeddings are measured after each tested epoch. They train nothing.
            Nearest neighbors (`val_knn`) and a linear probe (`val_linear_probe`) are fitted to `labeled_split` and
            tested on `test_split` of `test_data`, by default of `labeled`. At most 10,000 images of each are used,
            spread evenly.
        labeled_split: the split of `labeled` to which the neighbors and the probe are fitted.
        weights: a file to start the student from, as for `train`.
        overwrite: whether to delete an earlier run in that directory.
        **options: as for `distill`.

    Returns:
        The run; `run.model()` has the output `(B, D)`.

    Raises:
        TypeError: if an option is unknown, or a value is of the wrong type; no run is created.
        FileNotFoundError: if a text file of paths does not exist, or a dataset is neither prepared nor downloadable.
        ValueError: if the request is invalid, `data` names neither a dataset nor a folder, or no image can be decoded;
            no run is created.
        FloatingPointError: if the loss or gradients are not finite.

    >>> import tempfile
    >>> from kd_keras.runs.train import train
    >>> folder = tempfile.mkdtemp()
    >>> tiny = {"data": "digits", "data_dir": folder, "epochs": 2, "test_every": 2}
    >>> teacher = train(model="mlp(hidden=(8,))", **tiny, run=f"{folder}/teacher")
    >>> run = pretrain(teacher=teacher, student="mlp(hidden=(4,))", methods=["queue"], **tiny, run=f"{folder}/run")
    >>> run.model().output_shape
    (None, 4)
    """
    for_teacher = {name: options.pop(name) for name in TEACHER_OPTIONS if name in options}
    request = Request(
        teacher=teacher, teacher_options=TeacherOptions(**for_teacher), student=student, methods=methods,
        hard_weight=0.0, recording=recording, weights=weights,
    )  # fmt: skip
    published = _published_options(student, options.get("optimizer", SCHEDULE["optimizer"]))
    given = {name: value for name, value in options.items() if value is not None or name not in published}
    recipe = make_recipe(False, data=data, **{**published, **given})
    request.check(run if overwrite else None)
    if labeled is None and recipe.test_data is not None:
        raise ValueError("test_data= measures the embeddings together with labeled=, but received no labeled=.")
    probe = {"labeled": _setting(labeled), "labeled_split": labeled_split}
    values = {name: value for name, value in request.settings(recipe).values.items() if name != "hard_weight"}
    settings = Settings({**values, **probe}, {**DEFAULTS, "labeled": None, "labeled_split": "train"})
    load = functools.partial(_load_images, labeled=labeled, labeled_split=labeled_split)
    with devices.chosen_strategy(recipe) as strategy:
        with open_session(run, settings, recipe, strategy, overwrite, load) as session:
            return session if isinstance(session, Run) else _pretrain(session, request)


def queue_size(images: int) -> int:
    """The length of the queue for a number of images: a third of them, at most 8192.

    >>> queue_size(50), queue_size(100000)
    (16, 8192)
    """
    return max(1, min(8192, images // 3))


def with_queue_size(method: str | Method, size: int) -> str | Method:
    """The method "queue" with a length, unless it has one; any other method as it is.

    >>> [with_queue_size(method, 333) for method in ("queue(temperature=0.1)", "queue(size=9)", "at")]
    ['queue(size=333, temperature=0.1)', 'queue(size=9)', 'at']
    """
    if not isinstance(method, str) or method.partition("(")[0].strip() != "queue":
        return method
    arguments = {"size": size, **parse_call(method)[1]}
    return f"queue({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"


def is_transformer(student: Network) -> bool:
    """Whether a student is a vision transformer, by its name or by its layers.

    >>> is_transformer("deit_tiny"), is_transformer("resnet20")
    (True, False)
    """
    if isinstance(student, keras.Model):
        return any("attention" in type(layer).__name__.lower() for layer in sub_layers(student))
    name = os.fspath(student).partition("(")[0].lower()
    return isinstance(student, str) and students.names_model(student) and any(word in name for word in TRANSFORMERS)


def _published_options(student: Network, optimizer: str) -> dict[str, Any]:
    """The published schedule, with the learning rate and the weight decay of an optimizer."""
    if optimizer == "lars":
        return {**SCHEDULE, "learning_rate": LARS_RATE, "weight_decay": 0.0, "coupled_weight_decay": WEIGHT_DECAY}
    decay = WEIGHT_DECAY_OF_TRANSFORMERS if is_transformer(student) else WEIGHT_DECAY
    return {**SCHEDULE, "weight_decay": decay, "coupled_weight_decay": 0.0}


def _setting(labeled: Data | None) -> Any:
    if labeled is None or isinstance(labeled, (str, os.PathLike)):
        return labeled and os.fspath(labeled)
    return GivenObject(f"labeled images ({type(labeled).__name__})")


def _load_images(recipe: Recipe, labeled: Data | None, labeled_split: str) -> Images:
    """The images to train on, without labels, and the test images if there are labeled ones.

    Raises:
        ValueError: if an option needs labels, if there are no images, or if the labeled ones do not fit.
    """
    train = open_unlabeled(recipe)
    if labeled is None:
        return Images(recipe, train, None, Pretraining())
    test_data = labeled if recipe.test_data is None else recipe.test_data
    if _are_same(labeled, labeled_split, test_data, recipe.test_split):
        expected = "test images that differ from the labeled images"
        advice = "pass test_data= or another test_split="
        raise ValueError(explain_mismatch(expected, f"the split {labeled_split!r} of one dataset for both", advice))
    names = ((labeled, labeled_split), (test_data, recipe.test_split))
    known, test = (_load_labeled(recipe, train, images, split) for images, split in names)
    warn_of_shared(known, test, "labeled images")
    task = Pretraining(*(functools.partial(_batches, recipe, images, train) for images in (known, test)))
    task.check_classes(known, test)
    return Images(recipe, train, test, task)


def _are_same(labeled: Data, labeled_split: str, test_data: Data, test_split: str) -> bool:
    if isinstance(labeled, (str, os.PathLike)) and isinstance(test_data, (str, os.PathLike)):
        return (os.fspath(labeled), labeled_split) == (os.fspath(test_data), test_split)
    return labeled is test_data  # an object has no splits


def _load_labeled(recipe: Recipe, train: room.Source, images: Data, split: str) -> room.Source:
    """Labeled images that measure the embeddings; of many, evenly spread ones."""
    source = open_source(images, split, recipe.data_dir, **recipe.reading)
    channels = train.examples.element_spec["image"].shape[-1]
    if not source.has_labels:
        expected = "labeled images to measure the embeddings"
        raise ValueError(explain_mismatch(expected, f"{source.name!r} without labels"))
    if source.examples.element_spec["image"].shape[-1] != channels:
        advice = "pass image_channels=1 for gray or 3 for colors"
        expected = f"labeled images of {channels} channels, as for training"
        raise ValueError(explain_mismatch(expected, f"others in {source.name!r}", advice))
    if source.size > PROBED:
        logger.info(
            "Of %d labeled images of %s every %dth is used.", source.size, source.name, -(-source.size // PROBED)
        )
    return take_evenly(source, PROBED) if source.size > PROBED else source


def _batches(recipe: Recipe, source: room.Source, train: room.Source) -> tf.data.Dataset:
    size = recipe.image_size or (train.image_shape or ())[:2] or None
    return room.evaluation(source, batch_size=recipe.batch_size, image_size=size)


def _pretrain(session: Session, request: Request) -> Run:
    images, recipe = session.images, session.recipe
    size = queue_size(images.train.size)
    sized = [with_queue_size(method, size) for method in request.methods]
    with session.building():
        _, teacher = request.load_teachers(images)
        keras.utils.set_random_seed(recipe.seed)
        methods = make_methods(sized, examples=images.train.size, batch_size=recipe.batch_size)
        whole = students.build_network(request.student, images, None, request.weights)
        network = remove_classifier(whole)
        trainable = students.prepare_training(network, request.student, request.weights, recipe)
        distiller = Distiller(student=network, teacher=teacher, methods=methods, hard_weight=0.0)
    logger.info(
        "Pretraining %s (%s parameters, embeddings of %d dimensions) on %s images without labels.",
        students.describe(request.student), f"{network.count_params():,}", network.output_shape[-1],
        f"{images.train.size:,}",
    )  # fmt: skip
    known = {"hard_weight": 0.0, "embedding_dimension": network.output_shape[-1]}
    progress = ReportThroughput(images.train.size, images.steps, recipe.epochs)
    return train_student(session, distiller, known, callbacks=[progress], trainable=trainable)
