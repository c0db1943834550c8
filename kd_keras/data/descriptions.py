"""A description of training views in plain values, so that a recording can be compared with a training."""

from __future__ import annotations

from typing import Any

from kd_keras.data.base import Source
from kd_keras.data.examples import fits_in_memory, store
from kd_keras.data.settings import BatchSettings, ViewSettings
from kd_keras.errors import explain_mismatch


def describe_views(source: Source, views: ViewSettings, batching: BatchSettings) -> dict[str, Any]:
    """Everything that determines the pixels of the views of `training`.

    Batch size, remainder and order are included only if batches are mixed.

    Raises:
        ValueError: if the `repr` of the augmentation does not say what it does, or the source gives its examples in
            another order in each pass.

    >>> import tensorflow as tf
    >>> examples = tf.data.Dataset.range(2).map(lambda i: {"image": tf.zeros((4, 4, 1), tf.uint8), "index": i})
    >>> black = Source(examples, name="black", size=2, image_shape=(4, 4, 1))
    >>> describe_views(black, ViewSettings(), BatchSettings(batch_size=2))["dataset"]
    'black'
    """
    if " at 0x" in repr(views.augmentation):
        raise ValueError(
            f"The repr() of an augmentation must say what it does, but received {views.augmentation!r}. Make it a "
            "dataclass, or give it a __repr__ with all its settings."
        )
    if not source.has_one_order:
        expected = f"the same examples of {source.name!r} in the same order in each pass, for a recording"
        advice = "remove shuffle() and random changes of the images: the pipeline shuffles and augments"
        raise ValueError(explain_mismatch(expected, "other examples or another order in the second pass", advice))
    changes = views.changes_images or views.mixes_batches
    description = {
        "dataset": source.version or source.name,
        "examples": source.size,
        "image_size": list(views.image_size or (source.image_shape or ())[:2]),
        "augmentation": repr(views.augmentation) if changes else "none",
        "seed": views.seed if changes else "any",
    }
    if not views.mixes_batches:
        return description
    is_in_memory = batching.cache and fits_in_memory(source, store(source, views.image_size))
    shuffled = "shuffled in memory" if is_in_memory else "shuffled in a buffer"
    return description | {
        "batch_size": batching.batch_size,
        "drop_remainder": batching.drop_remainder,
        "order": shuffled if batching.shuffle else "as read",
    }
