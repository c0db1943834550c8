"""Loads the images that a recipe names, and makes the batches for training and for tests."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kd_keras import data, distribute
from kd_keras.contracts import as_batch
from kd_keras.data.shared_examples import warn_of_shared
from kd_keras.errors import explain_mismatch
from kd_keras.networks.preprocessing import PixelStatistics
from kd_keras.recording.reader import Recording
from kd_keras.runs.datasets import unify_classes
from kd_keras.runs.recipe import Recipe
from kd_keras.runs.sources import check_class_names, check_ignored, open_source
from kd_keras.tasks import CLASSIFICATION, Task, find_task
from kd_keras.training import Position

FIXED = {"unit": PixelStatistics((0.0,), (255.0,)), "symmetric": PixelStatistics((127.5,), (127.5,))}


@dataclass(frozen=True)
class Images:
    """The images of a run.

    Args:
        recipe: how to make batches.
        train: examples to train on.
        test: labeled examples to test on, or `None`.
        task: what the labels are.
    """

    recipe: Recipe
    train: data.Source
    test: data.Source | None
    task: Task = CLASSIFICATION

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` as a network reads them.

        Raises:
            ValueError: if the images differ in size and the recipe has no `image_size`.
        """
        size = self.recipe.image_size or (self.train.image_shape or ())[:2]
        if not size:
            raise ValueError(
                f"The images of {self.train.name!r} must have one size, but they differ. Pass "
                "image_size=(height, width) or --image_size=HEIGHT,WIDTH."
            )
        return (*size, self.train.examples.element_spec["image"].shape[-1])

    def check_channels(self, network: keras.Model, role: str) -> None:
        """Checks that a network reads images with as many channels as these have.

        Args:
            network: a network with one input of images, or any other, which is not checked.
            role: what the network is, for the message.

        Raises:
            ValueError: if it reads gray images and these have colors, or the reverse.
        """
        shape = getattr(network, "input_shape", None)
        channels = self.train.examples.element_spec["image"].shape[-1]
        if isinstance(shape, tuple) and len(shape) == 4 and {shape[-1], channels} == {1, 3}:
            expected = (
                f"a {role} that reads the same kind of image as {self.train.name!r}, images of {channels} channels"
            )
            advice = f"pass image_channels={shape[-1]}, or --image_channels={shape[-1]} in the shell"
            received = f"{network.name!r}, which reads images of {shape[-1]} channels"
            raise ValueError(explain_mismatch(expected, received, advice))

    @functools.cached_property
    def normalization(self) -> PixelStatistics:
        """The normalization with which a model of the zoo starts; "fit" measures the training images, once."""
        normalization = self.recipe.normalization
        if isinstance(normalization, tuple):
            return PixelStatistics(*normalization)
        return FIXED[normalization] if normalization in FIXED else data.measure(self.train)

    def describe(self) -> dict[str, Any]:
        """The description of the data that a result records."""
        names = self.train.class_names
        return {
            "dataset": self.train.name,
            "classes": self.train.classes,
            "class_names": list(names) if names else None,
            "image_shape": list(self.shape),
        }

    @property
    def steps(self) -> int:
        """The number of batches in an epoch."""
        return data.steps_per_epoch(self.train, self.recipe.batch_size, self.recipe.drop_remainder)

    @property
    def view_options(self) -> dict[str, Any]:
        """The options that determine the training views, for `data.training` and `recording.record`."""
        recipe = self.recipe
        return {
            "batch_size": recipe.batch_size,
            "image_size": recipe.image_size,
            "augmentation": augmentation(recipe),
            "seed": recipe.seed,
            "drop_remainder": recipe.drop_remainder,
        }

    def training_batches(self, start: Position, recording: Recording | None = None, **options: Any) -> tf.data.Dataset:
        """The training batches from a position to the end of the training.

        Args:
            start: epoch and step of the first batch.
            recording: the recorded outputs of a teacher, which are joined to the batches.
            options: `batch_slice` and `with_index` of `data.training`.

        Raises:
            ValueError: if the recording has another number of views than the recipe.
        """
        views = self.recipe.views
        if recording is not None and views not in (None, recording.views):
            raise ValueError(
                f"Expected views={recording.views}, the number of views in the recording {recording.directory}, but "
                f"received views={views}. Leave out views=, or record again."
            )
        return data.training(
            self.train,
            start_epoch=start.epoch,
            start_step=start.step,
            one_hot=self.recipe.has_soft_labels and self.train.has_labels,
            views=views if recording is None else recording.views,
            recorded=recording,
            sharding=self.recipe.sharding,
            images_per_identity=self.recipe.images_per_identity,
            **self.view_options,
            **options,
        )

    def test_batches(self, **options: Any) -> tf.data.Dataset:
        """The test batches; `options` are `batch_slice` and `one_hot` of `data.evaluation`.

        Raises:
            ValueError: if there are no test images.
        """
        if self.test is None:
            raise ValueError(f"The recipe for {self.train.name!r} names no labeled test images. Pass test_data=.")
        return data.evaluation(
            self.test, batch_size=self.recipe.batch_size, image_size=self.recipe.image_size, **options
        )

    def test_options(self, strategy: tf.distribute.Strategy) -> dict[str, Any]:
        """The arguments of `fit` that concern the test images."""
        if self.test is None or self.task.is_open_set:
            return {}
        soft = self.recipe.has_soft_labels
        batches = distribute.batches(
            strategy, lambda batch_slice: self.test_batches(batch_slice=batch_slice, one_hot=soft)
        )
        return {
            "validation_data": batches,
            "validation_steps": data.steps_per_epoch(self.test, self.recipe.batch_size),
            "validation_freq": self.tested_epochs,
        }

    @property
    def tested_epochs(self) -> list[int]:
        """The epochs after which there is a test, counted from 1."""
        return [*range(self.recipe.test_every, self.recipe.epochs, self.recipe.test_every), self.recipe.epochs]

    def test_callbacks(self) -> list[keras.callbacks.Callback]:
        """The callbacks of `fit` that measure what the test images need besides `test_options`."""
        return [] if self.test is None else self.task.callbacks(self.test, self.test_batches, self.tested_epochs)


def load_images(recipe: Recipe) -> Images:
    """Loads the images that a recipe names.

    Raises:
        TypeError: if the data are of another type than `open_source` takes.
        ValueError: if they do not exist, training and test images have different classes, or the recipe has `ignored`
            values or `class_names` that these images do not have.
    """
    check_ignored(recipe.ignored, recipe.data, recipe.test_data)
    task = find_task(recipe.task, recipe.data, recipe.data_dir, recipe.download_timeout)
    train = open_source(recipe.data, recipe.train_split, recipe.data_dir, task=task, **recipe.reading)
    check_class_names(recipe.class_names, train)
    train = train.without(recipe.without_classes) if recipe.without_classes else train
    test = None
    if recipe.test_data is not None or (train.has_labels and isinstance(recipe.data, (str, os.PathLike))):
        test_data = recipe.data if recipe.test_data is None else recipe.test_data
        options = {**recipe.reading, "task": task, "class_names": train.class_names or recipe.class_names}
        test = open_source(test_data, recipe.test_split, recipe.data_dir, **options)
        warn_of_shared(train, test)
        channels, test_channels = (side.examples.element_spec["image"].shape[-1] for side in (train, test))
        if test_channels != channels:
            received = f"{test_channels} channels in {test.name!r}"
            advice = "pass image_channels=1 for gray or 3 for colors, or --image_channels in the shell"
            raise ValueError(explain_mismatch(f"test images of {channels} channels, as for training", received, advice))
        if not task.is_open_set and any(isinstance(images, tf.data.Dataset) for images in (recipe.data, test_data)):
            train, test = unify_classes(train, test)
        if test.has_labels and train.has_labels:
            task.check_classes(train, test)
        elif test.has_labels and test.class_names and not task.is_open_set:
            # The student's classes are those that it is tested on.
            train = replace(train, class_names=test.class_names, classes=test.classes)
        test = test if test.has_labels else None
    return Images(recipe, train, test, task)


def augmentation(recipe: Recipe) -> data.Augmentation:
    """The augmentation of a recipe."""
    return data.Augmentation(
        crop=recipe.crop,
        flip=recipe.flip,
        shift=recipe.shift,
        resized_crop=recipe.resized_crop,
        scale=recipe.scale,
        rand_augment=recipe.rand_augment,
        mixup=recipe.mixup,
        cutmix=recipe.cutmix,
        mosaic=recipe.mosaic,
    )


def read_images(source: data.Source, size: tuple[int, int] | tuple[()], batch_size: int) -> tuple[np.ndarray, Any]:
    """A source's images `(N, H, W, C)` uint8 in the size of the network, and their labels `(N, ...)` or `None`."""
    elements = data.evaluation(source, batch_size=batch_size, image_size=size or None)
    batches = [as_batch(element) for element in elements]
    images = np.round(np.concatenate([np.asarray(batch.inputs) for batch in batches])).astype("uint8")
    labels = [batch.label for batch in batches] if source.has_labels else []
    return images, tf.nest.map_structure(lambda *parts: np.concatenate(parts), *labels) if labels else None
