"""Do student and teacher look at the same part of an image? Compares their Grad-CAM maps."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
from scipy.stats import rankdata

from kd_keras.evaluation.base import single_network
from kd_keras.networks.taps import Tapped
from kd_keras.teacher import Teacher

TOP_AREA = 0.2  # the fraction of an image's pixels whose overlap is measured


def attention_maps(
    model: keras.Model | Teacher, images: np.ndarray, classes: np.ndarray, batch_size: int = 128
) -> np.ndarray:
    """Grad-CAM (Selvaraju et al. 2017, 1610.02391, equations 1 and 2) of the last stage that has more than one pixel.

    The map is ReLU(sum_k a_k A_k): A_k are the stage's channels and a_k is the mean over pixels of the gradient of the
    class's logit with respect to A_k. It is resized bilinearly to the size of the images and divided by its maximum.

    Args:
        model: a Keras model, or a `Teacher` of one network, that reads pixel values from 0 to 255.
        images: `(N, H, W, C)` uint8.
        classes: `(N,)` integers: the class of each image whose logit is explained, in the order of the data's classes.
        batch_size: images per forward and backward pass, 128 by default.

    Returns:
        `(N, H, W)` float32 in [0, 1]; all zeros if nothing in the image supports the class.

    Raises:
        ValueError: if the model has no such stage or consists of several networks.

    >>> layers = [keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3), keras.layers.GlobalAveragePooling2D()]
    >>> network = keras.Sequential([*layers, keras.layers.Dense(3)])
    >>> attention_maps(network, np.zeros((2, 8, 8, 1), "uint8"), np.array([0, 2])).shape
    (2, 8, 8)
    """
    prepare, network = single_network(model)
    tapped = Tapped(network, ["logits", "stages"], output=False)
    sizes = [tuple(spec.shape[1:3]) for spec in tapped.specs["stages"]]
    if max(sizes) == (1, 1):
        raise ValueError(
            f"Grad-CAM needs a stage with several pixels, but the stages of {network.name!r} have sizes {sizes}. Build"
            " the model for larger images."
        )
    last = max(number for number, size in enumerate(sizes) if size != (1, 1))
    order = model.class_order if isinstance(model, Teacher) else None
    outputs = classes if order is None else np.asarray(order)[classes]

    @tf.function(reduce_retracing=True)
    def compute_maps(batch: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            inputs = prepare(batch)
            tape.watch(inputs)
            taps = tapped(inputs, training=False)[1]
            logits = taps["logits"]
            logits = tf.concat([-logits, logits], -1) if logits.shape[-1] == 1 else logits  # a unit's two classes
            score = tf.reduce_sum(tf.gather(logits, output, batch_dims=1))
        stage = taps["stages"][last]
        weights = tf.reduce_mean(tape.gradient(score, stage), (1, 2), keepdims=True)
        maps = tf.nn.relu(tf.reduce_sum(tf.cast(weights * stage, tf.float32), -1, keepdims=True))
        maps = tf.image.resize(maps, images.shape[1:3])[..., 0]
        return tf.math.divide_no_nan(maps, tf.reduce_max(maps, (1, 2), keepdims=True))

    batches = [slice(start, start + batch_size) for start in range(0, len(images), batch_size)]
    return np.concatenate([compute_maps(images[batch], outputs[batch]).numpy() for batch in batches])


def attention(student: np.ndarray, teacher: np.ndarray) -> Iterator[tuple[str, float]]:
    """Yields how similar two models' maps of the same images and classes are, as means over images.

    * `attention_correlation` in [-1, 1], Spearman's rank correlation over pixels;
    * `attention_overlap` in [0, 1], the intersection over union of the largest fifth of the pixels of each map,
      without pixels that are zero.

    An image for which one of the maps is constant, such as zero everywhere, has neither and is left out; both are NaN
    if no image is left.

    Args:
        student: `(N, H, W)`.
        teacher: `(N, H, W)`, the teacher's maps of the same images and classes.

    Raises:
        ValueError: if the shapes differ.

    >>> ramp = np.arange(10.0).reshape(1, 2, 5)
    >>> dict(attention(ramp, ramp.max() - ramp))
    {'attention_correlation': -1.0, 'attention_overlap': 0.0}
    """
    if student.shape != teacher.shape:
        raise ValueError(
            "Attention is compared on maps (N, H, W) of the same images, but the student's maps have shape"
            f" {student.shape} and the teacher's {teacher.shape}."
        )
    student, teacher = (maps.reshape(len(maps), -1) for maps in (student, teacher))
    varied = (student.max(-1) > student.min(-1)) & (teacher.max(-1) > teacher.min(-1))
    if not varied.any():
        yield from (("attention_correlation", float("nan")), ("attention_overlap", float("nan")))
        return
    student, teacher = student[varied], teacher[varied]
    yield "attention_correlation", float((_standardized_ranks(student) * _standardized_ranks(teacher)).mean())
    student_top, teacher_top = _top_pixels(student), _top_pixels(teacher)
    yield "attention_overlap", float(((student_top & teacher_top).sum(-1) / (student_top | teacher_top).sum(-1)).mean())


def _standardized_ranks(maps: np.ndarray) -> np.ndarray:
    """`(N, P)`: the ranks of each row's pixels, with mean 0 and deviation 1; equal pixels share their mean rank."""
    ranks = rankdata(maps, axis=-1)
    return (ranks - ranks.mean(-1, keepdims=True)) / ranks.std(-1, keepdims=True)


def _top_pixels(maps: np.ndarray) -> np.ndarray:
    """`(N, P)` bool: the largest fifth of the pixels, with all that equal the smallest of these."""
    count = max(1, round(TOP_AREA * maps.shape[-1]))
    threshold = np.sort(maps, axis=-1)[:, -count]
    return (maps >= threshold[:, None]) & (maps > 0)
