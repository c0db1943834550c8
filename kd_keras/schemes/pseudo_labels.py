"""Labels of unlabeled images by a teacher, as a dataset that every program reads: pseudo-labels and noisy student.

Lee 2013, *Pseudo-Label*; Xie et al. 2020, *Self-training with Noisy Student improves ImageNet classification*,
1911.04252, section 2: keep what the teacher is confident of, and balance the classes.

    python -m experiments.label --teacher=runs/teacher --data=cifar10 --train_split=train[:5000] \\
        --unlabeled_split=train[5000:] --threshold=0.9 --per_class=2000 --name=cifar10_labeled --output=datasets
    python -m experiments.train --model=resnet20 --data=cifar10_labeled --data_dir=datasets \\
        --train_split=labeled+pseudo --flip --crop=4 --rand_augment=2,10 --run=runs/student

The noise of a noisy student is that of its training: augmentation, dropout. The student is the teacher of the next
round. Labels are hard; the paper's soft ones are those of `kd_keras.distill` with the same teacher.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kd_keras.data import Source, evaluation
from kd_keras.data.shared_examples import count_shared
from kd_keras.errors import check_number, check_whole_number, explain_mismatch
from kd_keras.evaluation import predict
from kd_keras.runs.images import Images, load_images
from kd_keras.runs.recipe import Data, Recipe, make_recipe
from kd_keras.runs.sources import open_source
from kd_keras.runs.teachers import TEACHER_OPTIONS, TeacherOptions, TeacherSource, load_teacher

VERSION = "1.0.0"


@dataclass(frozen=True)
class PseudoLabels:
    """A dataset with a teacher's labels.

    Attributes:
        directory: its folder, `<output>/<name>/1.0.0`. Its splits are "labeled", "pseudo" and, if there were test
            images, "test"; each example has an image, a label and the teacher's confidence in it, 1 for given labels.
        class_names: K names of the classes, or their numbers.
        confident: `(K,)` the number of images of each class that the teacher labeled with enough confidence.
        written: `(K,)` the number of examples of each class in the split "pseudo".
        correct: the share of confident labels that are right, or `None` if the images have no labels of their own.
    """

    directory: Path
    class_names: tuple[str, ...]
    confident: np.ndarray
    written: np.ndarray
    correct: float | None

    def lines(self) -> list[str]:
        """A line for each class, and one for all of them."""
        rows = zip(self.class_names, self.confident, self.written, strict=True)
        lines = [f"{name}: {confident:,} confident, {written:,} written" for name, confident, written in rows]
        right = "" if self.correct is None else f", {self.correct:.2%} of the confident labels are right"
        return [*lines, f"{self.directory}: {self.confident.sum():,} confident, {self.written.sum():,} written{right}"]


def label_images(
    *,
    teacher: TeacherSource,
    data: Data = "digits",
    unlabeled_split: str,
    unlabeled_data: Data | None = None,
    threshold: float = 0.9,
    per_class: int | None = None,
    name: str,
    output: str | os.PathLike,
    **options: Any,
) -> PseudoLabels:
    """Writes a dataset of labeled images and of unlabeled ones that a teacher has labeled.

    Args:
        teacher: as for `distill`.
        data: the labeled images and the test images, as `Recipe` describes; they are copied.
        unlabeled_split: the split of the images to label; labels that they have are only used to count errors.
        unlabeled_data: where these images are; by default in `data`.
        threshold: the least probability with which the teacher must predict a class, in [0, 1].
        per_class: the number of labeled images of each class. If more are confident, the most confident ones are used;
            if fewer are, they are repeated in turn. By default all confident images are used once.
        name: the name of the dataset, as TFDS allows it: small letters, digits and underscores.
        output: the directory of TFDS datasets to write it to. Programs read it with `data=name, data_dir=output`.
        **options: those of `TeacherOptions`, and those of `Recipe` for data.

    Raises:
        TypeError: if an option is unknown, or a value is of the wrong type.
        ValueError: if the request is invalid, the two splits are the same, the dataset exists, or the teacher is not
            confident of any image.

    >>> import tempfile
    >>> from kd_keras import models
    >>> folder, teacher = tempfile.mkdtemp(), models.build("mlp", (8, 8, 1), 10)
    >>> splits = {"train_split": "train[:100]", "unlabeled_split": "train[100:150]", "data_dir": folder}
    >>> labels = label_images(teacher=teacher, **splits, threshold=0.0, name="digits_labeled", output=folder)
    >>> int(labels.written.sum())
    50
    """
    threshold = check_number("label_images", "threshold", threshold, least=0, most=1)
    if per_class is not None:
        per_class = check_whole_number("label_images", "per_class", per_class)
    directory = _free_directory(Path(output), name)
    for_teacher = TeacherOptions(**{key: options.pop(key) for key in TEACHER_OPTIONS if key in options})
    recipe = make_recipe(data=data, **options)
    images = load_images(recipe)
    unlabeled = _open_unlabeled(recipe, unlabeled_data, unlabeled_split, images)
    batches = evaluation(unlabeled, batch_size=recipe.batch_size, image_size=recipe.image_size)
    live = load_teacher(teacher, images, for_teacher)
    known = max(2, live.tapped(["logits"]).specs["logits"].shape[-1])  # a single unit has two classes
    if known != images.train.classes:
        expected = f"a teacher of the {images.train.classes} classes of {images.train.name!r}"
        raise ValueError(explain_mismatch(expected, f"one of {known} classes"))
    predictions = predict(live, batches)
    probabilities = tf.nn.softmax(predictions.logits).numpy()
    copies = count_copies(probabilities, threshold, per_class)
    if not copies.any():
        received = f"{probabilities.max():.3f} at most for {unlabeled.name!r}"
        raise ValueError(explain_mismatch(f"predictions of probability {threshold:g}", received, "lower the threshold"))
    shapes = {source.image_shape for source in (unlabeled, images.train, images.test) if source}
    shape = shapes.pop() if len(shapes) == 1 else None
    _write(directory, shape, images.train, images.test, _labeled(unlabeled, probabilities, copies))
    confident = probabilities.max(-1) >= threshold
    classes, count = predictions.classes, probabilities.shape[-1]
    return PseudoLabels(
        directory,
        images.train.class_names or tuple(map(str, range(count))),
        np.bincount(classes[confident], minlength=count),
        np.bincount(classes, weights=copies, minlength=count).astype(int),
        None if predictions.labels is None else float(predictions.correct[confident].mean()),
    )


def count_copies(probabilities: np.ndarray, threshold: float, per_class: int | None = None) -> np.ndarray:
    """How often each image is written: 0 if the teacher is not confident of it.

    Args:
        probabilities: `(N, K)` of the teacher.
        threshold: the least probability of the predicted class.
        per_class: how many images each predicted class gets. Of more, those of the highest probability are used; fewer
            are repeated in turns, beginning with the highest probability. By default each image is used once.

    Returns:
        `(N,)` int64.

    >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6], [0.5, 0.5]])
    >>> count_copies(probabilities, 0.6, per_class=2).tolist()
    [1, 1, 0, 2, 0]
    """
    confidence, classes = probabilities.max(-1), probabilities.argmax(-1)
    copies = (confidence >= threshold).astype("int64")
    if per_class is None:
        return copies
    for number in range(probabilities.shape[-1]):
        members = np.flatnonzero(copies.astype(bool) & (classes == number))
        if len(members):
            members = members[np.argsort(-confidence[members], kind="stable")]
            whole, rest = divmod(per_class, len(members))
            copies[members] = whole + (np.arange(len(members)) < rest)
    return copies


def _free_directory(output: Path, name: str) -> Path:
    """The folder of a new dataset."""
    if not re.fullmatch("[a-z_][a-z0-9_]*", name):
        raise ValueError(
            "name must have only lowercase letters, digits and underscores, and not start with a digit, but received "
            f"{name!r}."
        )
    directory = output / name / VERSION
    if directory.exists():
        raise ValueError(f"{directory} exists already. Choose another name, or remove it.")
    return directory


def _open_unlabeled(recipe: Recipe, images: Data | None, split: str, given: Images) -> Source:
    """The images to label, which must be others than the labeled ones."""
    labeled = given.train
    if not labeled.has_labels:
        raise ValueError(
            f"Expected images with labels as data, but {labeled.name!r} has none. Pass these as unlabeled_data="
        )
    unlabeled = open_source(recipe.data if images is None else images, split, recipe.data_dir, **recipe.reading)
    for other in (labeled, *([] if given.test is None else [given.test])):
        is_same = (unlabeled.name, unlabeled.version, unlabeled.size) == (other.name, other.version, other.size)
        if shared := unlabeled.size if is_same else count_shared(unlabeled, other):
            raise ValueError(
                "The images to label must differ from the labeled images and from the test images, but "
                f"{shared:,} of {split!r} are also in {other.version or other.name!r}. Divide a split, such as "
                "train[:5000] and train[5000:]."
            )
    channels, expected = (side.examples.element_spec["image"].shape[-1] for side in (unlabeled, labeled))
    if channels != expected:
        advice = f"pass image_channels={min(channels, expected)}, or --image_channels in the shell"
        raise ValueError(explain_mismatch(f"images of {expected} channels to label", f"{channels} channels", advice))
    return unlabeled


def _labeled(source: Source, probabilities: np.ndarray, copies: np.ndarray) -> tf.data.Dataset:
    """The images of a source with the teacher's labels, as often as they are to be written."""
    labels, confidences = tf.constant(probabilities.argmax(-1)), tf.constant(probabilities.max(-1), tf.float32)
    repeats = tf.constant(copies)

    def label(example: dict[str, tf.Tensor]) -> tf.data.Dataset:
        index = example["index"]
        labeled = {"image": example["image"], "label": labels[index], "confidence": confidences[index]}
        return tf.data.Dataset.from_tensors(labeled).repeat(repeats[index])

    return source.examples.flat_map(label)


def _given(source: Source) -> tf.data.Dataset:
    """The images of a source with the labels that they have."""
    return source.examples.map(
        lambda example: {"image": example["image"], "label": example["label"], "confidence": tf.constant(1.0)}
    )


def _write(
    directory: Path,
    shape: tuple[int, int, int] | None,
    train: Source,
    test: Source | None,
    pseudo: tf.data.Dataset,
) -> None:
    """Writes the dataset by TFDS, which writes to a folder next to it and renames that at the end."""
    import tensorflow_datasets as tfds  # here, because it takes seconds and `import kd_keras` does not need it

    splits: dict[str, Any] = {"labeled": _given(train), "pseudo": pseudo}
    if test is not None:
        splits["test"] = _given(test)
    channels = train.examples.element_spec["image"].shape[-1]  # if images differ in size, shape is None
    label = (
        tfds.features.ClassLabel(names=list(train.class_names))
        if train.class_names
        else tfds.features.ClassLabel(num_classes=train.classes)
    )
    features = {
        "image": tfds.features.Image(shape=shape or (None, None, channels)),
        "label": label,
        "confidence": tfds.features.Scalar(np.float32),
    }
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # of progress bars
        tfds.dataset_builders.store_as_tfds_dataset(
            name=directory.parent.name,
            version=VERSION,
            features=tfds.features.FeaturesDict(features),
            split_datasets={name: _numbered(examples) for name, examples in splits.items()},
            data_dir=directory.parent.parent,
            description=f"Images of {train.name} with given labels, and others with the labels of a teacher.",
        )


def _numbered(examples: tf.data.Dataset) -> Iterator[tuple[int, dict[str, Any]]]:
    """Examples with a key each, as TFDS writes them."""
    yield from enumerate(examples.as_numpy_iterator())
