"""Tf-KD with a virtual teacher: Yuan et al. 2020, *Revisiting Knowledge Distillation via Label Smoothing*, 1909.11723.

    python -m experiments.scheme --scheme=virtual_teacher --student=resnet20 --accuracy=0.9 --share=0.9 \\
        --data=cifar10 --epochs=60 --flip --crop=4 --run=runs/virtual
"""

from __future__ import annotations

import os
from typing import Any

from kd_keras.errors import check_number, check_whole_number
from kd_keras.runs import devices, train
from kd_keras.runs.images import load_images
from kd_keras.runs.recipe import Data, make_recipe
from kd_keras.schemes.outcome import Outcome


def virtual_teacher_smoothing(classes: int, *, accuracy: float = 0.9, share: float = 0.9) -> float:
    """The label smoothing that equals a virtual teacher at temperature 1, section 4.2.

    The virtual teacher gives the probability a to the true class y, and (1 - a) / (K - 1) to each of the others. The
    loss is (1 - s) CE(y, p) + s KL(teacher || p), equation 9. Without the teacher's entropy, which is constant, this is
    the cross entropy with labels that are smoothed by e = s K (1 - a) / (K - 1): the true class has 1 - e + e / K and
    each of the others e / K, as Keras smooths labels.

    The paper softens both sides by a temperature of 20; the authors' code applies the softmax to the probabilities
    themselves, so that its targets are nearly uniform. Neither is done here.

    Args:
        classes: K, at least 2.
        accuracy: a, above 1 / K and at most 1; the paper has at least 0.9.
        share: s, the share of the virtual teacher in the loss, in [0, 1].

    Returns:
        e, the `label_smoothing` of `Recipe`, in [0, 1).

    Raises:
        TypeError: if a value is not a number.
        ValueError: if a value is out of range.

    >>> round(virtual_teacher_smoothing(10), 4)
    0.1
    """
    classes = check_whole_number("virtual_teacher_smoothing", "classes", classes, least=2)
    accuracy = check_number("virtual_teacher_smoothing", "accuracy", accuracy, above=1 / classes, most=1)
    share = check_number("virtual_teacher_smoothing", "share", share, least=0, most=1)
    return share * classes * (1 - accuracy) / (classes - 1)


def train_with_virtual_teacher(
    *,
    student: str = "resnet20",
    accuracy: float = 0.9,
    share: float = 0.9,
    data: Data = "digits",
    run: str | os.PathLike,
    **options: Any,
) -> Outcome:
    """Trains a network on labels and a virtual teacher, as `train` with `label_smoothing=virtual_teacher_smoothing(K)`.

    Args:
        student: as the `model` of `train`.
        accuracy: as for `virtual_teacher_smoothing`.
        share: as for `virtual_teacher_smoothing`.
        data: labeled images, as `Recipe` describes.
        run: the directory of the run.
        **options: the other options of `train`.

    Returns:
        The run.

    Raises:
        TypeError: if an option is unknown, or a value is of the wrong type.
        ValueError: if the request is invalid.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> tiny = {"data": "digits", "data_dir": folder, "epochs": 2, "test_every": 2}
    >>> outcome = train_with_virtual_teacher(student="mlp(hidden=(8,))", **tiny, run=f"{folder}/run")
    >>> outcome.student.settings["label_smoothing"]
    '0.1'
    """
    if options.pop("label_smoothing", 0.0):
        raise ValueError("A virtual teacher chooses label_smoothing by its accuracy and share. Leave it out.")
    of_recipe = {name: value for name, value in options.items() if name not in ("overwrite", "weights")}
    recipe = make_recipe(data=data, **of_recipe)
    with devices.chosen_strategy(recipe):  # before TensorFlow runs its first operation
        classes = load_images(recipe).train.classes
    if classes is None:
        raise ValueError("A virtual teacher needs labeled images, but the images have no labels.")
    smoothing = round(virtual_teacher_smoothing(classes, accuracy=accuracy, share=share), 12)
    return Outcome((train(model=student, data=data, label_smoothing=smoothing, run=run, **options),))
