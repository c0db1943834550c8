"""Do student and teacher look at the same part of an image? Their Grad-CAM maps side by side."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
from scipy.stats import rankdata

from kd_keras.errors import explain_mismatch
from kd_keras.evaluation.base import inputs_of
from kd_keras.networks.taps import Tapped
from kd_keras.teacher import Teacher

AREA = 0.2  # the share of an image's pixels whose overlap is measured


def attention_maps(
    model: keras.Model | Teacher, images: np.ndarray, classes: np.ndarray, batch_size: int = 128
) -> np.ndarray:
    """Grad-CAM (Selvaraju et al. 2017, 1610.02391, equations 1 and 2) of the last stage of more than one pixel.

    The map is ReLU(sum_k a_k A_k), where A_k are the stage's channels and a_k the mean over pixels of the gradient of
    the class's logit by A_k; it is resized bilinearly to the images' size and divided by its largest value.

    Args:
        model: a `Teacher` of one network with its preprocessing, or a Keras model that reads images in 0..1.
        images: `(N, H, W, C)` uint8.
        classes: `(N,)` integers: the class of each image that is asked about, in the images' order of classes.
        batch_size: images of one forward and backward pass.

    Returns:
        `(N, H, W)` float32 in [0, 1]. Zero everywhere where nothing in the image speaks for the class.

    Raises:
        ValueError: where the model has no such stage or is several networks.

    >>> layers = [keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3), keras.layers.GlobalAveragePooling2D()]
    >>> network = keras.Sequential([*layers, keras.layers.Dense(3)])
    >>> attention_maps(network, np.zeros((2, 8, 8, 1), "uint8"), np.array([0, 2])).shape
    (2, 8, 8)
    """
    read, network = inputs_of(model)
    tapped = Tapped(network, ["logits", "stages"], output=False)
    sizes = [tuple(spec.shape[1:3]) for spec in tapped.specs["stages"]]
    if max(sizes) == (1, 1):
        raise ValueError(explain_mismatch(f"a stage of several pixels of {network.name!r}", f"{sizes}"))
    last = max(number for number, size in enumerate(sizes) if size != (1, 1))
    order = model.class_order if isinstance(model, Teacher) else None
    asked = classes if order is None else np.asarray(order)[classes]

    @tf.function(reduce_retracing=True)
    def run(batch: tf.Tensor, which: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            inputs = read(batch)
            tape.guard(inputs)
            taps = tapped(inputs, training=False)[1]
            score = tf.reduce_sum(tf.gather(taps["logits"], which, batch_dims=1))
        stage = taps["stages"][last]
        weights = tf.reduce_mean(tape.gradient(score, stage), (1, 2), keepdims=True)
        maps = tf.nn.relu(tf.reduce_sum(tf.cast(weights * stage, tf.float32), -1, keepdims=True))
        maps = tf.image.resize(maps, images.shape[1:3])[..., 0]
        return tf.math.divide_no_nan(maps, tf.reduce_max(maps, (1, 2), keepdims=True))

    starts = range(0, len(images), batch_size)
    return np.concatenate([run(images[i : i + batch_size], asked[i : i + batch_size]).numpy() for i in starts])


def attention(student: np.ndarray, teacher: np.ndarray) -> Iterator[tuple[str, float]]:
    """Yields how alike two models' maps of the same images and classes are, as means over images.

    * `attention_correlation` in [-1, 1], Spearman's rank correlation over pixels;
    * `attention_overlap` in [0, 1], the intersection over union of the fifth of the pixels that is largest in each, as
      far as they are above zero.

    An image of which a map is constant, such as zero everywhere, has neither; NaN where none is left.

    Args:
        student: `(N, H, W)`.
        teacher: `(N, H, W)`, the teacher's of the same images and classes.

    Raises:
        ValueError: where the shapes differ.

    >>> ramp = np.arange(10.0).reshape(1, 2, 5)
    >>> dict(attention(ramp, ramp.max() - ramp))
    {'attention_correlation': -1.0, 'attention_overlap': 0.0}
    """
    if student.shape != teacher.shape:
        raise ValueError(explain_mismatch("maps (N, H, W) of the same images", f"{student.shape} and {teacher.shape}"))
    one, other = (maps.reshape(len(maps), -1) for maps in (student, teacher))
    varied = (one.max(-1) > one.min(-1)) & (other.max(-1) > other.min(-1))
    if not varied.any():
        yield from (("attention_correlation", float("nan")), ("attention_overlap", float("nan")))
        return
    one, other = one[varied], other[varied]
    yield "attention_correlation", float((_ranks(one) * _ranks(other)).mean())
    top, wanted = _top(one), _top(other)
    yield "attention_overlap", float(((top & wanted).sum(-1) / (top | wanted).sum(-1)).mean())


def _ranks(maps: np.ndarray) -> np.ndarray:
    """`(N, P)`: the ranks of each row's pixels, equal ones sharing theirs, at mean 0 and deviation 1."""
    ranks = rankdata(maps, axis=-1)
    return (ranks - ranks.mean(-1, keepdims=True)) / ranks.std(-1, keepdims=True)


def _top(maps: np.ndarray) -> np.ndarray:
    """`(N, P)` bool: the fifth of the pixels that is largest, and with it all that equal its least."""
    count = max(1, round(AREA * maps.shape[-1]))
    least = np.sort(maps, axis=-1)[:, -count]
    return (maps >= least[:, None]) & (maps > 0)
